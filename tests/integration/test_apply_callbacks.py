"""Saving what was heard: in sets, by arrays, and to be read again as it was."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import astuple, replace
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage

from service.core.event import Callback
from service.core.evidence import apply_callback
from service.core.lifecycle import EvidenceKind, VmState
from service.core.refresh import RefreshPolicy
from service.core.vm import Change, Provenance, Vm, request_deletion
from service.errors import StorageError, StorageUnavailable
from service.storage import apply_callbacks, vms
from service.storage.engine import begin

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
PACE = RefreshPolicy()


async def one_bound(engine: AsyncEngine) -> tuple[Stage, Vm]:
    stage = Stage(engine, cloud={"faults": {"callbacks": {"lost": 1}}})
    await stage.submit(count=2)
    await stage.live(5)
    return stage, await stage.vm()


async def save(engine: AsyncEngine, latest: Iterable[Vm], changes: Iterable[Change] = ()) -> None:
    async with begin(engine) as conn:
        await apply_callbacks.save_applied(conn, list(latest), list(changes))


async def test_what_is_saved_is_read_again_column_by_column(engine: AsyncEngine):
    stage, vm = await one_bound(engine)
    vm = request_deletion(vm, "not needed", NOON - timedelta(hours=1))
    async with begin(engine) as conn:
        await vms.save(conn, [vm])
    told: dict[str, Any] = {
        "state": VmState.SHUTOFF, "provider_status": "caf\u00e9", "state_since": NOON, "seq": 7, "last_event_at": NOON,
        "next_refresh_at": NOON + timedelta(microseconds=1), "refresh_attempts": 3, "fixed_ip": "10.0.0.7",
        "floating_ip": "203.0.113.9", "deletion_announced": True, "ready": True, "stuck": True, "reason": "because",
        "active_at": NOON, "ready_at": NOON, "delete_due_at": NOON,
    }  # fmt: skip
    assert set(told) == set(apply_callbacks.CHANGED)
    for name, value in told.items():
        assert getattr(vm, name) != value, "each must be a change"
    changed = replace(vm, **told)
    other = await stage.vm(2)
    await save(engine, [changed])
    assert await stage.vms() == [changed, other]
    back = {name: getattr(vm, name) for name in told}
    await save(engine, [replace(changed, **back)])
    assert await stage.vms() == [vm, other]


async def test_a_transition_is_kept_as_it_was_made(engine: AsyncEngine):
    stage, vm = await one_bound(engine)
    source = Provenance(
        kind=EvidenceKind.EVENT, at=stage.world.clock.now(), now=stage.world.clock.now(), id=UUID(int=9)
    )
    callback = Callback(provider_id=vm.provider_id, about="create", status="build", state=VmState.BUILD)
    change = apply_callback(replace(vm, observed_at=None), callback, source, PACE)
    await save(engine, [change.vm], [change])
    (row,) = await stage.sql("SELECT * FROM transitions WHERE vm_no = 1 ORDER BY seq DESC LIMIT 1")
    assert change.transition is not None
    assert row[:-1] == astuple(change.transition)  # the last column is the transaction that recorded it


async def test_nothing_to_lock_and_nothing_to_save_asks_postgres_nothing(engine: AsyncEngine):
    async with begin(engine) as conn:
        assert await apply_callbacks.lock_bound(conn, []) == ({}, set())
        await apply_callbacks.save_applied(conn, [], [])


async def test_locking_finds_what_whole_rows_find(engine: AsyncEngine):
    _, vm = await one_bound(engine)
    async with begin(engine) as conn:
        assert vm.provider_id is not None
        found, _ = await apply_callbacks.lock_bound(
            conn, [(vm.submission_id, vm.provider_id), (vm.submission_id, 2**62)]
        )
        assert found == {(vm.submission_id, vm.provider_id): await vms.get(conn, *vm.ref)}


@pytest.mark.parametrize("status", ["A\u0000B", "\ud800"], ids=["nul", "surrogate"])
async def test_text_that_postgres_does_not_take_is_an_error_of_the_row_and_not_of_the_database(
    engine: AsyncEngine, status: str
):
    # The database being away is waited for without end; what cannot be stored must not look like it.
    _, vm = await one_bound(engine)
    with pytest.raises((StorageError, ValueError)) as raised:
        await save(engine, [replace(vm, provider_status=status)])
    assert not isinstance(raised.value, StorageUnavailable)

"""Nothing that is under way can be without a time at which somebody looks at it again: the schema says so."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.contract import Assignment
from service.core.lifecycle import ENDED, VmState
from service.core.submission import SubmissionState
from service.core.vm import Vm
from service.errors import StorageError
from service.storage.creations import Creation
from service.storage.engine import translated
from service.storage.rows import insert_many
from service.storage.submissions import Submission
from service.storage.tables import creations, metadata, submissions, vms

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=5)
ONE = UUID(int=1)
WORD = UUID(int=2)

SUBMISSION = Submission(
    submission_id=ONE,
    name="vm",
    count=1,
    spec={},
    policy={},
    reasons=[],
    warnings=[],
    requested_by="tests",
    next_creation_no=2,
    next_vm_no=2,
    created_at=NOON,
    deadline_at=LATER,
)
CREATION = Creation(
    submission_id=ONE, creation_no=1, vm_count=1, name="vm-1", due_at=NOON, created_at=NOON, deadline_at=LATER
)
VM = Vm(
    submission_id=ONE,
    vm_no=1,
    creation_no=1,
    state_since=NOON,
    flavor="n3-A100x1",
    environment="test1",
    created_at=NOON,
)
UNDER_WAY = [state for state in VmState if state not in ENDED and state is not VmState.REQUESTED]


@pytest.fixture(autouse=True)
async def a_submission_and_its_creation(conn: AsyncConnection) -> None:
    await insert_many(conn, submissions, [SUBMISSION])
    await insert_many(conn, creations, [CREATION])


async def refused(conn: AsyncConnection, table: Any, row: Any, constraint: str) -> None:
    with pytest.raises(StorageError, match=f'violates check constraint "{constraint}"'):
        async with translated(), conn.begin_nested():
            await insert_many(conn, table, [row])


async def taken(conn: AsyncConnection, table: Any, row: Any) -> None:
    async with conn.begin_nested() as savepoint:
        assert await insert_many(conn, table, [row]) == 1
        await savepoint.rollback()


async def test_a_requested_vm_waits_for_its_creation(conn: AsyncConnection) -> None:
    await taken(conn, vms, VM)


@pytest.mark.parametrize("state", UNDER_WAY)
async def test_a_vm_under_way_has_a_next_reading(conn: AsyncConnection, state: VmState) -> None:
    await taken(conn, vms, replace(VM, state=state, next_refresh_at=LATER))
    await refused(conn, vms, replace(VM, state=state), "vms_refresh_until_ended_check")


@pytest.mark.parametrize("state", sorted(ENDED))
async def test_a_vm_at_its_end_has_the_time_of_it_and_no_reading(conn: AsyncConnection, state: VmState) -> None:
    await taken(conn, vms, replace(VM, state=state, ended_at=NOON))
    await refused(conn, vms, replace(VM, state=state, next_refresh_at=LATER), "vms_ended_at_when_ended_check")
    await refused(
        conn, vms, replace(VM, state=state, ended_at=NOON, next_refresh_at=LATER), "vms_refresh_until_ended_check"
    )


async def test_a_vm_that_goes_on_has_no_end(conn: AsyncConnection) -> None:
    await refused(conn, vms, replace(VM, state=VmState.LOST, ended_at=NOON), "vms_ended_at_when_ended_check")


async def test_a_vm_wished_away_has_a_time_for_its_delete_until_it_ends(conn: AsyncConnection) -> None:
    wished = replace(VM, state=VmState.ACTIVE, next_refresh_at=LATER, desired_state="deleted")
    await taken(conn, vms, replace(wished, delete_due_at=LATER))
    await refused(conn, vms, wished, "vms_delete_due_check")
    await refused(conn, vms, replace(wished, desired_state="present", delete_due_at=LATER), "vms_delete_due_check")
    gone = replace(wished, state=VmState.DELETED, next_refresh_at=None, ended_at=NOON)
    await taken(conn, vms, gone)
    await refused(conn, vms, replace(gone, delete_due_at=LATER), "vms_delete_due_check")


async def test_a_contract_that_is_retried_has_a_time_for_it_and_no_other_has(conn: AsyncConnection) -> None:
    on_demand = replace(VM, state=VmState.ACTIVE, next_refresh_at=LATER)
    await taken(conn, vms, replace(on_demand, assignment=Assignment.RETRYING, contract_due_at=LATER))
    for assignment in Assignment:
        due = None if assignment is Assignment.RETRYING else LATER
        await refused(
            conn, vms, replace(on_demand, assignment=assignment, contract_due_at=due), "vms_contract_due_check"
        )


SENT = {"lease_token": WORD, "lease_until": LATER}
CREATION_STATES: dict[str, dict[str, Any]] = {
    "due": {},
    "calling": SENT,
    "unconfirmed": {"lookup_until": LATER},
    "answered": {"completed_at": NOON},
    "refused": {"completed_at": NOON},
    "cancelled": {"completed_at": NOON},
}


@pytest.mark.parametrize(("state", "more"), CREATION_STATES.items())
async def test_a_creation_is_due_until_it_is_settled(conn: AsyncConnection, state: str, more: dict[str, Any]) -> None:
    settled = "completed_at" in more
    row = replace(CREATION, creation_no=2, state=state, due_at=None if settled else LATER, **more)
    await taken(conn, creations, row)
    await refused(
        conn, creations, replace(row, due_at=LATER if settled else None), "creations_due_until_completed_check"
    )


async def test_a_creation_has_a_lease_while_it_is_called_and_only_then(conn: AsyncConnection) -> None:
    row = replace(CREATION, creation_no=2)
    await refused(conn, creations, replace(row, state="calling"), "creations_leased_while_calling_check")
    await refused(conn, creations, replace(row, **SENT), "creations_leased_while_calling_check")
    await refused(conn, creations, replace(row, state="unconfirmed"), "creations_lookup_while_unconfirmed_check")
    await refused(conn, creations, replace(row, lookup_until=LATER), "creations_lookup_while_unconfirmed_check")


@pytest.mark.parametrize("vm_count", [0, 21])
async def test_a_creation_asks_for_as_many_as_one_call_takes(conn: AsyncConnection, vm_count: int) -> None:
    row = replace(CREATION, creation_no=2, vm_count=vm_count)
    await refused(conn, creations, row, "creations_vm_count_fits_check")


async def test_a_submission_is_open_or_has_the_time_of_its_end(conn: AsyncConnection) -> None:
    another = replace(SUBMISSION, submission_id=WORD)
    for state in SubmissionState:
        ended = None if state is SubmissionState.OPEN else NOON
        await taken(conn, submissions, replace(another, state=state, ended_at=ended))
        wrong = replace(another, state=state, ended_at=NOON if ended is None else None)
        await refused(conn, submissions, wrong, "submissions_ended_when_not_open_check")


async def test_an_orphan_in_doubt_or_on_its_way_out_has_a_due_time(conn: AsyncConnection) -> None:
    table = metadata.tables["orphans"]
    for state in ("suspected", "found", "deleting", "gone", "adopted"):
        due = LATER if state in {"suspected", "deleting"} else None
        row = {
            "submission_id": ONE,
            "provider_id": 7,
            "creation_no": 1,
            "state": state,
            "reason": "?",
            "found_at": NOON,
        }
        async with conn.begin_nested() as savepoint:
            await conn.execute(table.insert().values(row | {"due_at": due}))
            await savepoint.rollback()
        with pytest.raises(StorageError, match="orphans_due_while_open_check"):
            async with translated(), conn.begin_nested():
                await conn.execute(table.insert().values(row | {"due_at": None if due else LATER}))

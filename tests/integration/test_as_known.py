"""The past as it happened and as far as it was known: each answer is a replay of the transitions, also of late ones."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as trying
from hypothesis import strategies as st
from operator_api import Api, serving
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import START, Stage

from service.core.lifecycle import ENDED, EvidenceKind, VmState
from service.core.vm import Transition, Vm
from service.queries import as_of, diff
from service.queries.diff import Moments
from service.runtime.runtime import Runtime
from service.storage import tables
from service.storage.engine import begin
from service.storage.rows import insert_many

STATES = [VmState.CREATING, VmState.BUILD, VmState.ACTIVE, VmState.SHUTOFF, VmState.ERROR, VmState.DELETED]
#: Seconds after the start: when it happened, and how much later it was recorded, sometimes hours.
moves = st.lists(
    st.tuples(st.integers(0, 40), st.one_of(st.integers(0, 3), st.integers(0, 60)), st.sampled_from(STATES)), max_size=8
)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def history(vm: Vm, drawn: list[tuple[int, int, VmState]]) -> list[Transition]:
    """Transitions in the order of recording, some of which happened before ones that were recorded earlier."""
    rows, state = [], VmState.REQUESTED
    for happened, late, to in sorted(drawn, key=lambda one: one[0] + one[1]):
        moved = "moved" if to != state else "unexpected"
        recorded = at(happened + late)
        seq, event = len(rows) + 1, EvidenceKind.EVENT
        rows.append(Transition(*vm.ref, seq, recorded, state, to, moved, to, event, None, at(happened)))
        state = to
    return rows


def replayed(rows: list[Transition], moment: datetime, known_at: datetime | None) -> VmState:
    """What a person works out from a list of transitions."""
    state = VmState.REQUESTED
    if known_at is None:
        known = [one for one in rows if one.at <= moment]
    else:
        known = [one for one in rows if one.at <= known_at and one.evidence_at <= moment]
        known.sort(key=lambda one: (one.evidence_at, one.seq))
    for one in known:
        state = one.to_state if one.verdict == "moved" else state
    return state


@pytest.fixture
async def three_vms(engine: AsyncEngine) -> tuple[AsyncEngine, list[Vm]]:
    stage = Stage(engine)
    await stage.submit(count=3)
    return engine, await stage.vms()


@trying(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    drawn=st.lists(moves, min_size=3, max_size=3),
    moment=st.integers(-5, 60),
    known=st.one_of(st.none(), st.integers(0, 110)),
    later=st.integers(1, 60),
)
async def test_as_of_a_moment_equals_a_replay_of_all_transitions_up_to_it(
    three_vms: tuple[AsyncEngine, list[Vm]], drawn: Any, moment: int, known: int | None, later: int
) -> None:
    engine, vms = three_vms
    rows = [history(vm, some) for vm, some in zip(vms, drawn, strict=True)]
    async with engine.connect() as conn:
        await insert_many(conn, tables.transitions, [one for some in rows for one in some])
        known_at = None if known is None else at(known)
        exists = moment >= 0
        found = await as_of.page(
            conn, at=at(moment), known_at=known_at, submission_id=None, state=None, after=None, limit=9
        )
        expected = [replayed(some, at(moment), known_at) for some in rows]
        assert [vm.state for vm in found] == (expected if exists else [])
        counted = await as_of.count(conn, at=at(moment), known_at=known_at)
        assert sum(counted.by_state.values()) == len(found)
        moments = Moments(at(moment), at(moment + later))
        differs = await diff.page(conn, moments, after=None, limit=9)
        assert [(one.change, one.state_from, one.state_to) for one in differs] == list(
            differences(rows, at(moment) if exists else None, at(moment + later))
        )
        total = await diff.total(conn, moments)
        assert sum(total.values()) == len(differs)
        await conn.rollback()


def differences(rows: list[list[Transition]], from_: datetime | None, to: datetime) -> Any:
    """What a person sees who compares two lists."""
    for some in rows if to >= START else []:
        before = None if from_ is None else replayed(some, from_, None)
        now = replayed(some, to, None)
        if before in ENDED or before == now:
            continue
        yield "gone" if now in ENDED else "appeared" if before is None else "changed", before, now


@pytest.fixture
async def api(runtime: Runtime) -> AsyncIterator[Api]:
    async with serving(runtime) as api:
        yield api


async def test_a_late_callback_changes_what_is_known_of_the_past_and_not_what_was_on_record(
    api: Api, runtime: Runtime
) -> None:
    """It was received at noon and applied an hour later, from the spool."""
    made = await api.submit()
    noon = runtime.clock.now()
    runtime.clock.advance(3600)
    async with begin(runtime.engine) as conn:
        await conn.execute(
            text(
                "INSERT INTO transitions (submission_id, vm_no, seq, at, from_state, to_state, verdict, claimed, evidence, evidence_at)"
                " VALUES (:id, 1, 1, :late, 'REQUESTED', 'CREATING', 'moved', 'CREATING', 'event', :noon)"
            ),
            {"id": made["submission_id"], "late": runtime.clock.now(), "noon": noon + timedelta(seconds=5)},
        )
    moment, now = _text(noon + timedelta(seconds=10)), _text(runtime.clock.now())
    for known, state in (("", "REQUESTED"), (f"&known_at={moment}", "REQUESTED"), (f"&known_at={now}", "CREATING")):
        fleet = await api.get(f"/v1/fleet/at?time={moment}{known}")
        assert fleet["fleet"]["by_state"] == {state: 1}
        (vm,) = await api.every(f"/v1/vms/at?time={moment}{known}")
        assert vm["state"] == state
    runtime.clock.advance(1)
    changed = await api.get(f"/v1/diff?from={moment}&to={now}")
    assert changed["total"] == {"appeared": 0, "gone": 0, "changed": 1}
    assert [(one["change"], one["state_from"], one["state_to"], one["changed"]) for one in changed["items"]] == [
        ("changed", "REQUESTED", "CREATING", ["state"])
    ]


async def test_a_difference_is_paged_and_read_strictly(api: Api, runtime: Runtime) -> None:
    before = _text(runtime.clock.now() - timedelta(seconds=1))
    await api.submit(count=5)
    now = _text(runtime.clock.now())
    runtime.clock.advance(10)
    whole = await api.every(f"/v1/diff?from={before}&to={now}")
    assert [one["change"] for one in whole] == ["appeared"] * 5
    assert await api.every(f"/v1/diff?from={before}&to={now}&limit=2") == whole
    for query, field in (
        (f"from={now}&to={before}", "body"),
        (f"from={before}", "to"),
        ("from=2026-03-01T12:00:00&to=2026-03-02T12:00:00", "from"),
        (f"from={before}&to=2030-01-01T00:00:00Z", "to"),
        (f"from={before}&to={now}&cursor=x", "cursor"),
    ):
        answer = await api.request("GET", f"/v1/diff?{query}")
        assert answer.status == 422, answer
        assert field in {one["field"] for one in answer.json["errors"]}, answer.json


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")

"""Questions about the past: what is answered for a moment is what was seen at that moment, and nothing is counted twice."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import START, Stage

from service.core.vm import Vm
from service.operations import deletion
from service.queries import as_of as as_of_queries
from service.queries.as_of import OffContract, VmAsOf
from service.storage.engine import begin

A100 = "A100-80G-PCIe"
RETRY = {"first_wait_seconds": 10, "max_wait_seconds": 40, "attempts": 50, "deadline_seconds": 5000}
REASSIGN = "/_sim/virtual-machines/{vm_id}/contract"
MISFORTUNE = {
    "callbacks": {"lost": 0.2, "repeated": 0.3, "reordered": 0.3, "nulled": 0.1, "unmatched": 0.1, "garbage": 0.1},
    "vms": {"boot_error": 0.1},
}


@dataclass(frozen=True)
class Snapshot:
    """What the record showed at a moment, kept aside."""

    at: datetime
    vms: list[Vm]


async def snapshot(stage: Stage) -> Snapshot:
    taken = Snapshot(stage.world.clock.now(), await stage.vms())
    stage.world.clock.advance(0.001)  # whatever happens next happens later
    return taken


def with_room(gpus: int, **changes: Any) -> dict[str, Any]:
    line = {"resource_name": A100, "resource_count": gpus}
    return {"contracts": [{"id": 41, "discounts": [line]}], **changes}


async def played(engine: AsyncEngine, *, seed: int) -> tuple[Stage, list[Snapshot]]:
    """A fleet's life with callbacks, losses, drift, contracts and deletions, with a snapshot of each step of it."""
    stage = Stage(engine, cloud=with_room(3, seed=seed, partial_assignment=True), resync_seconds=60)
    stage.misbehave(**MISFORTUNE)
    shots = [await snapshot(stage)]
    await stage.submit(count=7, contract_id=41, policy={"retry": RETRY})
    await stage.submit(count=2)

    async def live(seconds: float, step: float = 10) -> None:
        for _ in range(int(seconds // step)):
            await stage.live(step, step=step)
            shots.append(await snapshot(stage))

    await live(100)
    stage.change_contract(resource_count=5)
    for deed, provider_id in zip(("vanish", "stop", "delete"), stage.alive(), strict=False):
        stage.console(provider_id, deed)
    await live(150)
    for vm in (await stage.vms())[:4]:
        await deletion.delete(stage.rt, vm, caller="tests")
        shots.append(await snapshot(stage))
    await live(40, step=4)
    return stage, shots


async def listed(stage: Stage, at: datetime, *, state: str | None = None, limit: int = 1000) -> list[VmAsOf]:
    found: list[VmAsOf] = []
    async with begin(stage.engine) as conn:
        while True:
            after = (found[-1].submission_id, found[-1].vm_no) if found else None
            part = await as_of_queries.page(conn, at=at, submission_id=None, state=state, after=after, limit=limit)
            found += part
            if len(part) < limit:
                return found


async def counted(stage: Stage, at: datetime, **narrow: Any) -> as_of_queries.FleetAsOf:
    async with begin(stage.engine) as conn:
        return await as_of_queries.count(conn, at=at, **narrow)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_the_fleet_of_a_moment_is_what_was_seen_at_that_moment(engine: AsyncEngine, seed: int):
    stage, shots = await played(engine, seed=seed)
    for shot in shots:
        then = await listed(stage, shot.at, limit=4)
        assert [(vm.submission_id, vm.vm_no, vm.provider_id, vm.state, vm.since, vm.off_contract) for vm in then] == [
            (vm.submission_id, vm.vm_no, vm.provider_id, vm.state, vm.state_since, vm.on_demand_since is not None)
            for vm in shot.vms
        ]
    states = {vm.state.value for shot in shots for vm in shot.vms}
    assert {"REQUESTED", "CREATING", "BUILD", "ACTIVE", "DELETED"} <= states, "the play was too tame"
    assert await stage.sql("SELECT 1 FROM transitions WHERE verdict = 'unexpected'"), "the play was too tame"


async def test_the_numbers_and_the_list_behind_them_agree_at_every_moment(engine: AsyncEngine):
    stage, shots = await played(engine, seed=4)
    # At the very moments of transitions too, and just before them.
    moments = [at for (at,) in await stage.sql("SELECT DISTINCT at FROM transitions ORDER BY at")][::5]
    for at in [*(shot.at for shot in shots), *moments, *(at - timedelta(microseconds=1) for at in moments)]:
        numbers, then = await counted(stage, at), await listed(stage, at)
        assert numbers.by_state == Counter(vm.state.value for vm in then)
        assert numbers.off_contract == sum(vm.off_contract for vm in then)
        alive = [vm for vm in then if vm.state not in {"DELETED", "REFUSED", "CANCELLED"}]
        assert numbers.alive == len(alive)
        assert numbers.by_region == Counter(vm.region or "none" for vm in alive)
        assert numbers.by_flavor == Counter(vm.flavor for vm in alive)
        for state, number in numbers.by_state.items():
            assert len(await listed(stage, at, state=state)) == number
    for shot in shots:
        numbers = await counted(stage, shot.at)
        assert numbers.ever_ready == sum(vm.ready_at is not None for vm in shot.vms)


async def test_the_evidence_of_a_vm_then_is_what_had_moved_it(engine: AsyncEngine):
    stage, shots = await played(engine, seed=5)
    for shot in shots:
        for vm in await listed(stage, shot.at):
            row = await stage.sql(
                "SELECT to_state, at, evidence, evidence_id FROM transitions WHERE submission_id = :id AND vm_no = :no"
                " AND verdict = 'moved' AND at <= :at ORDER BY seq DESC LIMIT 1",
                id=vm.submission_id,
                no=vm.vm_no,
                at=shot.at,
            )
            assert row == ([(vm.state, vm.since, vm.evidence, vm.evidence_id)] if vm.evidence else [])


async def test_one_submission_is_counted_alone_and_nothing_before_it_was_asked_for(engine: AsyncEngine):
    stage = Stage(engine)
    first, second = await stage.submit(count=2), await stage.submit(count=3)
    await stage.live(20)
    now = (await snapshot(stage)).at
    of_each = [await counted(stage, now, submission_id=id_) for id_ in (first, second)]
    assert [one.alive for one in of_each] == [2, 3]
    assert (await counted(stage, now)).by_state == of_each[0].by_state + of_each[1].by_state
    before = await counted(stage, START - timedelta(days=1))
    assert (before.by_state, before.alive, before.ever_ready, before.off_contract) == ({}, 0, 0, 0)


# Off contract.


async def times(
    stage: Stage, *, since: datetime | None = None, until: datetime, limit: int = 1000
) -> list[OffContract]:
    found: list[OffContract] = []
    async with begin(stage.engine) as conn:
        while True:
            after = (found[-1].submission_id, found[-1].vm_no, found[-1].since) if found else None
            part = await as_of_queries.off_contract(
                conn, since=since, until=until, submission_id=None, after=after, limit=limit
            )
            found += part
            if len(part) < limit:
                return found


def kept(vms: list[Vm], now: datetime) -> dict[tuple[Any, int], float]:
    """The seconds on demand that the VMs' own rows count, those that still run included."""
    seconds = {
        vm.ref: vm.on_demand_seconds + ((now - vm.on_demand_since).total_seconds() if vm.on_demand_since else 0.0)
        for vm in vms
    }
    return {ref: count for ref, count in seconds.items() if count}


def summed(found: list[OffContract]) -> dict[tuple[Any, int], float]:
    seconds: dict[tuple[Any, int], float] = {}
    for one in found:
        key = (one.submission_id, one.vm_no)
        seconds[key] = seconds.get(key, 0.0) + one.seconds
    return seconds


async def off_contract_lives(engine: AsyncEngine, *, seed: int, reassign: bool) -> tuple[Stage, list[Snapshot]]:
    settings = {"reassign_path": REASSIGN} if reassign else {}
    stage = Stage(engine, cloud=with_room(2, seed=seed, partial_assignment=True), resync_seconds=60, **settings)
    shots = []
    await stage.submit(count=5, contract_id=41, policy={"retry": RETRY})
    await stage.submit(count=2, contract_id=41, policy={"on_contract_error": "keep"})
    await stage.submit(count=1, contract_id=41, policy={"on_contract_error": "fail"})
    await stage.submit(count=1, contract_id=99, policy={"retry": RETRY | {"then": "delete"}})
    for step in range(40):
        await stage.live(10)
        shots.append(await snapshot(stage))
        if step == 8:
            stage.change_contract(resource_count=4)
        if step == 15:
            # It falls off its contract, and has to be brought back: a second time of the same VM.
            on = [vm for vm in await stage.vms() if vm.assignment == "assigned" and vm.ended_at is None]
            again = max(on, key=lambda vm: vm.on_demand_seconds)
            real = stage.real(again.provider_id)
            stage.world.cloud.fleet.leave_contract(real, stage.world.clock.elapsed)
            real.contract_id = None
        if step == 30:
            for vm in await stage.vms():
                if vm.on_demand_since is not None:
                    await deletion.delete(stage.rt, vm, caller="tests")
                    break
    return stage, shots


@pytest.mark.parametrize(("seed", "reassign"), [(1, False), (2, False), (1, True)])
async def test_the_times_off_contract_of_each_vm_sum_up_to_what_its_row_counts(engine: AsyncEngine, seed, reassign):
    stage, shots = await off_contract_lives(engine, seed=seed, reassign=reassign)
    for shot in shots:
        found = await times(stage, until=shot.at, limit=3)
        assert summed(found) == pytest.approx(kept(shot.vms, shot.at))
        going_on = {(one.submission_id, one.vm_no) for one in found if one.until is None}
        assert going_on == {vm.ref for vm in shot.vms if vm.on_demand_since is not None}
    ended = {vm.ref for vm in shots[-1].vms if vm.ended_at is not None}
    last = await times(stage, until=shots[-1].at)
    refs = [(one.submission_id, one.vm_no) for one in last]
    assert ended & set(refs), "no VM ended off contract"
    assert {one.until is None for one in last} == {True, False}


async def test_a_vm_that_falls_off_its_contract_again_has_a_time_for_each(engine: AsyncEngine):
    stage, shots = await off_contract_lives(engine, seed=1, reassign=True)
    found = await times(stage, until=shots[-1].at)
    assert max(Counter((one.submission_id, one.vm_no) for one in found).values()) == 2


async def test_periods_that_follow_each_other_add_up_to_the_whole(engine: AsyncEngine):
    stage, shots = await off_contract_lives(engine, seed=3, reassign=False)
    bounds = [START, shots[4].at, shots[11].at, shots[12].at, shots[25].at, shots[-1].at]
    whole = summed(await times(stage, until=bounds[-1]))
    parts: Counter[Any] = Counter()
    for since, until in pairwise(bounds):
        found = await times(stage, since=since, until=until)
        assert all(since <= one.since < (one.until or until) <= until for one in found)
        assert all(one.seconds == ((one.until or until) - one.since).total_seconds() for one in found)
        parts.update(summed(found))
    assert dict(parts) == pytest.approx(whole)


async def test_the_total_is_that_of_the_list_and_unknown_gpus_are_said(engine: AsyncEngine):
    stage, shots = await off_contract_lives(engine, seed=1, reassign=False)
    period = {"since": shots[3].at, "until": shots[20].at}
    async with begin(stage.engine) as conn:
        total = await as_of_queries.off_contract_total(conn, submission_id=None, **period)
        await conn.execute(text("UPDATE vms SET gpu_count = 4"))
        of_four = await as_of_queries.off_contract_total(conn, submission_id=None, **period)
        await conn.execute(text("UPDATE vms SET gpu_count = NULL"))
        of_unknown = await as_of_queries.off_contract_total(conn, submission_id=None, **period)
        await conn.rollback()
    found = await times(stage, **period)
    assert found
    assert (total.times, total.vms) == (len(found), len({(one.submission_id, one.vm_no) for one in found}))
    assert total.seconds == pytest.approx(sum(one.seconds for one in found), abs=0.001)
    assert total.gpu_seconds == pytest.approx(sum(one.seconds * (one.gpu_count or 0) for one in found), abs=0.001)
    assert of_four.gpu_seconds == pytest.approx(4 * total.seconds, abs=0.01)
    assert (of_unknown.gpu_seconds, of_unknown.seconds_of_unknown_gpus) == (0, total.seconds)

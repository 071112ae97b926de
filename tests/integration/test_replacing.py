"""What others do to a VM and to its replacement while it is being replaced, in any order, with restarts in between."""

import random
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import PASSES, Stage

from service.core.contract import Assignment
from service.core.lifecycle import VmState
from service.core.vm import Vm
from service.operations import deletion
from service.worker import apply, contract, create, refresh, rescue

A100 = "A100-80G-PCIe"
RETRY = {"first_wait_seconds": 10, "max_wait_seconds": 40, "attempts": 50, "max_replacing": 1}
#: A VM that only its owner or the provider ends: what is left of its submission is up to them.
ENDS_OLD = {"old deleted by others", "old deleted by its owner", "old in ERROR"}
DEEDS = (
    "old on", "old on", "old off", "new off", "new in ERROR", "new deleted by others", "new deleted by its owner",
    *sorted(ENDS_OLD),
)  # fmt: skip


def full(gpus: int) -> dict:
    return {"contracts": [{"id": 41, "discounts": [{"resource_name": A100, "resource_count": gpus}]}]}


async def off_contract(engine: AsyncEngine, submissions: int, **policy: object) -> tuple[Stage, list[UUID]]:
    """Submissions of one VM each, all off their contract, and a contract that has room now."""
    stage = Stage(engine, cloud=full(0))
    stage.world.cloud.fleet.stock.change("n3-A100x1", 10_000)
    ids = [
        await stage.submit(name=f"s{number}", contract_id=41, policy={"retry": RETRY | policy})
        for number in range(submissions)
    ]
    others = tuple(one for one in PASSES if one is not contract)
    while any(vm.state is not VmState.ACTIVE for vm in await stage.vms()):
        await stage.live(10, job_runs=others)
    stage.change_contract(resource_count=10_000)
    return stage, ids


async def pair(stage: Stage, submission_id: UUID) -> tuple[Vm, Vm] | None:
    """A VM and the one that is created in its place, while it is not known which one stays."""
    mine = {vm.vm_no: vm for vm in await stage.vms() if vm.submission_id == submission_id}
    return next(((vm, mine[vm.replaced_by]) for vm in mine.values() if vm.member and vm.replaced_by), None)


async def do(stage: Stage, submission_id: UUID, deed: str) -> bool:
    """Whether it could be done: both VMs are there."""
    found = await pair(stage, submission_id)
    if found is None:
        return False
    which, what = deed.split(" ", 1)
    vm = found[which == "new"]
    real = stage.world.cloud.fleet.vms.get(vm.provider_id)
    if what == "deleted by its owner":
        await deletion.delete(stage.rt, vm, caller="tests")
    elif real is None or real.ended is not None or vm.desired_state == "deleted":
        return False
    elif which == "new" and what != "off" and vm.ready:
        return False  # it may have taken over before anybody hears of it
    elif what in {"on", "off"}:
        stage.world.cloud.fleet.set_contract(real, 41 if what == "on" else None, stage.world.clock.elapsed)
        await stage.sql("UPDATE vms SET next_refresh_at = :at WHERE provider_id = :id AND ended_at IS NULL",
                        at=stage.world.clock.now(), id=vm.provider_id)  # fmt: skip
    else:
        stage.console(vm.provider_id, {"in ERROR": "error", "deleted by others": "delete"}[what], silent=False)
        await stage.wait(0)
    return True


async def one_runs_and_no_more_than_two_are_there(stage: Stage, done: dict[UUID, set[str]]) -> None:
    """At every moment one of a VM and its replacement runs. One whose deletion has begun is not there any more."""
    statuses: dict[UUID, list[str]] = {one: [] for one in done}
    for vm in await stage.vms():
        real = stage.world.cloud.fleet.vms.get(vm.provider_id)
        if real is not None and real.ended is None and real.status != "DELETING":
            statuses[vm.submission_id].append(real.status)
    for one, found in statuses.items():
        assert "ACTIVE" in found or done[one] & ENDS_OLD, (stage.world.clock.elapsed, one, found, done[one])
        assert len(found) <= 2, (stage.world.clock.elapsed, one, found, done[one])


async def nothing_is_left_over(stage: Stage, done: dict[UUID, set[str]]) -> None:
    vms, there = await stage.vms(), set(stage.alive())
    assert {vm.provider_id for vm in vms if vm.member and vm.desired_state == "present" and not vm.ended_at} == there
    assert not [vm for vm in vms if vm.member and vm.replaced_by]
    for one, deeds in done.items():
        left = [vm for vm in vms if vm.submission_id == one and vm.provider_id in there]
        assert len(left) == 1 or (not left and deeds & ENDS_OLD), (one, deeds)
        if deeds <= {"old on", "new off"}:
            assert {vm.assignment for vm in left} == {Assignment.ASSIGNED}


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_happens_while_a_vm_is_replaced_one_stays_and_nothing_is_left_over(engine, seed):
    rng = random.Random(seed)
    stage, ids = await off_contract(engine, 40)
    plan = [(rng.randint(1, 12), one, rng.choice(DEEDS)) for one in ids for _ in range(rng.randint(1, 3))]
    done: dict[UUID, set[str]] = {one: set() for one in ids}
    for step in range(24):
        for one, deed in [(one, deed) for at, one, deed in plan if at == step]:
            done[one] |= {deed} if await do(stage, one, deed) else set()
        with stage.killed_after(rng.randint(1, 40) if step > 4 and rng.random() < 0.2 else 10**9):
            await stage.dies_in(stage.everything())
        await stage.live(5, step=5)
        await one_runs_and_no_more_than_two_are_there(stage, done)
    assert sum(map(bool, done.values())) > len(ids) / 3
    await stage.live(1200, step=20)
    await nothing_is_left_over(stage, done)


async def under_way(engine: AsyncEngine, **policy: object) -> tuple[Stage, Vm, Vm]:
    """A VM whose replacement is being created."""
    stage, ids = await off_contract(engine, 1, **policy)
    await stage.until(lambda: pair(stage, ids[0]), step=5)
    await stage.live(1, step=1, job_runs=(create,))
    return stage, *(await pair(stage, ids[0]))


async def test_a_vm_that_gets_onto_its_contract_by_itself_stays_and_its_replacement_goes(engine: AsyncEngine):
    stage, old, new = await under_way(engine)
    await do(stage, old.submission_id, "old on")
    await stage.live(200)
    now = {vm.vm_no: vm for vm in await stage.vms()}
    assert stage.alive() == [old.provider_id]
    assert (now[1].assignment, now[1].member, now[1].ready, now[1].replaced_by) == (
        Assignment.ASSIGNED,
        True,
        True,
        None,
    )
    assert now[new.vm_no].state is VmState.DELETED
    assert now[new.vm_no].deletion_reason == "not needed any more in the place of VM 1"


async def test_a_running_vm_stays_if_its_replacement_fails_to_boot_on_the_contract(engine: AsyncEngine):
    stage, old, _ = await under_way(engine)
    await stage.live(6, step=2, job_runs=(refresh, contract, rescue))
    _, new = await pair(stage, old.submission_id)
    assert (new.assignment, new.state in {VmState.CREATING, VmState.BUILD}) == (Assignment.ASSIGNED, True)
    assert await do(stage, old.submission_id, "new in ERROR")
    await stage.live(10, step=5)
    assert old.provider_id in stage.alive()
    await stage.live(300)
    [left] = [vm for vm in await stage.vms() if vm.provider_id in stage.alive()]
    assert (left.assignment, left.member, left.ready) == (Assignment.ASSIGNED, True, True)


async def test_a_running_vm_stays_if_its_replacement_died_unheard_after_it_was_ready(engine: AsyncEngine):
    stage, old, _ = await under_way(engine)

    while not (await pair(stage, old.submission_id))[1].ready:
        await stage.live(5, step=5, job_runs=(apply, refresh))
    _, new = await pair(stage, old.submission_id)
    await stage.wait(61)  # nobody runs
    stage.console(new.provider_id, "delete", silent=True)
    await stage.wait(61)
    await stage.live(60, step=1, job_runs=(contract,))  # the refresh is late
    assert old.provider_id in stage.alive()
    await stage.live(300)
    [left] = [vm for vm in await stage.vms() if vm.provider_id in stage.alive()]
    assert (left.assignment, left.member, left.ready, left.vm_no > new.vm_no) == (Assignment.ASSIGNED, True, True, True)


async def test_a_vm_that_its_owner_deletes_while_it_is_deleted_to_be_replaced_is_not_replaced(engine: AsyncEngine):
    stage, _ = await off_contract(engine, 1, replace_order="delete_first")
    await stage.live(40, job_runs=(contract,))
    assert (await stage.vm()).refill
    await deletion.delete(stage.rt, await stage.vm(), caller="tests")
    assert await stage.sql("SELECT kind, caller FROM actions WHERE kind = 'delete'") == [("delete", "tests")]
    await stage.live(200)
    assert (len(await stage.vms()), stage.alive()) == (1, [])


async def test_a_submission_does_not_end_while_a_replacement_is_about_to_take_the_place_of_a_vm_that_is_gone(
    engine: AsyncEngine,
):
    stage, old, new = await under_way(engine)
    await do(stage, old.submission_id, "old deleted by others")
    # Whatever the order in which the jobs come to it: here the one that follows up comes last.
    await stage.live(40, step=5, job_runs=(apply, refresh, rescue))
    assert (await stage.vm()).ended_at is not None
    assert (await stage.submission()).state == "open"
    await stage.live(300)
    assert (await stage.submission()).state == "ready"
    assert [vm.vm_no for vm in await stage.vms() if vm.member and vm.ready] == [new.vm_no]

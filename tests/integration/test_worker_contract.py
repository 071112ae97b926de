"""VMs that should be on a contract and are not: brought there, kept, or given up, as their policy says."""

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import PASSES, Stage

from service.core.contract import Assignment
from service.core.lifecycle import VmState
from service.operations import deletion
from service.worker import contract, create, delete, refresh, rescue

A100 = "A100-80G-PCIe"
RETRY = {"first_wait_seconds": 10, "max_wait_seconds": 40, "attempts": 50, "deadline_seconds": 5000}
REASSIGN = "/_sim/virtual-machines/{vm_id}/contract"


def with_room(gpus: int, *, model: str = A100, **changes) -> dict:
    return {"contracts": [{"id": 41, "discounts": [{"resource_name": model, "resource_count": gpus}], **changes}]}


async def on_contract(stage: Stage) -> int:
    return sum(vm["contract_id"] == 41 for vm in stage.truth() if vm["ended"] is None)


async def members(stage: Stage) -> list:
    return [vm for vm in await stage.vms() if vm.member]


async def outcomes(stage: Stage, vm_no: int = 1) -> list[tuple[str, str]]:
    return await stage.sql("SELECT step, outcome FROM assignments WHERE vm_no = :no ORDER BY at, attempt", no=vm_no)


async def test_a_contract_with_room_is_simply_assigned(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(10))
    await stage.submit(count=10, contract_id=41)
    await stage.live(40)
    assert [vm.assignment for vm in await stage.vms()] == [Assignment.ASSIGNED] * 10
    assert all(vm.ready and vm.on_demand_seconds == 0 for vm in await stage.vms())
    # Only the look for contracts that have ended may have read it.
    assert len(stage.calls("GET", "/pricebook/contracts")) <= 1


@pytest.mark.parametrize("some", [True, False])
async def test_with_room_for_five_of_ten_the_others_follow_when_there_is_room(engine: AsyncEngine, some):
    stage = Stage(engine, cloud=with_room(5) | {"partial_assignment": some})
    await stage.submit(count=10, contract_id=41, policy={"retry": RETRY})
    await stage.live(250)
    assert await on_contract(stage) == 5
    assert sum(vm.assignment is Assignment.ASSIGNED for vm in await members(stage)) == 5
    assert sum(vm.assignment is Assignment.RETRYING for vm in await members(stage)) == 5
    assert (await stage.submission()).state == "open"
    stage.change_contract(resource_count=10)
    await stage.live(250)
    assert await on_contract(stage) == len(stage.alive()) == 10
    now = await members(stage)
    assert [vm.assignment for vm in now] == [Assignment.ASSIGNED] * 10
    assert all(vm.ready for vm in now)
    assert (await stage.submission()).state == "ready"
    # Never more was made than there was room for: no replacement was in vain.
    assert len(stage.truth()) == (15 if some else 20)


async def test_the_old_vm_stays_until_the_new_one_is_on_the_contract(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    await stage.submit(contract_id=41, policy={"retry": RETRY})
    await stage.live(30)
    stage.change_contract(resource_count=1)
    await stage.until(lambda: made(stage, 2), step=1)
    old, new = await stage.vms()
    assert (old.desired_state, old.member, new.member) == ("present", True, False)
    await stage.live(100)
    old, new = await stage.vms()
    assert (old.state, old.member) == (VmState.DELETED, False)
    assert (new.assignment, new.member, new.ready) == (Assignment.ASSIGNED, True, True)
    assert old.on_demand_seconds > 20
    assert old.on_demand_since is None


async def made(stage: Stage, count: int) -> bool:
    return len(stage.truth()) == count


async def test_a_contract_that_filled_up_meanwhile_costs_an_attempt_and_no_vm(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    await stage.submit(contract_id=41, policy={"retry": RETRY})
    await stage.live(30, job_runs=(create, refresh, rescue))
    stage.change_contract(resource_count=1)
    await stage.wait(20)
    await contract.run_once(stage.rt)
    assert len(await stage.creations()) == 2
    stage.change_contract(remaining_count=0)
    await stage.live(200)
    first, dropped = (await stage.vms())[:2]
    assert dropped.state is VmState.DELETED
    assert (first.state, first.assignment, first.member) == (VmState.ACTIVE, Assignment.RETRYING, True)
    assert first.contract_attempts >= 1
    assert stage.alive() == [first.provider_id]


async def test_a_substitute_that_is_refused_lets_the_old_one_try_again(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    await stage.submit(contract_id=41, policy={"retry": RETRY})
    await stage.live(30)
    stage.misbehave(no_balance=[1])
    stage.change_contract(resource_count=1)
    await stage.live(300)
    found = await stage.vms()
    assert [vm.state for vm in found] == [VmState.DELETED, VmState.REFUSED, VmState.ACTIVE]
    assert await on_contract(stage) == len(stage.alive()) == 1


async def test_a_vm_may_be_reassigned_where_a_call_for_that_is_configured(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(5), reassign_path=REASSIGN)
    await stage.submit(count=10, contract_id=41, policy={"retry": RETRY})
    await stage.live(150)
    assert await on_contract(stage) == 5
    stage.change_contract(resource_count=10)
    await stage.live(150)
    assert await on_contract(stage) == 10
    assert len(stage.truth()) == 10
    assert (await stage.submission()).state == "ready"
    assert all(vm.ready and vm.on_demand_seconds > 0 for vm in await stage.vms())


@pytest.mark.parametrize("fault", ["error_after", "lost", "error_before", "cut"])
async def test_whether_a_reassignment_worked_is_told_by_a_reading_only(engine: AsyncEngine, fault):
    stage = Stage(engine, cloud=with_room(0), reassign_path=REASSIGN)
    await stage.submit(contract_id=41, policy={"retry": RETRY})
    await stage.live(30)
    stage.misbehave(change={fault: [1]})
    stage.change_contract(resource_count=1)
    await stage.live(150)
    assert (await stage.vm()).assignment is Assignment.ASSIGNED
    assert len(stage.truth()) == 1


async def test_keeping_it_on_demand_is_the_end_of_it(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    await stage.submit(count=2, contract_id=41, policy={"on_contract_error": "keep"})
    await stage.live(60)
    assert [vm.assignment for vm in await stage.vms()] == [Assignment.ON_DEMAND] * 2
    assert all(vm.ready and vm.on_demand_since for vm in await stage.vms())
    assert (await stage.submission()).state == "ready"
    assert stage.calls("GET", "/pricebook") == []


async def test_failing_deletes_what_is_not_on_the_contract_and_says_why(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(1) | {"partial_assignment": True})
    await stage.submit(count=2, contract_id=41, policy={"on_contract_error": "fail"})
    await stage.live(100)
    kept, gone = await stage.vms()
    assert (kept.state, kept.assignment) == (VmState.ACTIVE, Assignment.ASSIGNED)
    assert gone.state is VmState.DELETED
    assert "not on its contract" in (gone.reason or "")
    assert (await stage.submission()).state == "failed"


@pytest.mark.parametrize(("then", "state", "alive"), [("keep", VmState.ACTIVE, 1), ("delete", VmState.DELETED, 0)])
async def test_when_the_attempts_run_out_it_is_given_up_as_the_policy_says(engine: AsyncEngine, then, state, alive):
    stage = Stage(engine, cloud=with_room(0), reassign_path=REASSIGN)
    await stage.submit(contract_id=41, policy={"retry": RETRY | {"attempts": 3, "then": then}})
    await stage.live(60)
    stage.misbehave(change={"error_before": 1})
    stage.change_contract(resource_count=1)
    await stage.live(300, step=20)
    stage.misbehave()
    await stage.live(200, step=20)
    vm = await stage.vm()
    assert (vm.state, vm.contract_attempts, vm.contract_due_at) == (state, 3, None)
    assert vm.assignment is Assignment.GIVEN_UP
    assert (vm.ready, len(stage.alive())) == (alive == 1, alive)
    assert any("off contract 41" in reason for reason in (await stage.submission()).reasons)
    told = await outcomes(stage)
    assert told[-1] == ("give up", "given_up")
    assert told.count(("reassign", "refused")) == 3


async def test_waiting_for_room_is_no_attempt(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    await stage.submit(contract_id=41, policy={"retry": RETRY | {"attempts": 1}})
    await stage.live(600, step=20)
    vm = await stage.vm()
    assert (vm.assignment, vm.contract_attempts) == (Assignment.RETRYING, 0)
    stage.change_contract(resource_count=1)
    await stage.live(200)
    assert await on_contract(stage) == 1


async def test_when_the_time_runs_out_it_is_given_up_too(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    await stage.submit(contract_id=41, policy={"retry": RETRY | {"deadline_seconds": 60}})
    await stage.live(150)
    assert (await stage.vm()).assignment is Assignment.GIVEN_UP


@pytest.mark.parametrize(
    ("contract_id", "cloud", "why"),
    [
        (99, with_room(5), "missing"),
        (41, with_room(5, end_date="2026-08-17T08:00:00"), "ended"),
        (41, with_room(5, model="H100-80G-PCIe"), "mismatched"),
    ],
)
async def test_what_waiting_cannot_mend_is_given_up_at_once(engine: AsyncEngine, contract_id, cloud, why):
    stage = Stage(engine, cloud=cloud)
    await stage.submit(contract_id=contract_id, policy={"retry": RETRY})
    await stage.live(50)
    vm = await stage.vm()
    assert (vm.assignment, vm.contract_attempts, vm.ready) == (Assignment.GIVEN_UP, 0, True)
    assert why in (vm.reason or "")
    assert await stage.sql("SELECT shortfall FROM assignments WHERE outcome = 'given_up'") == [(why,)]
    assert len(stage.truth()) == 1


async def test_a_vm_that_has_been_active_for_longer_than_the_grace_is_never_replaced(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    await stage.submit(contract_id=41, policy={"retry": RETRY | {"replace_grace_seconds": 30}})
    await stage.live(100)
    stage.change_contract(resource_count=1)
    await stage.live(100)
    vm = await stage.vm()
    assert (vm.state, vm.assignment) == (VmState.ACTIVE, Assignment.GIVEN_UP)
    assert len(stage.truth()) == 1


async def test_a_contract_that_cannot_be_read_costs_no_attempt(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    await stage.submit(contract_id=41, policy={"retry": RETRY})
    await stage.live(30, job_runs=(create, refresh))
    stage.misbehave(read={"error_before": 1})
    for _ in range(5):
        await stage.wait(20)
        await contract.run_once(stage.rt)
    vm = await stage.vm()
    assert (vm.assignment, vm.contract_attempts, vm.lease_token) == (Assignment.RETRYING, 0, None)
    assert vm.contract_due_at is not None
    stage.misbehave()
    stage.change_contract(resource_count=1)
    await stage.live(150)
    assert await on_contract(stage) == len(stage.alive()) == 1


async def test_many_vms_of_one_contract_cost_one_reading_of_it(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    await stage.submit(count=20, contract_id=41, policy={"retry": RETRY})
    await stage.live(30, job_runs=(create,))
    await stage.wait(20)
    assert await contract.run_once(stage.rt) == 20
    assert len(stage.calls("GET", "/pricebook/contracts/41")) == 1


async def test_while_many_wait_for_room_their_contract_is_read_once_in_five_seconds(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0), resync_seconds=5000)
    await stage.submit(count=40, contract_id=41, policy={"retry": RETRY})
    await stage.live(60)
    seen = len(stage.calls("GET", "/pricebook/contracts/41"))
    await stage.live(300, step=1)
    assert 20 < len(stage.calls("GET", "/pricebook/contracts/41")) - seen <= 61
    assert {vm.assignment for vm in await stage.vms()} == {Assignment.RETRYING}


async def test_a_vm_that_falls_off_its_contract_is_brought_back(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(2), resync_seconds=100)
    await stage.submit(contract_id=41, policy={"retry": RETRY})
    await stage.live(40)
    (made_,) = stage.alive()
    stage.world.cloud.fleet.leave_contract(stage.real(made_), stage.world.clock.elapsed)
    stage.real(made_).contract_id = None
    await stage.live(300)
    assert await on_contract(stage) == len(stage.alive()) == 1
    assert (await members(stage))[0].assignment is Assignment.ASSIGNED


async def test_two_daemons_make_one_substitute_for_each(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    await stage.submit(count=5, contract_id=41, policy={"retry": RETRY})
    await stage.live(30, job_runs=(create,))
    stage.change_contract(resource_count=20)
    await stage.wait(20)
    daemons = [stage.rt, stage.daemon(), stage.daemon()]
    await asyncio.gather(*(contract.run_once(rt) for rt in daemons))
    assert len(await stage.vms()) == 10
    await stage.live(150)
    assert await on_contract(stage) == len(stage.alive()) == 5


async def test_two_daemons_that_follow_each_other_do_not_overfill_it(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    await stage.submit(count=3, contract_id=41, policy={"retry": RETRY})
    await stage.submit(count=3, contract_id=41, policy={"retry": RETRY})
    await stage.live(30, job_runs=(create,))
    stage.change_contract(resource_count=4)
    await stage.wait(20)
    for _ in range(3):
        await contract.run_once(stage.daemon())
        await stage.wait(5)
    replacements = [vm for vm in await stage.vms() if vm.replaces]
    assert len(replacements) == 4
    await stage.live(150)
    assert await on_contract(stage) == 4
    assert len(stage.alive()) == 6


@pytest.mark.parametrize("path", [None, REASSIGN])
async def test_killed_again_and_again_it_still_ends_on_the_contract_once(engine: AsyncEngine, path):
    # dbos-transact-py #716, dstack #1551 (field-notes.md section 1).
    stage = Stage(engine, cloud=with_room(0), reassign_path=path)
    await stage.submit(count=3, contract_id=41, policy={"retry": RETRY})
    await stage.live(30)
    stage.change_contract(resource_count=3)
    deaths = 0
    for steps in range(1, 15):
        with stage.killed_after(1 + steps % 6):
            deaths += await stage.dies_in(contract.run_once(stage.rt))
        await stage.wait(10)
    assert deaths > 3
    await stage.live(900, step=20)
    assert await on_contract(stage) == len(stage.alive()) == 3
    assert [vm.assignment for vm in await members(stage)] == [Assignment.ASSIGNED] * 3


async def test_each_step_is_on_record_with_its_reason_and_when_the_next_is_due(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    await stage.submit(contract_id=41, policy={"retry": RETRY})
    await stage.live(60)
    stage.change_contract(resource_count=1)
    await stage.live(200)
    found = await outcomes(stage)
    assert found[0] == ("create", "on_demand")
    assert found[-1] == ("replace", "sent")
    assert set(found[1:-1]) == {("wait", "waiting")}
    rows = await stage.sql("SELECT reason, next_at, shortfall, outcome FROM assignments WHERE vm_no = 1 ORDER BY at")
    assert all(reason for reason, *_ in rows)
    assert all(next_at is not None for _, next_at, *_ in rows)
    assert "insufficient GPU" in rows[0][0]
    assert {shortfall for *_, shortfall, outcome in rows if outcome == "waiting"} == {"insufficient"}
    assert await outcomes(stage, 2) == [("create", "assigned")]


SLOW = RETRY | {"first_wait_seconds": 2000, "max_wait_seconds": 2000}


async def test_room_that_a_deleted_vm_leaves_wakes_who_waits_longest(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(1))
    await stage.submit(contract_id=41, policy={"retry": SLOW})
    await stage.live(40)
    for _ in range(2):
        await stage.submit(contract_id=41, policy={"retry": SLOW})
        await stage.live(40)
    on_it = [vm for vm in await stage.vms() if vm.assignment is Assignment.ASSIGNED]
    stage.console(on_it[0].provider_id, "delete", silent=False)
    await stage.live(200)
    waited = sorted((vm for vm in await stage.vms() if vm.replaces is None), key=lambda vm: vm.created_at)
    # The first of those who waited has its replacement on the contract; the other waits on.
    assert [vm.replaced_by is not None for vm in waited] == [False, True, False]
    assert waited[2].assignment is Assignment.RETRYING
    assert await on_contract(stage) == 1


async def test_a_vm_that_is_due_does_not_pass_one_that_waits_longer_and_is_not(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    first = await stage.submit(contract_id=41, policy={"retry": SLOW})
    await stage.live(40)
    await stage.submit(contract_id=41, policy={"retry": RETRY})
    await stage.live(40)
    stage.change_contract(resource_count=1)
    await stage.live(100)
    replaced = [vm for vm in await stage.vms() if vm.replaced_by is not None]
    assert [vm.submission_id for vm in replaced] == [first]


async def test_two_daemons_at_once_do_not_give_away_the_same_room(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    for _ in range(4):
        await stage.submit(count=2, contract_id=41, policy={"retry": RETRY})
    await stage.live(30, job_runs=(create,))
    stage.change_contract(resource_count=3)
    await stage.wait(20)
    daemons = [stage.rt, stage.daemon(), stage.daemon()]
    for _ in range(3):
        await asyncio.gather(*(contract.run_once(rt) for rt in daemons))
        await stage.wait(2)
    assert len([vm for vm in await stage.vms() if vm.replaces]) == 3
    await stage.live(150)
    assert await on_contract(stage) == 3
    assert len(stage.alive()) == 8


async def test_room_that_a_slow_daemon_has_read_of_is_not_given_away_by_another(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    first, second = [await stage.submit(count=2, contract_id=41, policy={"retry": RETRY}) for _ in range(2)]
    await stage.live(30, job_runs=(create,))
    stage.change_contract(resource_count=2)
    await stage.wait(20)
    due = "UPDATE vms SET contract_due_at = contract_due_at + :hours * interval '1 hour' WHERE submission_id = :id"
    await stage.sql(due, hours=1, id=second)
    slow, quick = stage.rt, stage.daemon()
    stage.between.hold, stage.between.held = "GET", asyncio.Event()
    running = asyncio.create_task(contract.run_once(slow))
    await stage.between.reached.wait()
    await stage.sql(due, hours=-1, id=second)
    assert await contract.run_once(quick) == 2
    stage.between.held.set()
    await running
    assert {vm.submission_id for vm in await stage.vms() if vm.replaces} == {first}
    assert len([vm for vm in await stage.vms() if vm.replaces]) == 2


async def test_no_more_are_replaced_at_once_than_the_policy_says(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    await stage.submit(count=5, contract_id=41, policy={"retry": RETRY | {"max_replacing": 2}})
    await stage.live(60)
    stage.change_contract(resource_count=5)
    most = 0
    for _ in range(40):
        await stage.live(10)
        most = max(most, len(stage.alive()))
    assert await on_contract(stage) == len(stage.alive()) == 5
    assert most <= 7


async def test_a_replacement_that_was_dropped_counts_until_its_deletion_has_begun(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    await stage.submit(count=2, contract_id=41, policy={"retry": RETRY | {"max_replacing": 1}})
    await stage.live(30, job_runs=(create, refresh, rescue))
    stage.change_contract(resource_count=1)
    await stage.wait(20)
    await contract.run_once(stage.rt)
    stage.change_contract(remaining_count=0)
    hanging = tuple(one for one in PASSES if one is not delete)
    await stage.live(60, job_runs=hanging)
    assert len([vm for vm in await stage.vms() if vm.replaces and vm.delete_due_at]) == 1
    stage.change_contract(resource_count=5, remaining_count=5)
    await stage.live(200, job_runs=hanging)
    assert len(stage.alive()) == 3
    await stage.live(400)
    assert await on_contract(stage) == len(stage.alive()) == 2


async def test_delete_first_never_has_more_vms_and_the_count_comes_back(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    policy = RETRY | {"replace_order": "delete_first", "max_replacing": 1}
    await stage.submit(count=3, contract_id=41, policy={"retry": policy})
    await stage.live(60)
    stage.change_contract(resource_count=3)
    seen = []
    for _ in range(60):
        await stage.live(10)
        seen.append(len(stage.alive()))
    assert await on_contract(stage) == 3
    assert (max(seen), min(seen)) == (3, 2)
    assert (await stage.submission()).state == "ready"
    assert [vm.assignment for vm in await members(stage)] == [Assignment.ASSIGNED] * 3


async def test_a_cancelled_submission_is_not_refilled(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    submission_id = await stage.submit(contract_id=41, policy={"retry": RETRY | {"replace_order": "delete_first"}})
    await stage.live(60)
    stage.change_contract(resource_count=3)
    await stage.live(120, job_runs=(contract,))
    assert (await stage.vm()).refill
    await deletion.cancel(stage.rt, submission_id, caller="tests")
    await stage.live(200)
    assert (len(await stage.vms()), stage.alive()) == (1, [])


async def test_a_vm_that_was_active_for_too_long_meanwhile_stays_and_the_new_one_goes(engine: AsyncEngine):
    stage = Stage(engine, cloud=with_room(0))
    await stage.submit(contract_id=41, policy={"retry": RETRY | {"replace_grace_seconds": 100}})
    await stage.live(40)
    stage.change_contract(resource_count=1)
    # The replacement is asked for in time, and made much later.
    stage.world.cloud.fleet.stock.change("n3-A100x1", 1)
    await stage.until(lambda: has_replacement(stage))
    await stage.live(120)
    stage.world.cloud.fleet.stock.change("n3-A100x1", 9)
    await stage.live(300)
    old = await stage.vm()
    assert (old.state, old.assignment, old.member) == (VmState.ACTIVE, Assignment.GIVEN_UP, True)
    assert [vm["id"] for vm in stage.truth() if vm["ended"] is None] == [old.provider_id]


async def has_replacement(stage: Stage) -> bool:
    return (await stage.vm()).replaced_by is not None


@pytest.mark.parametrize(("policy", "then"), [("retry", Assignment.GIVEN_UP), ("keep", Assignment.ON_DEMAND)])
async def test_a_contract_that_ends_is_noticed_although_the_vms_are_shown_on_it(engine: AsyncEngine, policy, then):
    stage = Stage(engine, cloud=with_room(5), resync_seconds=60)
    await stage.submit(count=2, contract_id=41, policy={"on_contract_error": policy, "retry": RETRY})
    await stage.live(60)
    stage.change_contract(end_date="2026-08-17T09:01:00")
    await stage.live(200)
    found = await stage.vms()
    assert {(vm.assignment, vm.ready, vm.on_demand_since is not None) for vm in found} == {(then, True, True)}
    assert await on_contract(stage) == 2  # as the provider shows it
    stage.change_contract(end_date="2026-12-31T00:00:00")
    await stage.live(200)
    assert {(vm.assignment, vm.on_demand_since) for vm in await stage.vms()} == {(Assignment.ASSIGNED, None)}


@pytest.mark.parametrize("during", ["GET", "PUT"])
async def test_a_vm_that_is_seen_on_its_contract_while_it_is_dealt_with_is_left_alone(engine: AsyncEngine, during):
    stage = Stage(engine, cloud=with_room(0), reassign_path=REASSIGN)
    await stage.submit(count=2, contract_id=41, policy={"retry": RETRY})
    await stage.live(40)
    stage.change_contract(resource_count=2 if during == "PUT" else 0)
    await stage.wait(40)
    stage.between.hold, stage.between.held = during, asyncio.Event()
    running = asyncio.create_task(contract.run_once(stage.rt))
    await stage.between.reached.wait()
    for one in stage.world.cloud.fleet.vms.values():  # the call has moved it there, or the provider's staff
        stage.world.cloud.fleet.set_contract(one, 41, stage.world.clock.elapsed)
    await stage.sql("UPDATE vms SET next_refresh_at = :now", now=stage.world.clock.now())
    await refresh.run_once(stage.daemon())
    stage.between.held.set()
    assert await running == 2
    assert [(vm.assignment, vm.contract_due_at, vm.lease_token) for vm in await stage.vms()] == [
        (Assignment.ASSIGNED, None, None)
    ] * 2

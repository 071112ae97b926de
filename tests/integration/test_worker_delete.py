"""Deleting VMs: a deletion goes on until the provider itself says that the VM is gone."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage, refusal

from service.core.lifecycle import VmState
from service.errors import NotFound
from service.operations import deletion
from service.provider.wire import HttpResponse
from service.storage import rate_limit
from service.storage.engine import begin
from service.worker import apply, contract, create, delete, health, refresh, rescue


async def desired_state(stage: Stage, vm_no: int = 1) -> None:
    await deletion.delete(stage.rt, await stage.vm(vm_no), caller="tests")


async def running(engine: AsyncEngine, count: int = 1, **cloud: object) -> Stage:
    """A stage on which VMs are ACTIVE."""
    stage = Stage(engine, cloud=cloud)
    await stage.submit(count=count)
    await stage.live(30)
    assert await stage.states() == ["ACTIVE"] * count
    return stage


def deletes(stage: Stage) -> int:
    return len(stage.calls("DELETE"))


async def test_a_vm_is_deleted_and_the_wish_ends_with_it(engine: AsyncEngine):
    stage = await running(engine, count=2)
    await desired_state(stage)
    await stage.live(60)
    gone, kept = await stage.vms()
    assert (gone.state, gone.delete_due_at, gone.next_refresh_at) == (VmState.DELETED, None, None)
    assert gone.ended_at is not None
    assert (kept.state, kept.ready) == (VmState.ACTIVE, True)
    assert (deletes(stage), stage.alive()) == (1, [kept.provider_id])


async def test_accepted_is_not_done_the_wish_stays_until_the_vm_is_gone(engine: AsyncEngine):
    stage = await running(engine)
    await desired_state(stage)
    await delete.run_once(stage.rt)
    vm = await stage.vm()
    assert (vm.desired_state, vm.delete_attempts, vm.lease_token) == ("deleted", 1, None)
    assert vm.ended_at is None
    assert vm.delete_due_at is not None


async def test_a_deletion_is_leased_for_its_call_and_the_configured_margin(engine: AsyncEngine):
    stage = await running(engine)
    await desired_state(stage)
    await delete.claim(stage.rt, 1)
    vm, settings = await stage.vm(), stage.rt.settings
    assert vm.lease_until is not None
    lease = (vm.lease_until - stage.rt.clock.now()).total_seconds()
    assert lease == settings.call_timeout + settings.lease_margin_seconds


async def test_while_it_is_being_created_it_is_not_even_asked(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit()
    await create.run_once(stage.rt)
    await desired_state(stage)
    await delete.run_once(stage.rt)
    vm = await stage.vm()
    assert (deletes(stage), vm.desired_state, vm.delete_attempts) == (0, "deleted", 0)
    await stage.live(120)
    assert (await stage.states(), stage.alive()) == (["DELETED"], [])


async def test_a_400_while_creating_keeps_the_wish(engine: AsyncEngine):
    # dstack #1551, #3746 (field-notes.md section 1): giving up on terminate left orphans.
    stage = await running(engine)
    message = "VM train is currently being created and cannot be deleted yet. Please wait."
    stage.between.prepared["DELETE"] = [refusal(400, message, "bad_request")] * 3
    await desired_state(stage)
    await delete.run_once(stage.rt)
    vm = await stage.vm()
    assert (vm.desired_state, vm.delete_attempts) == ("deleted", 1)
    assert vm.delete_due_at is not None
    await stage.live(200)
    assert (await stage.states(), stage.alive()) == (["DELETED"], [])


async def test_a_404_is_success(engine: AsyncEngine):
    stage = await running(engine)
    await stage.wait(60)
    (made,) = stage.alive()
    stage.console(made, "vanish")
    await desired_state(stage)
    await delete.run_once(stage.rt)
    vm = await stage.vm()
    assert (vm.state, vm.delete_due_at, deletes(stage)) == (VmState.DELETED, None, 1)


async def test_a_404_right_after_the_create_proves_nothing(engine: AsyncEngine):
    stage = await running(engine)
    stage.between.prepared["DELETE"] = [refusal(404, "VM 507279 does not exists.", "not_found")]
    await desired_state(stage)
    await delete.run_once(stage.rt)
    vm = await stage.vm()
    assert (vm.state, vm.desired_state) == (VmState.ACTIVE, "deleted")
    await stage.live(200)
    assert (await stage.states(), stage.alive()) == (["DELETED"], [])


def gateway(status: int) -> HttpResponse:
    return HttpResponse(status=status, headers={}, body=b"<html>no</html>")


REFUSALS = [
    refusal(400, "VM is locked and cannot be deleted.", "bad_request"),
    refusal(403, "Forbidden for this role.", "forbidden"),
    refusal(409, "The VM is being deleted.", "already_exist"),
    refusal(409, ""),
    refusal(422, "No.", None),
    refusal(405, "No.", "not_allowed"),
    refusal(500, "Internal Server Error"),
    refusal(200, "Status false."),
    *map(gateway, (302, 400, 403, 404, 409, 502, 503)),
]


@pytest.mark.parametrize("answer", REFUSALS, ids=lambda answer: f"{answer.status} {answer.body[:40]!r}")
async def test_no_answer_but_the_vms_absence_ends_a_deletion(engine: AsyncEngine, answer):
    # freesolo-co/flash #239: a 409 was taken for a refusal, and the VM ran on.
    stage = await running(engine)
    stage.between.prepared["DELETE"] = [answer] * 3
    await desired_state(stage)
    await delete.run_once(stage.rt)
    vm = await stage.vm()
    assert (vm.desired_state, vm.delete_attempts, vm.lease_token) == ("deleted", 1, None)
    assert vm.delete_due_at is not None
    assert "could not be deleted yet" in (vm.reason or "")
    await stage.live(600, step=20)
    assert (await stage.states(), stage.alive()) == (["DELETED"], [])


async def test_a_deletion_that_takes_too_long_is_a_health_issue_that_names_the_vm_until_it_is_gone(engine: AsyncEngine):
    stage = Stage(engine, deletion_overdue_seconds=300)
    await stage.submit()
    await stage.live(30)
    stage.between.prepared["DELETE"] = [refusal(400, "VM is locked.", "bad_request")] * 1000
    await desired_state(stage)
    await stage.live(200, step=20)
    await health.run_once(stage.rt)
    assert stage.rt.health.issues == {}
    await stage.live(200, step=20)
    await health.run_once(stage.rt)
    text = stage.rt.health.issues["deletion overdue"]
    assert f"provider id {stage.alive()[0]}" in text
    assert "VM is locked." in text
    stage.between.prepared["DELETE"] = []
    await stage.live(300, step=20)
    await health.run_once(stage.rt)
    assert (stage.alive(), stage.rt.health.issues) == ([], {})


@pytest.mark.parametrize(
    "fault", ["error_before", "error_after", "cut", "lost", "hang_before", "hang_after", "limited"]
)
async def test_an_answer_that_is_no_answer_keeps_the_wish(engine: AsyncEngine, fault):
    # dstack #1551 (field-notes.md section 1): a failed delete stays wished for.
    stage = await running(engine)
    stage.misbehave(change={fault: [1]})
    await desired_state(stage)
    await delete.run_once(stage.rt)
    vm = await stage.vm()
    assert (vm.desired_state, vm.lease_token) == ("deleted", None)
    assert vm.delete_due_at is not None
    await stage.live(200)
    assert (await stage.states(), stage.alive()) == (["DELETED"], [])


@pytest.mark.parametrize("silent", [True, False])
async def test_a_delete_that_fails_at_the_provider_is_asked_for_again(engine: AsyncEngine, silent):
    # infrahub-api.md section 6: a stop reported success while the VM stayed ACTIVE. Accepted may fail without a word.
    stage = await running(engine)
    stage.misbehave(vms={"delete_failed": [1]}, callbacks={"lost": 1 if silent else 0})
    await desired_state(stage)
    await delete.run_once(stage.rt)
    await stage.live(60)
    assert (len(stage.alive()), (await stage.vm()).desired_state) == (1, "deleted")
    await stage.live(300)
    assert (await stage.states(), stage.alive(), deletes(stage)) == (["DELETED"], [], 2)


async def test_a_vm_that_hangs_in_build_is_asked_about_all_the_same_once_it_is_stuck(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"vms": {"stuck": 1}}})
    await stage.submit(policy={"stuck_after_seconds": 100})
    await stage.live(150)
    assert (await stage.vm()).stuck
    await desired_state(stage)
    await stage.live(60)
    vm = await stage.vm()
    assert deletes(stage) > 0
    assert (vm.state, vm.desired_state) == (VmState.BUILD, "deleted")
    assert vm.delete_due_at is not None


async def test_a_vm_whose_status_nobody_knows_is_asked_about_all_the_same_once_its_deletion_is_overdue(
    engine: AsyncEngine,
):
    unknown = {"unknown_status": 1, "unknown_after": [0, 0], "unknown_seconds": [9999, 9999]}
    stage = Stage(engine, cloud={"faults": {"vms": unknown, "callbacks": {"lost": 1}}})
    await stage.submit()
    await create.run_once(stage.rt)
    await desired_state(stage)
    await stage.live(100)
    assert (deletes(stage), len(stage.alive())) == (0, 1)
    await stage.live(150)
    assert (await stage.states(), stage.alive()) == (["DELETED"], [])


async def test_a_deletion_waits_no_longer_than_the_vm_is_being_created(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit()
    await create.run_once(stage.rt)
    await desired_state(stage)
    while (await stage.vm()).state != VmState.ACTIVE:
        await stage.sql("UPDATE vms SET delete_due_at = :at", at=stage.world.clock.now() + timedelta(minutes=5))
        await stage.wait(5)
        await apply.run_once(stage.rt)
    assert await delete.run_once(stage.rt) == 1
    assert deletes(stage) == 1


async def test_a_deletion_for_which_the_rate_limit_has_no_room_does_not_make_the_job_run_at_once(engine: AsyncEngine):
    stage = await running(engine)
    await desired_state(stage)
    paused_until = stage.world.clock.now() + timedelta(minutes=1)
    async with begin(engine) as conn:
        await rate_limit.pause(conn, stage.rt.settings.rate_limit_scope, paused_until)
    assert await delete.run_once(stage.rt) == 0
    assert deletes(stage) == 0


async def test_a_rejected_key_does_not_end_the_wish(engine: AsyncEngine):
    stage = await running(engine)
    stage.misbehave(unauthorized=[1])
    await desired_state(stage)
    await delete.run_once(stage.rt)
    assert (await stage.vm()).desired_state == "deleted"
    await stage.live(200)
    assert (await stage.states(), stage.alive()) == (["DELETED"], [])


async def test_what_was_not_sent_is_withdrawn_without_a_call(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit(count=2)
    await desired_state(stage, 1)
    await delete.run_once(stage.rt)
    assert await stage.states() == ["CANCELLED", "REQUESTED"]
    assert (await stage.creation()).vm_count == 1
    await stage.live(30)
    assert (len(stage.alive()), deletes(stage)) == (1, 0)
    assert await stage.states() == ["CANCELLED", "ACTIVE"]


async def test_when_all_of_a_creation_is_withdrawn_it_is_never_sent(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit(count=2)
    for vm_no in (1, 2):
        await desired_state(stage, vm_no)
    await delete.run_once(stage.rt)
    assert (await stage.creation()).state == "cancelled"
    await stage.live(60)
    assert (stage.creates(), await stage.states()) == (0, ["CANCELLED", "CANCELLED"])
    assert (await stage.submission()).state != "open"


async def test_what_may_have_been_sent_is_looked_for_and_then_deleted(engine: AsyncEngine):
    # skypilot #4431 (field-notes.md section 1): the row was deleted, the VM lived.
    stage = Stage(engine, cloud={"faults": {"create": {"lost": [1]}, "list_lag": 20, "callbacks": {"lost": 1}}})
    await stage.submit(count=2)
    await create.run_once(stage.rt)
    await desired_state(stage, 1)
    await desired_state(stage, 2)
    await delete.run_once(stage.rt)
    assert await stage.states() == ["REQUESTED", "REQUESTED"]
    await stage.live(200)
    assert (await stage.states(), stage.alive()) == (["DELETED", "DELETED"], [])


# Cancelling a submission.


async def test_cancelling_withdraws_what_was_not_sent_and_deletes_what_was(engine: AsyncEngine):
    stage = Stage(engine, create_concurrency=1)
    submission_id = await stage.submit(count=25)
    await create.run_once(stage.rt)
    await deletion.cancel(stage.rt, submission_id, caller="tests")
    assert (await stage.states()).count("CANCELLED") == 5
    await stage.live(150)
    assert stage.alive() == []
    assert sorted(set(await stage.states())) == ["CANCELLED", "DELETED"]
    assert ((await stage.submission()).state, stage.creates()) == ("cancelled", 1)


async def test_cancelling_a_fleet_with_a_lost_vm_ends_it_and_keeps_what_happened(engine: AsyncEngine):
    stage = await running(engine, count=2)
    stage.console(stage.alive()[0], "vanish")
    await stage.live(700, step=50)
    assert await stage.states() == ["LOST", "ACTIVE"]
    await deletion.cancel(stage.rt, (await stage.submission()).submission_id, caller="tests")
    await stage.live(100)
    lost, other = await stage.vms()
    assert (lost.state, other.state, lost.delete_due_at) == (VmState.DELETED, VmState.DELETED, None)
    assert "nobody is known to have deleted it" in (lost.reason or "")
    assert other.reason is None
    moves = await stage.sql("SELECT to_state FROM transitions WHERE vm_no = 1 ORDER BY seq DESC LIMIT 2")
    assert moves == [("DELETED",), ("LOST",)]


async def test_cancelling_while_a_call_is_under_way_deletes_what_it_makes(engine: AsyncEngine):
    stage = Stage(engine)
    submission_id = await stage.submit(count=2)
    stage.between.held = asyncio.Event()
    sending = asyncio.create_task(create.run_once(stage.rt))
    await stage.between.reached.wait()
    await deletion.cancel(stage.rt, submission_id, caller="tests")
    stage.between.held.set()
    await sending
    stage.between.held = None
    await stage.live(120)
    assert (await stage.states(), stage.alive()) == (["DELETED", "DELETED"], [])


async def test_cancelling_an_unconfirmed_creation_never_sends_it_again(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"create": {"error_before": [1]}}})
    submission_id = await stage.submit(count=2)
    await create.run_once(stage.rt)
    await deletion.cancel(stage.rt, submission_id, caller="tests")
    await stage.live(200)
    assert (stage.creates(), await stage.states()) == (1, ["CANCELLED", "CANCELLED"])
    assert (await stage.creation()).state == "cancelled"


async def test_a_cancelled_submissions_late_vms_are_deleted_whatever_its_policy(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"late": [1], "late_after": 150}})
    submission_id = await stage.submit(count=2, policy={"on_orphan": "report"})
    await create.run_once(stage.rt)
    await deletion.cancel(stage.rt, submission_id, caller="tests")
    await stage.live(500)
    assert (len(stage.truth()), stage.alive()) == (2, [])
    assert [one.state for one in await stage.orphans()] == ["gone", "gone"]


async def test_cancelling_again_changes_nothing_and_cancelling_nothing_is_an_error(engine: AsyncEngine):
    stage = Stage(engine)
    submission_id = await stage.submit()
    await deletion.cancel(stage.rt, submission_id, caller="tests")
    before = await stage.vms()
    await deletion.cancel(stage.rt, submission_id, caller="tests")
    assert await stage.vms() == before
    with pytest.raises(NotFound):
        await deletion.cancel(stage.rt, stage.rt.uuid(), caller="tests")


# Two at once, and death in the middle.


async def test_two_daemons_ask_for_each_deletion_once(engine: AsyncEngine):
    stage = await running(engine, count=20)
    for vm_no in range(1, 21):
        await desired_state(stage, vm_no)
    daemons = [stage.rt, stage.daemon()]
    await asyncio.gather(*(delete.run_once(rt) for rt in daemons))
    await asyncio.gather(*(delete.run_once(rt) for rt in daemons))
    assert deletes(stage) == 20


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
async def test_a_process_that_is_killed_at_any_step_of_deleting_leaves_the_wish(engine: AsyncEngine, steps):
    # dstack #3453, #1551 (field-notes.md section 1).
    stage = await running(engine)
    await desired_state(stage)
    with stage.killed_after(steps):
        died = await stage.dies_in(delete.run_once(stage.rt))
    assert died
    await stage.live(300, step=20)
    assert (await stage.states(), stage.alive()) == (["DELETED"], [])


async def test_a_late_answer_to_a_delete_whose_lease_ran_out_changes_nothing(engine: AsyncEngine):
    # river #1302 (field-notes.md section 1).
    stage = await running(engine)
    await desired_state(stage)
    inner, reached, held = stage.between.inner, asyncio.Event(), asyncio.Event()

    class Held:
        async def send(self, *call):
            answer = await inner.send(*call)
            reached.set()
            await held.wait()
            return answer

    stage.between.inner = Held()
    deleting = asyncio.create_task(delete.run_once(stage.rt))
    await reached.wait()
    stage.rt = stage.daemon()
    await stage.wait(100)
    await apply.run_once(stage.rt)
    await delete.run_once(stage.rt)
    await refresh.run_once(stage.rt)
    ended = await stage.vm()
    assert ended.state is VmState.DELETED
    held.set()
    await deleting
    assert await stage.vm() == ended


@pytest.mark.parametrize("status", [301, 403, 405])
async def test_what_a_gateway_says_is_no_reason_to_let_a_vm_run(engine: AsyncEngine, status):
    stage = await running(engine)
    await desired_state(stage)
    stage.between.prepared["DELETE"] = [HttpResponse(status=status, headers={}, body=b"<html>forbidden</html>")]
    await delete.run_once(stage.rt)
    vm = await stage.vm()
    assert (vm.desired_state, vm.ready) == ("deleted", False)
    assert "could not be deleted yet" in (vm.reason or "")
    await stage.live(800, step=20)
    assert stage.alive() == []


async def test_a_wish_ends_the_lease_of_whoever_works_for_a_vm_that_is_wanted(engine: AsyncEngine):
    full = [{"id": 41, "discounts": [{"resource_name": "A100-80G-PCIe", "resource_count": 0}]}]
    stage = Stage(engine, cloud={"contracts": full})
    await stage.submit(count=2, contract_id=41, policy={"retry": {"first_wait_seconds": 10}})
    await stage.live(40, job_runs=(apply, create, refresh, rescue))
    reading = contract.run_once(stage.rt)
    stage.between.held = asyncio.Event()
    stage.between.hold = "GET"
    task = asyncio.ensure_future(reading)
    await stage.between.reached.wait()
    await deletion.delete(stage.rt, await stage.vm(1), caller="tests")
    stage.between.held.set()
    await task
    first, second = await stage.vms()
    assert (first.desired_state, first.contract_due_at) == ("deleted", None)
    assert (second.contract_due_at is not None, second.lease_token) == (True, None)

"""`maintain` and `on_stuck` against the simulated cloud: failed VMs are replaced, within limits, and not for ever."""

from collections.abc import Callable
from typing import Any

import pytest
from operator_api import TOKEN, serving
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage

from service.core.vm import Vm
from service.storage import repairs
from service.storage.engine import begin
from service.worker import health


@pytest.fixture
async def stage(engine: AsyncEngine) -> Stage:
    return Stage(engine, api_tokens=(f"tests={TOKEN}",), resync_seconds=60)


async def ready(stage: Stage, *, count: int = 3, **policy: Any) -> None:
    await stage.submit(count=count, policy=policy)
    await stage.until(lambda: all_ready(stage, count))


async def members(stage: Stage) -> list[Vm]:
    return [vm for vm in await stage.vms() if vm.member]


async def all_ready(stage: Stage, count: int) -> bool:
    return sum(vm.ready for vm in await members(stage)) == count


async def repaired(stage: Stage) -> int:
    return sum(vm.repair for vm in await stage.vms())


MAINTAIN = {"enabled": True, "grace_seconds": 30}


@pytest.mark.parametrize("deed", ["vanish", "error", "delete"])
async def test_a_vm_that_fails_or_is_deleted_by_others_is_replaced(stage: Stage, deed: str) -> None:
    await ready(stage, maintain=MAINTAIN)
    stage.console((await stage.vm(2)).provider_id, deed)
    await stage.until(lambda: replaced(stage, 2))
    await stage.until(lambda: all_ready(stage, 3))
    old, new = await stage.vm(2), await stage.vm(4)
    assert (old.member, old.replaced_by, new.replaces, new.repair) == (False, 4, 2, True)
    assert (await stage.submission()).state == "ready"
    alive = [one for one in stage.world.cloud.truth() if one["deleted_at"] is None]
    await stage.live(60, step=20)
    assert len(alive) <= 4
    assert len([one for one in stage.world.cloud.truth() if one["deleted_at"] is None]) == 3


async def replaced(stage: Stage, vm_no: int) -> bool:
    return (await stage.vm(vm_no)).replaced_by is not None


async def test_what_a_caller_deletes_and_what_nobody_asked_to_keep_is_not_replaced(stage: Stage) -> None:
    await ready(stage)
    stage.console((await stage.vm(2)).provider_id, "error")
    await stage.live(300, step=30)
    assert len(await stage.vms()) == 3


async def test_a_vm_that_a_caller_deletes_is_not_replaced(stage: Stage) -> None:
    await ready(stage, maintain=MAINTAIN)
    async with serving(stage.rt) as api:
        await api.request("DELETE", f"/v1/vms/{(await stage.vm(2)).provider_id}")
    await stage.live(300, step=30)
    assert len(await stage.vms()) == 3


async def test_on_stuck_replace_covers_an_error_after_ready_three_times(stage: Stage) -> None:
    await ready(stage, count=1, on_stuck="replace", maintain={"grace_seconds": 0})
    for number in (1, 2, 3, 4):
        stage.console((await stage.vm(number)).provider_id, "error")
        if number < 4:
            await stage.until(lambda number=number: replaced(stage, number))
            await stage.until(lambda: all_ready(stage, 1))
    await stage.live(300, step=30)
    last = await stage.vm(4)
    assert (len(await stage.vms()), last.state, last.stuck) == (4, "ERROR", True)


async def test_no_more_are_replaced_in_an_hour_than_the_policy_says(stage: Stage) -> None:
    await ready(stage, count=5, maintain={**MAINTAIN, "max_per_hour": 2})
    for number in (1, 2, 3):
        stage.console((await stage.vm(number)).provider_id, "vanish")
    await stage.live(1200, step=60)
    assert await repaired(stage) == 2
    # One that a caller deletes since has been made all the same.
    made = next(vm for vm in await members(stage) if vm.repair)
    async with serving(stage.rt) as api:
        await api.request("DELETE", f"/v1/vms/{made.provider_id}")
    stage.console((await stage.vm(4)).provider_id, "vanish")
    await stage.live(600, step=60)
    assert await repaired(stage) == 2
    await stage.until(lambda: all_ready(stage, 4), within=4000, step=120)
    assert await repaired(stage) == 4


async def crash_every_replacement(stage: Stage, until: Callable[..., Any]) -> None:
    for _ in range(60):
        if await until():
            return
        for vm in await members(stage):
            if vm.repair and vm.ready:
                stage.console(vm.provider_id, "vanish")
        await stage.live(60, step=20)
    raise AssertionError("it never came to that")


async def stopped(stage: Stage) -> bool:
    return (await stage.submission()).maintain_stopped_at is not None


async def test_a_crash_loop_stops_it_with_a_health_issue_and_maintain_starts_it_again(stage: Stage) -> None:
    await ready(stage, count=2, maintain={**MAINTAIN, "stop_after": 3})
    stage.console((await stage.vm(1)).provider_id, "vanish")
    await crash_every_replacement(stage, lambda: stopped(stage))
    assert await repaired(stage) == 3
    assert "3 replacements in a row failed" in str((await stage.submission()).reasons)
    await health.run_once(stage.rt)
    assert "replacements keep failing" in stage.rt.health.issues["crash loop"]
    assert stage.rt.health.ready
    await stage.live(600, step=60)
    assert await repaired(stage) == 3

    async with serving(stage.rt) as api:
        path = f"/v1/submissions/{(await stage.submission()).submission_id}"
        answer = await api.request("PATCH", path, {"maintain": {**MAINTAIN, "stop_after": 3}})
    assert (answer.status, answer.json["maintain_stopped_at"]) == (200, None)
    await health.run_once(stage.rt)
    assert "crash loop" not in stage.rt.health.issues
    await stage.until(lambda: all_ready(stage, 2))


async def looked_at(stage: Stage) -> bool:
    """Whether polls look for failed VMs of the submission, now or later."""
    await stage.live(10, step=5)
    return (await stage.submission()).repair_due_at is not None


async def test_polls_look_for_failed_vms_only_from_when_one_failed_until_it_is_replaced(stage: Stage) -> None:
    await ready(stage, maintain=MAINTAIN)
    assert not await looked_at(stage)
    stage.console((await stage.vm(2)).provider_id, "error")
    await stage.until(lambda: failed(stage, 2))
    due_at = (await stage.submission()).repair_due_at
    assert due_at is not None
    assert (due_at - (await stage.vm(2)).state_since).total_seconds() == MAINTAIN["grace_seconds"]
    await stage.until(lambda: replaced(stage, 2))
    await stage.until(lambda: all_ready(stage, 3))
    assert not await looked_at(stage)
    async with serving(stage.rt) as api:
        for vm in await members(stage):
            await api.request("DELETE", f"/v1/vms/{vm.provider_id}")
    await stage.until(lambda: all_ended(stage))
    assert not await looked_at(stage)


async def failed(stage: Stage, vm_no: int) -> bool:
    return (await stage.vm(vm_no)).state == "ERROR"


async def all_ended(stage: Stage) -> bool:
    return all(vm.ended_at is not None for vm in await stage.vms())


async def test_a_replacement_that_others_deleted_before_it_was_ready_is_replaced_once_the_submission_has_ended(
    stage: Stage,
) -> None:
    """While the submission is open, that is for `on_stuck` to mind."""
    await ready(stage, maintain=MAINTAIN)
    await stage.sql("UPDATE vms SET repair = true, ready = false, ready_at = NULL WHERE vm_no = 2")
    await stage.sql("UPDATE submissions SET state = 'open', ended_at = NULL")
    async with begin(stage.engine) as conn:
        await conn.execute(
            text("UPDATE vms SET state = 'DELETED', ended_at = state_since, next_refresh_at = NULL WHERE vm_no = 2")
        )
        await conn.execute(text("UPDATE submissions SET repair_due_at = NULL"))  # the job has looked
    await stage.until(lambda: replaced(stage, 2))


async def test_a_cancelled_submission_is_not_kept_up(stage: Stage) -> None:
    await ready(stage, maintain=MAINTAIN)
    async with serving(stage.rt) as api:
        await api.request("POST", f"/v1/submissions/{(await stage.submission()).submission_id}/cancel")
    await stage.live(300, step=30)
    assert len(await stage.vms()) == 3


async def test_a_repair_that_is_replaced_for_its_contract_did_not_crash(stage: Stage) -> None:
    await ready(stage, maintain=MAINTAIN)
    stage.console((await stage.vm(2)).provider_id, "vanish")
    await stage.until(lambda: replaced(stage, 2))
    await stage.until(lambda: all_ready(stage, 3))
    submission = await stage.submission()
    mine = text("UPDATE vms SET replaced_by = 1, member = :member, desired_state = :wanted, delete_due_at = :due,"
                " deletion_requested_at = :due WHERE vm_no = 4")  # fmt: skip
    for member, wanted in ((True, "present"), (False, "deleted")):
        async with begin(stage.engine) as conn:
            due = None if member else stage.world.clock.now()
            await conn.execute(mine, {"member": member, "wanted": wanted, "due": due})
            (made,) = await repairs.repairs(conn, submission.submission_id, since=submission.created_at)
        assert (made.failed_at, made.deleted_at) == (None, due)

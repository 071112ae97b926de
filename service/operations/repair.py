"""Replaces VMs that failed after they were ready, by the policies `maintain` and `on_stuck`."""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Final
from uuid import UUID

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.maintain import RepairDecision, decide_repairs
from service.core.submission import Policy
from service.core.vm import Vm, request_deletion
from service.operations import replacement
from service.operations.parts import in_parts
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.storage import repairs, submissions, vms
from service.storage.engine import begin, transact

#: How often the place of a VM is refilled by `on_stuck` alone.
MOST_REPLACEMENTS: Final = 3
_AT_ONCE: Final = 500


async def repair(rt: Runtime) -> int:
    """Replace what failed, submission by submission. Returns how many VMs were dealt with."""
    async with begin(rt.engine) as conn:
        ids = await repairs.submissions_to_repair(conn, now=rt.clock.now(), limit=100)
    done = 0

    async def of_submission(some: Sequence[UUID]) -> None:
        nonlocal done
        for submission_id in some:
            done += await transact(rt.engine, partial(_repair, rt, submission_id=submission_id))

    for submission_id, error in await in_parts(ids, of_submission, size=1):
        logger().error("failed VMs not replaced", action="repair", submission_id=str(submission_id), error=str(error))
        await transact(rt.engine, partial(_look_again, rt, submission_id=submission_id))
    return done


async def _look_again(rt: Runtime, conn: AsyncConnection, *, submission_id: UUID) -> None:
    await submissions.set_values(conn, submission_id, repair_due_at=rt.clock.now() + timedelta(minutes=5))


async def _repair(rt: Runtime, conn: AsyncConnection, *, submission_id: UUID) -> int:
    now = rt.clock.now()
    refs = await repairs.to_repair(conn, submission_id, now=now, limit=_AT_ONCE)
    locked = list((await vms.lock_free(conn, refs)).values())
    submission = await repairs.lock_submission(conn, submission_id)
    if submission is None or submission.cancelled_at is not None:
        return 0
    if submission.replaces_no_vms:
        await submissions.set_values(conn, submission_id, repair_due_at=None)
        return 0
    # Whoever had locked one of them may have dealt with it.
    still = set(await repairs.to_repair(conn, submission_id, now=now, limit=_AT_ONCE))
    failed = [vm for vm in locked if vm.ref in still]
    policy = Policy.model_validate(submission.policy)
    if failed and policy.maintain.enabled:
        since = submission.maintained_since or submission.created_at
        made_before = await repairs.repairs(conn, submission_id, since=since)
        last_hour = await repairs.last_hour(conn, submission_id, now=now)
        decision = decide_repairs(len(failed), made_before, last_hour, policy.maintain, now)
        await _replace(rt, conn, failed[: decision.allowed])
        done = decision.allowed
    else:
        decision, done = RepairDecision(len(failed)), await _by_on_stuck(rt, conn, failed)
    await _look_when_due(rt, conn, submission_id, decision)
    return done


async def _look_when_due(rt: Runtime, conn: AsyncConnection, submission_id: UUID, decision: RepairDecision) -> None:
    """Set when to look again: when the next VM is due, or null. A VM that fails later sets it by a trigger."""
    if decision.stop is not None:
        values = {"repair_due_at": None, "maintain_stopped_at": rt.clock.now()}
        await submissions.set_values(conn, submission_id, **values)
        await submissions.add_reason(conn, submission_id, decision.stop)
        logger().error("crash loop", action="repair", submission_id=str(submission_id), reason=decision.stop)
    else:
        due_at = decision.again_at or await repairs.next_due(conn, submission_id)
        await submissions.set_values(conn, submission_id, repair_due_at=due_at)


async def _by_on_stuck(rt: Runtime, conn: AsyncConnection, failed: Sequence[Vm]) -> int:
    """Replace VMs in ERROR whose places were not refilled too often; the others are flagged, and stay as they are."""
    worth_it = [vm for vm in failed if await vms.times_replaced(conn, vm) < MOST_REPLACEMENTS]
    await vms.save(conn, [replace(vm, stuck=True) for vm in failed if vm not in worth_it])
    await _replace(rt, conn, worth_it)
    return len(failed)


async def _replace(rt: Runtime, conn: AsyncConnection, chosen: Sequence[Vm]) -> None:
    if not chosen:
        return
    now = rt.clock.now()
    submission = (await submissions.read(conn, [chosen[0].submission_id]))[chosen[0].submission_id]
    deadline_at = now + timedelta(seconds=Policy.model_validate(submission.policy).deadline_seconds)
    new = await replacement.add_replacements(rt, conn, chosen, member=True, deadline_at=deadline_at, repair=True)
    changed = []
    for vm, other in zip(chosen, new, strict=True):
        gone = request_deletion(vm, f"{vm.state.value} after it was ready; replaced by VM {other.vm_no}", now)
        changed.append(replace(gone, replaced_by=other.vm_no, member=False, ready=False))
    await vms.save(conn, changed)
    logger().warning(
        "failed VMs are replaced", action="repair", submission_id=str(chosen[0].submission_id), vms=len(chosen)
    )

"""Replaces VMs that are not on their contracts, and never harms: see docs/decisions/0004 and 0059."""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Final
from uuid import UUID

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.contract import Assignment, Decision, Room, Step
from service.core.submission import Policy
from service.core.succession import Succession, succession
from service.core.vm import AssignmentStep, Vm, request_deletion
from service.operations import replacement
from service.operations.contract_steps import Case, given_up, later, note, save, tried
from service.operations.parts import in_parts
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.storage import contract_queue, submissions, vms
from service.storage.contract_queue import Pair
from service.storage.engine import begin, transact
from service.storage.vms import Ref

_AT_ONCE: Final = 500
#: How long the read of a new VM may take before it is looked at again.
_CHECK_WAIT: Final = timedelta(seconds=10)


async def replace_vms(rt: Runtime, conn: AsyncConnection, *, cases: Sequence[Case]) -> None:
    """Replace VMs of one submission, in the order that its policy says, and no more at once than it says."""
    locked = await vms.lock(conn, [case.vm.ref for case in cases])
    live = [case for case in cases if locked[case.vm.ref].lease_token == case.vm.lease_token]
    if not live:
        return
    submission_id, retry = live[0].vm.submission_id, live[0].policy.retry
    # Another daemon may replace VMs of it for another contract: counted while the submission is locked.
    if await submissions.is_cancelled(conn, submission_id):
        return
    replacing = (await contract_queue.count_replacing(conn, [submission_id])).get(submission_id, 0)
    stopped = (await submissions.read(conn, [submission_id]))[submission_id].replaces_no_vms
    free = 0 if stopped else max(0, retry.max_replacing - replacing)
    chosen, late = live[:free], live[free:]
    await save(rt, conn, [later(rt, locked[case.vm.ref], case.policy, counted=False) for case in late], [])
    olds = [locked[case.vm.ref] for case in chosen]
    if retry.replace_order == "delete_first":
        await _delete_first(rt, conn, chosen, olds)
    elif chosen:
        await _create_first(rt, conn, chosen, olds)


async def _create_first(rt: Runtime, conn: AsyncConnection, cases: Sequence[Case], olds: Sequence[Vm]) -> None:
    """Create the replacements; the old VMs stay until the new ones are on the contract."""
    retry = cases[0].policy.retry
    deadline_at = rt.clock.now() + timedelta(seconds=retry.deadline_seconds)
    replacements = await replacement.add_replacements(
        rt, conn, olds, member=False, deadline_at=deadline_at, pinned=True
    )
    changed, notes = [], []
    for case, vm, new in zip(cases, olds, replacements, strict=True):
        follow = rt.clock.now() + timedelta(seconds=retry.first_wait_seconds)
        old = replace(tried(vm), replaced_by=new.vm_no, contract_due_at=follow)
        changed.append(old)
        notes.append(note(rt, old, case, "sent", f"requested VM {new.vm_no} on the contract in its place"))
    await save(rt, conn, changed, notes)


async def _delete_first(rt: Runtime, conn: AsyncConnection, cases: Sequence[Case], olds: Sequence[Vm]) -> None:
    """Delete the old VMs; the rescue job creates the new ones when they are gone."""
    reason = "deleted first, to be replaced by a VM on its contract"
    changed, notes = [], []
    for case, vm in zip(cases, olds, strict=True):
        old = replace(request_deletion(tried(vm), reason, rt.clock.now()), refill=True)
        changed.append(old)
        notes.append(note(rt, old, case, "sent", "it is deleted first"))
    await save(rt, conn, changed, notes)


async def follow_up(rt: Runtime, conn: AsyncConnection, olds: Sequence[Vm]) -> None:
    """Follow up on replacements of leased VMs: make one a member once it may take over, delete it if it cannot."""
    leases = {vm.ref: vm.lease_token for vm in olds}
    for old, new, policy in await _lock_pairs(conn, [(vm.submission_id, vm.vm_no, vm.replaced_by) for vm in olds]):
        if old.lease_token == leases[old.ref]:
            await save(rt, conn, *_succession(rt, replace(old, lease_token=None, lease_until=None), new, policy))


async def resolve_replacing(rt: Runtime) -> int:
    """Follow up on replacements of VMs that nothing is tried for any more. Returns how many.

    Meanwhile such a VM got onto its contract by itself, was deleted, or is to be.
    """
    async with begin(rt.engine) as conn:
        pairs = await contract_queue.unresolved(conn, limit=_AT_ONCE)
    failed = await in_parts(pairs, lambda some: transact(rt.engine, partial(_resolve, rt, pairs=some)))
    for (submission_id, vm_no, _), error in failed:
        logger().error(
            "replacement not followed up", action="contract", vm=f"{submission_id}.{vm_no}", error=str(error)[:500]
        )
    return len(pairs) - len(failed)


async def _resolve(rt: Runtime, conn: AsyncConnection, *, pairs: Sequence[Pair]) -> None:
    for old, new, policy in await _lock_pairs(conn, pairs):
        if old.member and old.contract_due_at is None:
            await save(rt, conn, *_succession(rt, old, new, policy))


async def _lock_pairs(conn: AsyncConnection, pairs: Sequence[Pair]) -> list[tuple[Vm, Vm, Policy]]:
    """VMs with their replacements and policies, locked in one order; those left out that have another one by now."""
    refs = [(id_, no) for id_, *both in pairs for no in both if no is not None]
    locked = await vms.lock(conn, refs)
    found = await submissions.read(conn, [id_ for id_, *_ in pairs])
    policies = {id_: Policy.model_validate(one.policy) for id_, one in found.items()}
    return [
        (locked[id_, old], locked[id_, new], policies[id_])
        for id_, old, new in pairs
        if new is not None and locked[id_, old].replaced_by == new
    ]


def _succession(rt: Runtime, old: Vm, new: Vm, policy: Policy) -> tuple[list[Vm], list[AssignmentStep]]:
    now = rt.clock.now()
    match succession(old, new, policy, now):
        case Succession.TAKE_OVER:
            why = "is on the contract" if new.assignment is Assignment.ASSIGNED else "runs in its place"
            retired = request_deletion(old, f"replaced by VM {new.vm_no}, which {why}", now)
            return [replace(retired, member=False), replace(new, member=True)], []
        case Succession.TRY_AGAIN:
            dropped = request_deletion(new, f"not on the contract either, or not ready; VM {old.vm_no} stays", now)
            return [replace(later(rt, old, policy, counted=False), replaced_by=None), dropped], []
        case Succession.DROP:
            dropped = request_deletion(new, f"not needed any more in the place of VM {old.vm_no}", now)
            return [replace(old, replaced_by=None), dropped], []
        case Succession.GIVE_UP:
            case_ = Case(
                old, policy, Decision(Step.GIVE_UP, "it has been ACTIVE for too long to be replaced"), Room(None)
            )
            dropped = request_deletion(new, f"VM {old.vm_no} stays: it has been ACTIVE for too long", now)
            kept = replace(given_up(old, case_, now), replaced_by=None)
            return [kept, dropped], [note(rt, kept, case_, "given_up", case_.decision.reason)]
        case Succession.CHECK:
            # A read that failed is tried again when the wait after it is over.
            checked = new if new.refresh_attempts else replace(new, next_refresh_at=now)
            return [replace(old, contract_due_at=now + _CHECK_WAIT), checked], []
        case Succession.WAIT:
            soon = now + timedelta(seconds=max(1.0, min(5.0, policy.retry.first_wait_seconds)))
            return [replace(old, contract_due_at=soon)], []


async def refill(rt: Runtime) -> int:
    """Create the replacements of VMs that were deleted first and are gone. Returns how many."""
    async with begin(rt.engine) as conn:
        gone = await contract_queue.gone_to_refill(conn, limit=_AT_ONCE)
    done = 0
    for submission_id in sorted({ref[0] for ref in gone}):
        refs = [ref for ref in gone if ref[0] == submission_id]
        done += await transact(rt.engine, partial(_refill, rt, submission_id=submission_id, refs=refs))
    return done


async def _refill(rt: Runtime, conn: AsyncConnection, *, submission_id: UUID, refs: Sequence[Ref]) -> int:
    locked = (await vms.lock(conn, refs)).values()
    olds = [vm for vm in locked if vm.refill and vm.replaced_by is None and vm.ended_at is not None]
    if not olds:
        return 0
    if await submissions.is_cancelled(conn, submission_id):
        await vms.save(conn, [replace(vm, refill=False) for vm in olds])
        return 0
    submission = (await submissions.read(conn, [submission_id]))[submission_id]
    retry = Policy.model_validate(submission.policy).retry
    deadline_at = rt.clock.now() + timedelta(seconds=retry.deadline_seconds)
    new = await replacement.add_replacements(rt, conn, olds, member=True, deadline_at=deadline_at, pinned=True)
    await vms.save(
        conn, [replace(old, replaced_by=one.vm_no, member=False) for old, one in zip(olds, new, strict=True)]
    )
    return len(olds)

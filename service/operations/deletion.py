"""Records requests to delete VMs and cancel submissions. The delete job carries them out."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.evidence import end
from service.core.lifecycle import EvidenceKind, VmState
from service.core.submission import SubmissionState
from service.core.vm import Change, Provenance, Vm, request_deletion
from service.errors import NotAllowed, NotFound
from service.runtime.runtime import Runtime
from service.storage import actions, creations, orphans, submissions, vms
from service.storage.actions import Action
from service.storage.engine import transact

#: VMs that one transaction withdraws: a submission may have 100,000, and callbacks must be applied meanwhile.
_SET: Final = 500
#: Sets that are withdrawn before the caller gets the response.
_SETS: Final = 8
#: When the rescue job continues, if this process dies.
_LEASE: Final = timedelta(minutes=1)


async def delete(rt: Runtime, vm: Vm, *, caller: str) -> Vm:
    """Request a VM's deletion. Returns its record. Nothing changes if it has ended or is being deleted.

    The request is recorded as an action.
    """
    return await transact(rt.engine, partial(_delete, rt, vm, caller))


async def _delete(rt: Runtime, vm: Vm, caller: str, conn: AsyncConnection) -> Vm:
    locked = (await vms.lock(conn, [vm.ref]))[vm.ref]
    now = rt.clock.now()
    # One that is being deleted to be replaced is to stay away now.
    wanted = replace(locked, refill=False) if locked.refill and locked.replaced_by is None else locked
    requested = request_deletion(wanted, f"requested by {caller}", now)
    if requested is not locked:
        await vms.save(conn, [requested])
        request = Action(
            submission_id=vm.submission_id,
            action_id=rt.uuid(),
            vm_no=vm.vm_no,
            kind="delete",
            caller=caller,
            at=now,
        )
        await actions.insert(conn, request)
    return requested


async def cancel(rt: Runtime, submission_id: UUID, *, caller: str) -> None:
    """Cancel a submission: cancel creations that were not sent, and delete VMs that were made.

    The submission is cancelled at once, and its VMs are withdrawn in sets, each in its own transaction; the rescue job
    withdraws the rest of a large one. Cancelling again changes nothing. A submission that has ended keeps its state, but
    its VMs are deleted too. Raises `NotFound`, or `NotAllowed` if its VMs were imported.
    """
    done = await transact(rt.engine, partial(_cancel, rt, submission_id, caller))
    for _ in range(_SETS):
        if done:
            return
        done = await withdraw_set(rt, submission_id)
    if not done:
        now = rt.clock.now()
        await transact(rt.engine, partial(submissions.resume_withdrawal, submission_id=submission_id, now=now))


async def end_wanting(
    conn: AsyncConnection, submission_id: UUID, *, now: datetime, reason: str, withdraw_at: datetime
) -> None:
    """Record that a submission's VMs are to be deleted; from `withdraw_at` on the rescue job withdraws those that are left."""
    await submissions.cancel(conn, submission_id, now=now, reason=reason, withdraw_at=withdraw_at)
    await orphans.suspect_again(conn, submission_id, now=now)
    await submissions.end_if_open(conn, submission_id, SubmissionState.CANCELLED, now)


async def withdraw_set(rt: Runtime, submission_id: UUID) -> bool:
    """Withdraw a set of a cancelled submission's VMs. Returns whether none are left."""
    return await transact(rt.engine, partial(_withdraw, rt, submission_id))


async def _cancel(rt: Runtime, submission_id: UUID, caller: str, conn: AsyncConnection) -> bool:
    found = await submissions.get(conn, submission_id)
    if found is None:
        raise NotFound(f"there is no submission {submission_id}")
    if found.origin == "imported":
        raise NotAllowed("its VMs were imported: release them, or delete them by their names")
    now = rt.clock.now()  # before anything ends by it
    reason = f"submission cancelled by {caller}"
    changed = await _withdraw_some(rt, conn, submission_id, reason)
    await end_wanting(conn, submission_id, now=now, reason=reason, withdraw_at=now + _LEASE)
    if changed or found.cancelled_at is None:
        request = Action(submission_id=submission_id, action_id=rt.uuid(), kind="cancel", caller=caller, at=now)
        await actions.insert(conn, request)
    return False


async def _withdraw(rt: Runtime, submission_id: UUID, conn: AsyncConnection) -> bool:
    found = await submissions.get(conn, submission_id)
    reason = (found and found.cancel_reason) or "submission cancelled"
    if await _withdraw_some(rt, conn, submission_id, reason):
        return False
    # Others may have made replacements meanwhile; while the submission is locked nobody can.
    await submissions.is_cancelled(conn, submission_id)
    if await vms.wanted(conn, submission_id, limit=1):
        return False
    await submissions.end_withdrawal(conn, submission_id)
    return True


async def _withdraw_some(rt: Runtime, conn: AsyncConnection, submission_id: UUID, reason: str) -> int:
    """Withdraw a set of VMs. Returns how many of them were not withdrawn before."""
    # Lock creations before VMs, and VMs in the order of their keys, as everywhere.
    withdrawn = set(await creations.cancel_due(conn, submission_id, now=rt.clock.now()))
    changed = 0
    for creation_no in sorted(withdrawn):
        of_it = await vms.lock_creation(conn, submission_id, creation_no)
        changed += await _give_up(rt, conn, list(of_it.values()), withdrawn, reason)
    if withdrawn:
        return changed or len(withdrawn)
    locked = await vms.lock_free(conn, await vms.wanted(conn, submission_id, limit=_SET))
    return await _give_up(rt, conn, list(locked.values()), withdrawn, reason)


async def _give_up(
    rt: Runtime, conn: AsyncConnection, locked: Sequence[Vm], withdrawn: AbstractSet[int], reason: str
) -> int:
    unsent = [vm for vm in locked if vm.creation_no in withdrawn and vm.state is VmState.REQUESTED]
    changes = [_withdrawn(rt, vm, reason) for vm in unsent]
    await vms.save_changes(conn, [change.vm for change in changes], changes)
    ended = {vm.vm_no for vm in unsent}
    requested = [(vm, request_deletion(vm, reason, rt.clock.now())) for vm in locked if vm.vm_no not in ended]
    newly = [new for old, new in requested if new is not old]
    await vms.save(conn, newly)
    return len(unsent) + len(newly)


def _withdrawn(rt: Runtime, vm: Vm, reason: str) -> Change:
    now = rt.clock.now()
    provenance = Provenance(kind=EvidenceKind.DECISION, at=now, now=now)
    return end(vm, VmState.CANCELLED, provenance, rt.refresh_policy, f"{reason} before it was sent")

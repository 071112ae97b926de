"""Wishes that VMs be gone. They are only written down here; the worker carries them out and keeps at it."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core import planning
from service.core.evidence import end
from service.core.lifecycle import EvidenceKind, VmState
from service.core.submission import SubmissionState
from service.core.vm import Change, Provenance, Vm, request_deletion
from service.errors import NotFound
from service.runtime.runtime import Runtime
from service.storage import actions, creations, orphans, submissions, vms
from service.storage.actions import Action
from service.storage.engine import transact

#: VMs that are dealt with at once: a submission may have 100,000, and callbacks come in meanwhile.
_SET: Final = 500


async def delete(rt: Runtime, vm: Vm, *, caller: str) -> Vm:
    """Wish that a VM be gone; its record. Nothing changes where it has ended or is wished away already.

    Who asked for it is on record for good: the wish itself ends with a refusal.
    """
    return await transact(rt.engine, partial(_delete, rt, vm, caller))


async def _delete(rt: Runtime, vm: Vm, caller: str, conn: AsyncConnection) -> Vm:
    locked = (await vms.lock(conn, [vm.ref]))[vm.ref]
    now = rt.clock.now()
    wished = request_deletion(locked, f"deletion asked for by {caller}", now)
    if wished is not locked:
        await vms.save(conn, [wished])
        request = Action(
            submission_id=vm.submission_id,
            action_id=rt.uuid(),
            vm_no=vm.vm_no,
            kind="delete",
            caller=caller,
            at=now,
        )
        await actions.insert(conn, request)
    return wished


async def cancel(rt: Runtime, submission_id: UUID, *, caller: str) -> None:
    """Withdraw a submission: what was not sent never will be, and what was made is wished away.

    Done again it changes nothing. A submission that has ended keeps its state, and its VMs are wished away all the
    same. Raises `NotFound`.
    """
    await transact(rt.engine, partial(_cancel, rt, submission_id, caller))


async def _cancel(rt: Runtime, submission_id: UUID, caller: str, conn: AsyncConnection) -> None:
    found = await submissions.get(conn, submission_id)
    if found is None:
        raise NotFound(f"there is no submission {submission_id}")
    now = rt.clock.now()  # before anything ends by it
    reason = f"submission cancelled by {caller}"
    changed = await _withdraw(rt, conn, submission_id, range(1, found.next_vm_no), reason)
    # Others may have asked for replacements meanwhile; from here on nobody can.
    next_vm_no = await submissions.cancel(conn, submission_id, now=now)
    changed += await _withdraw(rt, conn, submission_id, range(found.next_vm_no, next_vm_no), reason)
    await orphans.suspect_again(conn, submission_id, now=now)
    await submissions.end_if_open(conn, submission_id, SubmissionState.CANCELLED, now)
    if changed or found.cancelled_at is None:
        request = Action(submission_id=submission_id, action_id=rt.uuid(), kind="cancel", caller=caller, at=now)
        await actions.insert(conn, request)


async def _withdraw(rt: Runtime, conn: AsyncConnection, submission_id: UUID, vm_nos: range, reason: str) -> int:
    """Withdraw VMs; how many of them were not withdrawn before."""
    changed = 0
    # Creations before VMs, and VMs in the order of their keys, as everybody locks them.
    withdrawn = set(await creations.cancel_due(conn, submission_id, now=rt.clock.now()))
    for creation_no in sorted(withdrawn):
        of_it = await vms.lock_creation(conn, submission_id, creation_no)
        changed += await _give_up(rt, conn, list(of_it.values()), withdrawn, reason)
    for some in planning.batched(vm_nos, _SET):
        locked = await vms.lock(conn, [(submission_id, vm_no) for vm_no in some])
        others = [vm for vm in locked.values() if vm.creation_no not in withdrawn]
        changed += await _give_up(rt, conn, others, withdrawn, reason)
    return changed


async def _give_up(
    rt: Runtime, conn: AsyncConnection, locked: Sequence[Vm], withdrawn: AbstractSet[int], reason: str
) -> int:
    unsent = [vm for vm in locked if vm.creation_no in withdrawn and vm.state is VmState.REQUESTED]
    changes = [_withdrawn(rt, vm, reason) for vm in unsent]
    await vms.save_changes(conn, [change.vm for change in changes], changes)
    ended = {vm.vm_no for vm in unsent}
    wished = [(vm, request_deletion(vm, reason, rt.clock.now())) for vm in locked if vm.vm_no not in ended]
    newly = [new for old, new in wished if new is not old]
    await vms.save(conn, newly)
    return len(unsent) + len(newly)


def _withdrawn(rt: Runtime, vm: Vm, reason: str) -> Change:
    now = rt.clock.now()
    provenance = Provenance(kind=EvidenceKind.DECISION, at=now, now=now)
    return end(vm, VmState.CANCELLED, provenance, rt.refresh_policy, f"{reason} before it was sent")

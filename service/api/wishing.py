"""Wishes that VMs be gone. They are only written down here; the worker carries them out and keeps at it."""

from functools import partial
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core import planning
from service.core.lifecycle import EvidenceKind, VmState
from service.core.submission import SubmissionState
from service.core.vm import Change, Source, Vm, end, wish_absent
from service.errors import NotFound
from service.runtime import Runtime
from service.storage import creations, submissions, vms
from service.storage.engine import transact

_SET = 1000


async def delete(rt: Runtime, vm: Vm, *, caller: str) -> Vm:
    """Wish that a VM be gone; its record. Nothing changes where it has ended or is wished away already."""
    return await transact(rt.engine, partial(_delete, rt, vm, caller))


async def _delete(rt: Runtime, vm: Vm, caller: str, conn: AsyncConnection) -> Vm:
    locked = (await vms.lock(conn, [vm.ref]))[vm.ref]
    wished = wish_absent(locked, f"deletion asked for by {caller}", rt.clock.now())
    if wished is not locked:
        await vms.save(conn, [wished])
    return wished


async def cancel(rt: Runtime, submission_id: UUID, *, caller: str) -> None:
    """Withdraw a submission: what was not sent never will be, and what was made is wished away.

    Done again it changes nothing. A submission that has ended keeps its state, and its VMs are wished away all the
    same. Raises `NotFound`.
    """
    await transact(rt.engine, partial(_cancel, rt, submission_id, caller))


async def _cancel(rt: Runtime, submission_id: UUID, caller: str, conn: AsyncConnection) -> None:
    if await submissions.get(conn, submission_id) is None:
        raise NotFound(f"there is no submission {submission_id}")
    # Creations before VMs, as the worker locks them.
    withdrawn = set(await creations.cancel_due(conn, submission_id, now=rt.clock.now()))
    locked = await vms.lock_submission(conn, submission_id)
    unsent = [vm for vm in locked.values() if vm.creation_no in withdrawn and vm.state is VmState.REQUESTED]
    ended = {vm.ref for vm in unsent}
    for some in planning.in_sets(unsent, _SET):
        changes = [_withdrawn(rt, vm) for vm in some]
        await vms.save_changes(conn, [change.vm for change in changes], changes)
    reason = f"submission cancelled by {caller}"
    wished = (wish_absent(vm, reason, rt.clock.now()) for ref, vm in locked.items() if ref not in ended)
    changed = [vm for vm in wished if vm is not locked[vm.ref]]
    for some in planning.in_sets(changed, _SET):
        await vms.save(conn, some)
    await submissions.end_if_open(conn, submission_id, SubmissionState.CANCELLED, rt.clock.now())


def _withdrawn(rt: Runtime, vm: Vm) -> Change:
    now = rt.clock.now()
    source = Source(kind=EvidenceKind.DECISION, at=now, now=now)
    return end(vm, VmState.CANCELLED, source, rt.pace, "cancelled before it was sent")

"""Lets go of imported VMs: their callback URLs are taken off, and from then on nothing is done to them any more."""

from collections.abc import Sequence
from functools import partial
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.evidence import end
from service.core.lifecycle import EvidenceKind, VmState
from service.core.vm import Provenance, Vm
from service.errors import NotAllowed, NotFound
from service.operations import binding
from service.operations.callbacks import Callbacks
from service.runtime.runtime import Runtime
from service.runtime.tasks import gather_all
from service.storage import actions, imports, submissions, vms
from service.storage.actions import Action
from service.storage.engine import begin, transact
from service.storage.vms import Ref


async def release(rt: Runtime, submission_id: UUID, *, vm_no: int | None = None, caller: str) -> list[Vm]:
    """Release a VM, or all living VMs of a submission. Returns their records. Doing so twice changes nothing more.

    Raises `NotFound`, and `NotAllowed` if they were not imported or are being deleted.
    """
    async with begin(rt.engine) as conn:
        found = await submissions.get(conn, submission_id)
        if found is None:
            raise NotFound(f"there is no submission {submission_id}")
        if found.origin != "imported":
            raise NotAllowed("only imported VMs can be released; Rollcall made these: delete them")
        refs = await imports.living(conn, submission_id) if vm_no is None else [(submission_id, vm_no)]
        living = [vm for vm in await vms.read(conn, refs) if vm.ended_at is None]
    _check(living)
    detaching = Callbacks(rt, caller)
    await gather_all(detaching.detach(vm) for vm in living)
    return await transact(rt.engine, partial(_release, rt, refs=refs, caller=caller))


def _check(found: Sequence[Vm]) -> None:
    deleting = [vm for vm in found if vm.desired_state == "deleted" and vm.ended_at is None]
    if deleting:
        raise NotAllowed(f"VM {deleting[0].provider_id} is being deleted: {deleting[0].deletion_reason}")


async def _release(rt: Runtime, conn: AsyncConnection, *, refs: Sequence[Ref], caller: str) -> list[Vm]:
    locked = await vms.lock(conn, refs)
    living, now = [vm for vm in locked.values() if vm.ended_at is None], rt.clock.now()
    _check(living)
    decided = Provenance(kind=EvidenceKind.DECISION, at=now, now=now)
    changes = [end(vm, VmState.RELEASED, decided, rt.refresh_policy, f"released by {caller}") for vm in living]
    await vms.save_changes(conn, [change.vm for change in changes], changes)
    binding.count_changes(rt, changes)
    for vm in living:
        await actions.insert(conn, Action(vm.submission_id, rt.uuid(), "release", caller, now, vm.vm_no))
    return [{change.vm.ref: change.vm for change in changes}.get(ref, vm) for ref, vm in locked.items()]

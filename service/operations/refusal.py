"""Ends the VMs of a creation that will never be made."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.lifecycle import VmState
from service.operations import binding
from service.runtime.runtime import Runtime
from service.storage import submissions, vms
from service.storage.creations import Creation


async def refuse_vms(
    rt: Runtime, conn: AsyncConnection, creation: Creation, reason: str, *, evidence_id: UUID | None
) -> None:
    """End the VMs of a creation that will not be made, and add the reason to the submission."""
    found = await vms.lock_creation(conn, creation.submission_id, creation.creation_no)
    open_ = [vm for vm in found.values() if vm.state is VmState.REQUESTED]
    changes = [
        binding.ended(
            rt, vm, VmState.CANCELLED if vm.desired_state == "deleted" else VmState.REFUSED, reason, evidence_id
        )
        for vm in open_
    ]
    await vms.save_changes(conn, [change.vm for change in changes], changes)
    binding.count_changes(rt, changes)
    await submissions.add_reason(conn, creation.submission_id, reason)
    await binding.retry_replaced(conn, open_, rt.clock.now())

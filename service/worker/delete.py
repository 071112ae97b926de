"""Deletes VMs that nobody wants any more. A deletion goes on until the provider itself says that the VM is gone.

A VM that is being created cannot be deleted yet (infrahub-api.md section 2.3), an accepted delete may fail later without a
word, and a 409 says that an earlier one is still under way (section 10). So no answer but the VM's absence ends a deletion.
"""

from datetime import timedelta
from functools import partial
from uuid import UUID

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.evidence import apply_absence
from service.core.lifecycle import ALLOWED, EvidenceKind, Operation, VerdictKind, VmState
from service.core.token import CreationRef
from service.core.vm import Change, Provenance, Vm
from service.errors import VmNotFound
from service.operations import binding, contract_room
from service.operations.provider_calls import CallResult, acquire, call_about, make_call, record_results
from service.runtime.runtime import Runtime
from service.runtime.slots import Claimed, slots
from service.storage import calls, creations, vms
from service.storage.calls import Call
from service.storage.engine import transact

#: Creations that have ended without a VM.
_ENDED_EMPTY = frozenset({"cancelled", "refused"})


async def run_once(rt: Runtime) -> int:
    """Act on the deletions that are due, and wait for the answers; how many were dealt with."""
    claimed = await claim(rt, slots(rt.settings)["delete"])
    return await claimed.make_calls()


async def claim(rt: Runtime, free: int) -> Claimed:
    """Lease up to `free` due deletions; the delete calls for those that may be made now. The rest is deferred."""
    token = rt.uuid()
    claimed, to_call = await transact(rt.engine, lambda conn: _claim(rt, conn, token, free))
    return Claimed(claimed, [partial(_delete, rt, vm, call) for vm, call in to_call])


async def _claim(rt: Runtime, conn: AsyncConnection, token: UUID, free: int) -> tuple[int, list[tuple[Vm, Call]]]:
    now = rt.clock.now()
    lease = timedelta(seconds=rt.settings.call_timeout + 30)
    due = await vms.claim_deletes(conn, now=now, lease=lease, token=token, limit=free)
    unbound = [vm for vm in due if vm.provider_id is None]
    early = [vm for vm in due if vm.provider_id is not None and not _may_try(vm)]
    ready = [vm for vm in due if vm.provider_id is not None and _may_try(vm)]
    granted = await acquire(rt, conn, Operation.DELETE, len(ready))
    for vm in unbound:
        await _withdraw(rt, conn, vm)
    await vms.save(conn, [_defer(rt, vm) for vm in [*early, *ready[granted:]]])
    counted = [replace(vm, delete_attempts=vm.delete_attempts + 1) for vm in ready[:granted]]
    await vms.save(conn, counted)
    to_call = [(vm, call_about(rt, vm, Operation.DELETE, attempt=vm.delete_attempts)) for vm in counted]
    await calls.begin(conn, [call for _, call in to_call])
    return len(due), to_call


def _may_try(vm: Vm) -> bool:
    # A VM that hangs in BUILD for good is tried all the same: it costs money.
    return Operation.DELETE in ALLOWED[vm.state] or vm.stuck or vm.delete_attempts > 0


async def _withdraw(rt: Runtime, conn: AsyncConnection, vm: Vm) -> None:
    """End a VM that was certainly not sent; defer one that may have been until its creation is resolved."""
    ref = CreationRef(vm.submission_id, vm.creation_no)
    creation = (await creations.lock(conn, [ref]))[ref]
    if creation.state not in {"due", *_ENDED_EMPTY}:
        await vms.save(conn, [_defer(rt, vm)])
        return
    change = binding.ended(rt, vm, VmState.CANCELLED, vm.deletion_reason or "cancelled before it was sent")
    await vms.save_changes(conn, [change.vm], [change])
    binding.count_changes(rt, [change])
    await creations.give_back_place(conn, creation, now=rt.clock.now(), reason="cancelled")


def _defer(rt: Runtime, vm: Vm) -> Vm:
    again = rt.retry.after(max(vm.delete_attempts, 2), rt.jitter())
    return replace(vm, delete_due_at=rt.clock.now() + again, lease_token=None, lease_until=None)


async def _delete(rt: Runtime, vm: Vm, call: Call) -> None:
    provider_id = vm.provider_id
    assert provider_id is not None  # noqa: S101  only bound VMs are called about
    result = await make_call(rt, call, lambda: rt.client.delete_vm(provider_id))
    await transact(rt.engine, lambda conn: _complete(rt, conn, vm, result))


async def _complete(rt: Runtime, conn: AsyncConnection, leased: Vm, result: CallResult[None]) -> None:
    await record_results(rt, conn, [result])
    vm = (await vms.lock(conn, [leased.ref]))[leased.ref]
    if vm.lease_token != leased.lease_token or vm.ended_at is not None:
        return  # another daemon has it by now, or it is gone
    changes = [_after(rt, vm, result)]
    await vms.save_changes(conn, [change.vm for change in changes], changes)
    await contract_room.wake_for(rt, conn, changes)
    binding.count_changes(rt, changes)


def _after(rt: Runtime, vm: Vm, result: CallResult[None]) -> Change:
    """What a delete call changes in the record: the one place that switches on the errors."""
    now = rt.clock.now()
    released = _defer(rt, vm)
    match result.error:
        case None:
            # Accepted is not done. It is refreshed soon, and deleted again should it still be there much later.
            soon = now + timedelta(seconds=rt.settings.again_seconds)
            again = now + timedelta(seconds=rt.settings.overdue_seconds)
            return _unchanged(replace(released, delete_due_at=again, next_refresh_at=soon, refresh_attempts=0))
        case VmNotFound():
            provenance = Provenance(kind=EvidenceKind.ANSWER, at=result.call.begun_at, now=now, id=result.call.call_id)
            newborn_for = timedelta(seconds=rt.settings.newborn_seconds)
            return apply_absence(released, provenance, rt.refresh_policy, newborn_for=newborn_for)
        case error:
            # Whatever it says, the VM may go on and cost money: it is refreshed now, and deleted again later.
            return _unchanged(replace(released, next_refresh_at=now, reason=f"could not be deleted yet: {error}"))


def _unchanged(vm: Vm) -> Change:
    return Change(vm, VerdictKind.UNCHANGED)

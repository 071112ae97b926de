"""Deletes VMs. A deletion is repeated until the provider no longer knows the VM.

A VM that is being created cannot be deleted yet (infrahub-api.md section 2.3), an accepted delete may fail silently, and a
409 means that an earlier one is still running (section 10). So only the VM's absence ends a deletion.
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
    """Process due deletions, as many as there are slots, and wait for the answers. Returns how many."""
    claimed = await claim(rt, slots(rt.settings)["delete"])
    return await claimed.make_calls()


async def claim(rt: Runtime, free: int) -> Claimed:
    """Lease up to `free` due deletions; the delete calls for those that may be made now. The rest is deferred.

    Those for which the rate limit has no room do not count: the job must not run again at once because of them.
    """
    token = rt.uuid()
    claimed, to_call = await transact(rt.engine, lambda conn: _claim(rt, conn, token, free))
    return Claimed(claimed, [partial(_delete, rt, vm, call) for vm, call in to_call])


async def _claim(rt: Runtime, conn: AsyncConnection, token: UUID, free: int) -> tuple[int, list[tuple[Vm, Call]]]:
    now = rt.clock.now()
    lease = rt.lease(rt.settings.call_timeout)
    due = await vms.claim_deletes(conn, now=now, lease=lease, token=token, limit=free)
    unbound = [vm for vm in due if vm.provider_id is None]
    early = [vm for vm in due if vm.provider_id is not None and not _may_try(rt, vm)]
    ready = [vm for vm in due if vm.provider_id is not None and _may_try(rt, vm)]
    granted = await acquire(rt, conn, Operation.DELETE, len(ready))
    for vm in unbound:
        await _withdraw(rt, conn, vm)
    # What is too early is due at once when the VM moves on.
    await vms.save(conn, [*(_defer(rt, vm, 4) for vm in early), *(_defer(rt, vm) for vm in ready[granted:])])
    counted = [replace(vm, delete_attempts=vm.delete_attempts + 1) for vm in ready[:granted]]
    await vms.save(conn, counted)
    to_call = [(vm, call_about(rt, vm, Operation.DELETE, attempt=vm.delete_attempts)) for vm in counted]
    await calls.begin(conn, [call for _, call in to_call])
    return len(due) - len(ready[granted:]), to_call


def _may_try(rt: Runtime, vm: Vm) -> bool:
    """Whether the provider may take the delete call: it refuses one of a VM that is being created.

    One that hangs in BUILD for good, or in a status that we do not know, is tried all the same: it costs money.
    """
    overdue = timedelta(seconds=rt.settings.overdue_seconds)
    waited_since = vm.deletion_requested_at or vm.created_at
    may_hang = vm.stuck or vm.delete_attempts > 0 or rt.clock.now() >= waited_since + overdue
    return Operation.DELETE in ALLOWED[vm.state] or may_hang


async def _withdraw(rt: Runtime, conn: AsyncConnection, vm: Vm) -> None:
    """End a VM that was certainly not created; defer one that perhaps was."""
    ref = CreationRef(vm.submission_id, vm.creation_no)
    creation = (await creations.lock(conn, [ref]))[ref]
    if creation.state not in {"due", *_ENDED_EMPTY}:
        await vms.save(conn, [_defer(rt, vm)])
        return
    change = binding.ended(rt, vm, VmState.CANCELLED, vm.deletion_reason or "cancelled before it was sent")
    await vms.save_changes(conn, [change.vm], [change])
    binding.count_changes(rt, [change])
    await creations.give_back_place(conn, creation, now=rt.clock.now(), reason="cancelled")


def _defer(rt: Runtime, vm: Vm, tries: int = 2) -> Vm:
    again = rt.retry.after(max(vm.delete_attempts, tries), rt.jitter())
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
        return  # another daemon has it, or it is gone
    changes = [_after(rt, vm, result)]
    await vms.save_changes(conn, [change.vm for change in changes], changes)
    await contract_room.wake_for(rt, conn, changes)
    binding.count_changes(rt, changes)


def _after(rt: Runtime, vm: Vm, result: CallResult[None]) -> Change:
    """The change after a delete call: the one place that switches on the errors."""
    now = rt.clock.now()
    released = _defer(rt, vm)
    match result.error:
        case None:
            # Accepted is not done: refresh it soon, and delete it again if it is still there much later.
            soon = now + timedelta(seconds=rt.settings.again_seconds)
            again = now + timedelta(seconds=rt.settings.overdue_seconds)
            return _unchanged(replace(released, delete_due_at=again, next_refresh_at=soon, refresh_attempts=0))
        case VmNotFound():
            provenance = Provenance(kind=EvidenceKind.ANSWER, at=result.call.begun_at, now=now, id=result.call.call_id)
            newborn_for = timedelta(seconds=rt.settings.newborn_seconds)
            return apply_absence(released, provenance, rt.refresh_policy, newborn_for=newborn_for)
        case error:
            # Whatever the error, the VM may go on costing money: refresh it now, and delete it again later.
            return _unchanged(replace(released, next_refresh_at=now, reason=f"could not be deleted yet: {error}"))


def _unchanged(vm: Vm) -> Change:
    return Change(vm, VerdictKind.UNCHANGED)

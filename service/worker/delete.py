"""Carries out wishes that VMs be gone: kept until the provider itself says that they are.

A VM that is still being created cannot be deleted (infrahub-api.md section 2.3), and a delete that was accepted
may fail later without a word, so a wish ends only with the VM, or with a refusal that repeating will not change.
"""

import asyncio
from datetime import timedelta
from uuid import UUID

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.evidence import apply_absence, with_readiness
from service.core.lifecycle import ALLOWED, EvidenceKind, Operation, VerdictKind, VmState
from service.core.token import CreationRef
from service.core.vm import Change, Provenance, Vm
from service.errors import CredentialsRejected, NotYet, ProviderError, Refused, VmNotFound
from service.operations import binding
from service.operations.provider_calls import CallResult, acquire, call_about, make_call, record_results
from service.runtime.runtime import Runtime
from service.storage import calls, creations, vms
from service.storage.calls import Call
from service.storage.engine import transact

_AT_ONCE = 16
#: Creations that have ended without a VM.
_UNMADE = frozenset({"cancelled", "refused"})
#: What the provider itself refuses for good (a locked VM, say) comes with these, or with a reason of its own.
_FINAL = frozenset({200, 400, 409, 422})


async def run_once(rt: Runtime) -> int:
    """Act on the wishes that are due; how many were looked at."""
    token = rt.uuid()
    claimed, to_call = await transact(rt.engine, lambda conn: _claim(rt, conn, token))
    await asyncio.gather(*(_delete(rt, vm, call) for vm, call in to_call))
    return claimed


async def _claim(rt: Runtime, conn: AsyncConnection, token: UUID) -> tuple[int, list[tuple[Vm, Call]]]:
    now = rt.clock.now()
    lease = timedelta(seconds=rt.settings.call_timeout + 30)
    due = await vms.claim_deletes(conn, now=now, lease=lease, token=token, limit=_AT_ONCE)
    unbound = [vm for vm in due if vm.provider_id is None]
    early = [vm for vm in due if vm.provider_id is not None and not _may_try(vm)]
    ready = [vm for vm in due if vm.provider_id is not None and _may_try(vm)]
    granted = await acquire(rt, conn, Operation.DELETE, len(ready))
    for vm in unbound:
        await _withdraw(rt, conn, vm)
    await vms.save(conn, [_put_off(rt, vm) for vm in [*early, *ready[granted:]]])
    counted = [replace(vm, delete_attempts=vm.delete_attempts + 1) for vm in ready[:granted]]
    await vms.save(conn, counted)
    to_call = [(vm, call_about(rt, vm, Operation.DELETE, attempt=vm.delete_attempts)) for vm in counted]
    await calls.begin(conn, [call for _, call in to_call])
    return len(due), to_call


def _may_try(vm: Vm) -> bool:
    # A VM that hangs in BUILD for good has to be asked about all the same: it is costing money.
    return Operation.DELETE in ALLOWED[vm.state] or vm.stuck or vm.delete_attempts > 0


async def _withdraw(rt: Runtime, conn: AsyncConnection, vm: Vm) -> None:
    """End a VM that was certainly not sent; leave one that may have been to those who look for it."""
    ref = CreationRef(vm.submission_id, vm.creation_no)
    creation = (await creations.lock(conn, [ref]))[ref]
    if creation.state not in {"due", *_UNMADE}:
        await vms.save(conn, [_put_off(rt, vm)])
        return
    change = binding.ended(rt, vm, VmState.CANCELLED, vm.deletion_reason or "cancelled before it was sent")
    await vms.save_changes(conn, [change.vm], [change])
    binding.count_changes(rt, [change])
    await creations.give_back_place(conn, creation, now=rt.clock.now(), reason="cancelled")


def _put_off(rt: Runtime, vm: Vm) -> Vm:
    again = rt.retry.after(max(vm.delete_attempts, 2), rt.jitter())
    return replace(vm, delete_due_at=rt.clock.now() + again, lease_token=None, lease_until=None)


async def _delete(rt: Runtime, vm: Vm, call: Call) -> None:
    provider_id = vm.provider_id
    assert provider_id is not None  # noqa: S101  only bound VMs are called about
    asked = await make_call(rt, call, lambda: rt.client.delete_vm(provider_id))
    await transact(rt.engine, lambda conn: _settle(rt, conn, vm, asked))


async def _settle(rt: Runtime, conn: AsyncConnection, leased: Vm, asked: CallResult[None]) -> None:
    await record_results(rt, conn, [asked])
    vm = (await vms.lock(conn, [leased.ref]))[leased.ref]
    if vm.lease_token != leased.lease_token or vm.ended_at is not None:
        return  # it is somebody else's by now, or gone
    changes = [_after(rt, vm, asked)]
    await vms.save_changes(conn, [change.vm for change in changes], changes)
    binding.count_changes(rt, changes)


def _after(rt: Runtime, vm: Vm, asked: CallResult[None]) -> Change:
    """What becomes of the wish: the one place that switches on the errors."""
    now = rt.clock.now()
    free = replace(_put_off(rt, vm), lease_token=None, lease_until=None)
    provenance = Provenance(kind=EvidenceKind.ANSWER, at=asked.call.begun_at, now=now, id=asked.call.call_id)
    match asked.error:
        case None:
            # Accepted is not done. It is read soon, and asked for again should it still be there much later.
            look = now + timedelta(seconds=rt.settings.again_seconds)
            again = now + timedelta(seconds=rt.settings.overdue_seconds)
            return _unchanged(replace(free, delete_due_at=again, next_refresh_at=look, refresh_attempts=0))
        case VmNotFound():
            return apply_absence(
                free, provenance, rt.refresh_policy, newborn_for=timedelta(seconds=rt.settings.newborn_seconds)
            )
        case NotYet() | CredentialsRejected():
            return _unchanged(replace(free, next_refresh_at=now))
        case Refused() as error if error.reason or error.status in _FINAL:
            return _unchanged(with_readiness(_refused(free, error), now))
        case Refused() as error:
            # A gateway, a redirect, somebody's firewall: what it says is no reason to let a VM run and cost.
            again = now + timedelta(seconds=rt.settings.resync_seconds)
            return _unchanged(replace(free, delete_due_at=again, reason=f"could not be deleted yet: {error}"))
        case _:
            return _unchanged(free)


def _refused(vm: Vm, error: ProviderError) -> Vm:
    reason = f"the provider refuses to delete it: {error}"
    return replace(
        vm, desired_state="present", deletion_reason=None, deletion_requested_at=None, delete_due_at=None, reason=reason
    )


def _unchanged(vm: Vm) -> Change:
    return Change(vm, VerdictKind.UNCHANGED)

"""Steps of VMs towards their contracts, as they are recorded: shared by the job and by the replacing of VMs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.assignment import AssignmentEvent, moved
from service.core.backoff import Backoff
from service.core.contract import Decision, Room, wait_for_room
from service.core.evidence import with_readiness
from service.core.submission import Policy
from service.core.vm import AssignmentStep, Vm, request_deletion
from service.runtime.runtime import Runtime
from service.storage import assignments, vms


@dataclass(frozen=True, slots=True)
class Case:
    """A VM that is not on its contract, what its policy says, and what was decided."""

    vm: Vm
    policy: Policy
    decision: Decision
    room: Room


def waits_since(vm: Vm) -> datetime:
    return vm.on_demand_since or vm.created_at


def tried(vm: Vm) -> Vm:
    return replace(vm, contract_attempts=vm.contract_attempts + 1, lease_token=None, lease_until=None)


def given_up(vm: Vm, case: Case, now: datetime) -> Vm:
    over = replace(
        vm,
        assignment=moved(vm.assignment, AssignmentEvent.GIVE_UP),
        contract_due_at=None,
        lease_token=None,
        lease_until=None,
        reason=f"not on its contract: {case.decision.reason}",
    )
    return (
        request_deletion(over, "not on its contract", now)
        if case.policy.retry.then == "delete"
        else with_readiness(over, now)
    )


def later(rt: Runtime, vm: Vm, policy: Policy, *, counted: bool = True) -> Vm:
    """The record until its next turn. Only an attempt is counted, and only attempts lengthen the wait after one."""
    retry, attempt, now = policy.retry, vm.contract_attempts + (1 if counted else 0), rt.clock.now()
    backoff = Backoff(
        first=retry.first_wait_seconds, cap=retry.max_wait_seconds, floor=min(1.0, retry.first_wait_seconds)
    )
    wait = backoff.after(attempt, rt.jitter()) if counted else wait_for_room(waits_since(vm), retry, rt.jitter(), now)
    return replace(vm, contract_attempts=attempt, contract_due_at=now + wait, lease_token=None, lease_until=None)


async def defer(rt: Runtime, conn: AsyncConnection, which: Sequence[Vm], *, by: timedelta) -> None:
    """Release VMs that could not be dealt with: the contract could not be read, or the rate limit had no room."""
    locked = await vms.lock(conn, [vm.ref for vm in which]) if which else {}
    due = rt.clock.now() + by
    ours = [locked[vm.ref] for vm in which if locked[vm.ref].lease_token == vm.lease_token and vm.ended_at is None]
    await vms.save(conn, [replace(vm, contract_due_at=due, lease_token=None, lease_until=None) for vm in ours])


async def save(rt: Runtime, conn: AsyncConnection, changed: Sequence[Vm], notes: Sequence[AssignmentStep]) -> None:
    await vms.save(conn, changed)
    if rt.traces is not None:
        rt.traces.note(changed, rt.clock.now())  # one that is given up is ready on demand
    await assignments.insert(conn, notes)
    for note in notes:
        rt.metrics.assignments.labels(note.outcome).inc()


def note(rt: Runtime, vm: Vm, case: Case, outcome: str, reason: str) -> AssignmentStep:
    return AssignmentStep(
        submission_id=vm.submission_id,
        vm_no=vm.vm_no,
        attempt=vm.contract_attempts,
        at=rt.clock.now(),
        step=case.decision.step,
        outcome=outcome,
        contract_id=vm.contract_id,
        shortfall=case.room.shortfall,
        reason=reason[:500],
        next_at=vm.contract_due_at,
    )

"""What the provider shows of a VM's contract does to its record (infrahub-api.md section 3.5). Pure."""

from datetime import datetime, timedelta

from msgspec.structs import replace

from service.core.assignment import AssignmentEvent, moved
from service.core.contract import Assignment
from service.core.lifecycle import NEWBORN, state_of
from service.core.observation import Observation
from service.core.submission import Policy
from service.core.vm import AssignmentStep, Provenance, Vm, end_on_demand, request_deletion


def with_contract(
    vm: Vm, seen: Observation, provenance: Provenance, policy: Policy, refused: str
) -> tuple[Vm, AssignmentStep | None]:
    """Compare the contract that the provider shows with the wanted one. `refused` is the provider's reason, if any."""
    if vm.contract_id is None or vm.desired_state == "deleted":
        return vm, None
    if seen.contract_id == vm.contract_id:
        # A contract that has ended counts for nothing, although the VM may still be shown on it.
        return (vm, None) if vm.contract_ended else _on_contract(vm, provenance)
    # A newborn VM without a reason may still be assigned; one that is running will not be.
    state = state_of(seen.status)
    if vm.assignment is Assignment.WANTED and not refused and (state is None or state in NEWBORN):
        return vm, None
    return off_contract(vm, provenance, policy, refused or "the provider shows no contract")


def _on_contract(vm: Vm, provenance: Provenance) -> tuple[Vm, AssignmentStep | None]:
    state = moved(vm.assignment, AssignmentEvent.SHOWN_ON)
    if state is vm.assignment:
        return vm, None
    assigned = replace(end_on_demand(vm, provenance.now), assignment=state, contract_due_at=None)
    if vm.assignment is Assignment.RETRYING:
        # Whoever holds the lease is about to do something for a VM that needs it no more.
        assigned = replace(assigned, lease_token=None, lease_until=None)
    return assigned, _note(vm, provenance, "assigned", "the provider shows it on the contract")


def off_contract(vm: Vm, provenance: Provenance, policy: Policy, reason: str) -> tuple[Vm, AssignmentStep | None]:
    """The record of a VM that is not on its contract, by its policy. A replacement is not retried: its old VM is."""
    replacement = vm.replaces is not None and not vm.member
    retry = policy.on_contract_error == "retry" and not replacement
    state = moved(vm.assignment, AssignmentEvent.OFF_RETRY if retry else AssignmentEvent.OFF_FINAL)
    if state is vm.assignment:
        return vm, None
    missed = replace(vm, assignment=state, on_demand_since=vm.on_demand_since or provenance.now)
    next_at = None
    if policy.on_contract_error == "fail":
        missed = request_deletion(missed, "not on its contract", provenance.now)
        missed = replace(missed, reason=f"not on its contract: {reason}")
    elif state is Assignment.RETRYING:
        next_at = provenance.now + timedelta(seconds=policy.retry.first_wait_seconds)
        missed = replace(missed, contract_due_at=next_at)
    return missed, _note(vm, provenance, "on_demand", reason, next_at)


def _note(vm: Vm, provenance: Provenance, outcome: str, reason: str, next_at: datetime | None = None) -> AssignmentStep:
    return AssignmentStep(
        submission_id=vm.submission_id,
        vm_no=vm.vm_no,
        attempt=vm.contract_attempts,
        at=provenance.now,
        step="create" if vm.assignment is Assignment.WANTED else "refresh",
        outcome=outcome,
        contract_id=vm.contract_id,
        reason=reason[:500],
        next_at=next_at,
    )

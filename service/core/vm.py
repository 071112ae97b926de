"""A VM's record, the rows about it, and what our own decisions change. What evidence changes is in `evidence.py`."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from service.core.assignment import AssignmentEvent, moved
from service.core.contract import Assignment
from service.core.lifecycle import Belief, EvidenceKind, VerdictKind, VmState


class Vm(Struct, frozen=True):
    """One row of `vms`; the columns' meanings are in `storage/tables.py`."""

    submission_id: UUID
    vm_no: int
    creation_no: int
    state_since: datetime
    flavor: str
    environment: str
    created_at: datetime
    provider_id: int | None = None
    name: str | None = None
    state: VmState = VmState.REQUESTED
    provider_status: str | None = None
    seq: int = 0
    observed_at: datetime | None = None
    last_event_at: datetime | None = None
    next_refresh_at: datetime | None = None
    refresh_attempts: int = 0
    history_due_at: datetime | None = None
    wants_address: bool = False
    fixed_ip: str | None = None
    floating_ip: str | None = None
    alternative: int = 0
    region: str | None = None
    gpu_model: str | None = None
    gpu_count: int | None = None
    assignment: Assignment = Assignment.NONE
    contract_id: int | None = None
    observed_contract_id: int | None = None
    contract_attempts: int = 0
    contract_due_at: datetime | None = None
    contract_ended: bool = False
    on_demand_since: datetime | None = None
    on_demand_seconds: float = 0.0
    desired_state: str = "present"
    deletion_reason: str | None = None
    deletion_requested_at: datetime | None = None
    delete_attempts: int = 0
    delete_due_at: datetime | None = None
    deletion_announced: bool = False
    lease_token: UUID | None = None
    lease_until: datetime | None = None
    member: bool = True
    replaces: int | None = None
    replaced_by: int | None = None
    refill: bool = False
    repair: bool = False
    ready: bool = False
    stuck: bool = False
    reason: str | None = None
    bound_at: datetime | None = None
    active_at: datetime | None = None
    ready_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def ref(self) -> tuple[UUID, int]:
        return self.submission_id, self.vm_no

    @property
    def belief(self) -> Belief:
        return Belief(state=self.state, observed_at=self.observed_at, last_event_at=self.last_event_at)


class Transition(Struct, frozen=True):
    """One row of `transitions`: a change of state, or a claim that changed nothing (verdict unexpected)."""

    submission_id: UUID
    vm_no: int
    seq: int
    at: datetime
    from_state: VmState
    to_state: VmState
    verdict: VerdictKind
    claimed: str | None
    evidence: EvidenceKind
    evidence_id: UUID | None
    evidence_at: datetime


class AssignmentStep(Struct, frozen=True):
    """One row of `assignments`: a step towards the contract, and when the next is due."""

    submission_id: UUID
    vm_no: int
    attempt: int
    at: datetime
    step: str
    outcome: str
    contract_id: int | None
    reason: str
    shortfall: str | None = None
    next_at: datetime | None = None


class Change(Struct, frozen=True):
    """A VM's new record, and the rows to insert with it."""

    vm: Vm
    verdict: VerdictKind
    transition: Transition | None = None
    note: AssignmentStep | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where evidence comes from: `at` as in `Evidence`, `id` of the event or call, `now` when it is applied.

    `at` is never after `now`: evidence from before the clock was set back would be newer than all that comes.
    """

    kind: EvidenceKind
    at: datetime
    now: datetime
    id: UUID | None = None

    def __post_init__(self) -> None:
        if self.at > self.now:
            object.__setattr__(self, "at", self.now)


def request_deletion(vm: Vm, reason: str, now: datetime) -> Vm:
    """The record with a deletion requested, due now; unchanged if the VM has ended or one was requested before."""
    if vm.ended_at is not None or vm.desired_state == "deleted":
        return vm
    return replace(
        vm,
        desired_state="deleted",
        deletion_reason=reason,
        deletion_requested_at=now,
        delete_due_at=now,
        assignment=moved(vm.assignment, AssignmentEvent.DELETION),
        contract_due_at=None,
        ready=False,
        # Whoever holds the lease is about to do something for a VM that should stay.
        lease_token=None,
        lease_until=None,
    )


def replacement_for(old: Vm, *, vm_no: int, creation_no: int, member: bool, now: datetime, repair: bool = False) -> Vm:
    """The record of a new VM that replaces `old`."""
    return Vm(
        submission_id=old.submission_id,
        vm_no=vm_no,
        creation_no=creation_no,
        state_since=now,
        wants_address=old.wants_address,
        flavor=old.flavor,
        environment=old.environment,
        alternative=old.alternative,
        region=old.region,
        gpu_model=old.gpu_model,
        gpu_count=old.gpu_count,
        assignment=Assignment.NONE if old.contract_id is None else Assignment.WANTED,
        contract_id=old.contract_id,
        contract_attempts=old.contract_attempts,
        member=member,
        replaces=old.vm_no,
        repair=repair,
        created_at=now,
    )


def end_on_demand(vm: Vm, now: datetime) -> Vm:
    if vm.on_demand_since is None:
        return vm
    return replace(vm, on_demand_since=None, on_demand_seconds=on_demand_seconds_until(vm, now))


def on_demand_seconds_until(vm: Vm, now: datetime) -> float:
    """How long a VM has run on demand although a contract was requested, up to `now`."""
    if vm.on_demand_since is None:
        return vm.on_demand_seconds
    return vm.on_demand_seconds + max(0.0, (now - vm.on_demand_since).total_seconds())

"""What evidence does to a VM's record: `judge` decides the state, this file all other fields.

Pure: each function takes the record and one piece of evidence, and returns the new record with the rows to insert.
When to refresh next is decided in `refresh.py`, what the contract does in `contract_evidence.py`.
"""

# longer than 350 lines because each kind of evidence is applied here, and nowhere else

from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from service.core.contract_evidence import with_contract
from service.core.event import Callback
from service.core.lifecycle import (
    ALLOWED,
    ENDED,
    Evidence,
    EvidenceKind,
    Operation,
    Verdict,
    VerdictKind,
    VmState,
    judge,
    state_of,
    state_when_missing,
)
from service.core.observation import Observation
from service.core.refresh import RefreshInputs, RefreshPolicy, is_ready, next_refresh
from service.core.submission import Policy
from service.core.vm import AssignmentStep, Change, Provenance, Transition, Vm, end_on_demand

_RECORDED = frozenset({VerdictKind.MOVED, VerdictKind.UNEXPECTED})
_DELETION = frozenset({VmState.DELETED, VmState.DELETING})
_BY_OTHERS = "by somebody else: Rollcall did not request it"
_DRIFT = {
    VmState.STOPPING: "stopped",
    VmState.SHUTOFF: "stopped",
    VmState.HIBERNATING: "hibernated",
    VmState.HIBERNATED: "hibernated",
    VmState.DELETING: "deleted",
    VmState.DELETED: "deleted",
}
#: What is said of a VM in ERROR, unless a reason is known.
_IN_ERROR = "the provider reports ERROR"


def apply_callback(vm: Vm, callback: Callback, provenance: Provenance, refresh_policy: RefreshPolicy) -> Change:
    """Apply a callback that was received at `provenance.at`. Never raises."""
    if not callback.concerns_state:
        return _about_something_else(vm, provenance, refresh_policy)
    seen = Evidence(kind=provenance.kind, at=provenance.at, state=callback.state, status=callback.status)
    verdict = _once(vm, judge(vm.belief, seen), seen)
    if verdict.kind is VerdictKind.STALE:
        return Change(vm, verdict.kind)
    known = {
        "provider_status": callback.status or vm.provider_status,
        "deletion_announced": vm.deletion_announced or callback.state in _DELETION,
        "floating_ip": callback.floating_ip or vm.floating_ip,
        "fixed_ip": callback.fixed_ip or vm.fixed_ip,
        "last_event_at": provenance.at if verdict.kind is VerdictKind.MOVED else vm.last_event_at,
        "refresh_attempts": 0 if verdict.kind in _RECORDED else vm.refresh_attempts,
    }
    # Only the provider confirms a deletion that a callback reports as done.
    refresh_now = verdict.refresh_now or (callback.state is VmState.DELETED and vm.state not in ENDED)
    return _moved_by(vm, verdict, seen, provenance, refresh_policy, refresh_now=refresh_now, known=known)


def apply_observation(
    vm: Vm,
    seen: Observation,
    provenance: Provenance,
    refresh_policy: RefreshPolicy,
    policy: Policy,
    *,
    refused_contract: str = "",
) -> Change:
    """Apply an observation, or a create answer, whose call began at `provenance.at`.

    `refused_contract` is the provider's reason for not assigning the contract, if it gave one.
    """
    evidence = Evidence(kind=provenance.kind, at=provenance.at, state=state_of(seen.status), status=seen.status)
    verdict = _once(vm, judge(vm.belief, evidence), evidence)
    if verdict.kind is VerdictKind.STALE:
        return Change(
            _refresh_due(vm, provenance, refresh_policy, refresh_now=True) if verdict.refresh_now else vm, verdict.kind
        )
    known = _with_facts(vm, seen, provenance, verdict)
    known, note = with_contract(known, seen, provenance, policy, refused_contract)
    changed = _moved_by(known, verdict, evidence, provenance, refresh_policy, refresh_now=verdict.refresh_now)
    return with_note(changed, note)


def _once(vm: Vm, verdict: Verdict, seen: Evidence) -> Verdict:
    """The verdict, UNCHANGED for an unexpected claim that is on record already: a claim is recorded once."""
    absent = seen.status is None and seen.kind is not EvidenceKind.EVENT
    if verdict.kind is not VerdictKind.UNEXPECTED or not (
        absent or (seen.status and seen.status == vm.provider_status)
    ):
        return verdict
    return Verdict(VerdictKind.UNCHANGED, verdict.state, refresh_now=verdict.refresh_now)


def apply_absence(vm: Vm, provenance: Provenance, refresh_policy: RefreshPolicy, *, newborn_for: timedelta) -> Change:
    """Apply a read that began at `provenance.at` and did not find the VM.

    Within `newborn_for` of being bound a VM's absence proves nothing: lists and reads may lag behind creates
    (field-notes.md section 1).
    """
    if vm.state in ENDED or (vm.observed_at is not None and provenance.at < vm.observed_at):
        return Change(vm, VerdictKind.STALE)
    if vm.bound_at is not None and provenance.at < vm.bound_at + newborn_for and not vm.deletion_announced:
        return Change(_refresh_due(_tried(vm), provenance, refresh_policy, refresh_now=True), VerdictKind.UNCHANGED)
    state = state_when_missing(vm.belief, end_announced=vm.deletion_announced or vm.delete_attempts > 0)
    evidence = Evidence(kind=provenance.kind, at=provenance.at, state=state, status="not found")
    kind = VerdictKind.UNCHANGED if state is vm.state else VerdictKind.MOVED
    # A LOST VM that we delete ends as DELETED, and was lost all the same, unless the provider says that it ended it.
    reason = None if vm.state is VmState.LOST and vm.deletion_announced else vm.reason
    if state is VmState.LOST:
        reason = "the provider no longer knows it, and nobody is known to have deleted it"
    # A LOST VM is refreshed ever more rarely: see `next_refresh`.
    attempts = vm.refresh_attempts + 1 if vm.state is state is VmState.LOST else 0
    known = replace(vm, observed_at=provenance.at, reason=reason, refresh_attempts=attempts)
    return _moved_by(known, Verdict(kind, state), evidence, provenance, refresh_policy, refresh_now=False)


def end(vm: Vm, state: VmState, provenance: Provenance, refresh_policy: RefreshPolicy, reason: str) -> Change:
    """End a VM by a decision: one that was never created, or that is released."""
    evidence = Evidence(kind=provenance.kind, at=provenance.at, state=state)
    return _moved_by(
        replace(vm, reason=reason),
        Verdict(VerdictKind.MOVED, state),
        evidence,
        provenance,
        refresh_policy,
        refresh_now=False,
    )


def with_note(change: Change, note: AssignmentStep | None) -> Change:
    """The change with a note on its contract."""
    return replace(change, note=note) if note else change


def _about_something_else(vm: Vm, provenance: Provenance, refresh_policy: RefreshPolicy) -> Change:
    # An address or a volume was attached or detached. How the callback names the address is not known well enough to
    # use it, so a VM that waits for its address is refreshed.
    waiting = vm.state is VmState.ACTIVE and vm.wants_address and vm.floating_ip is None
    if waiting:
        vm = _refresh_due(replace(vm, refresh_attempts=0), provenance, refresh_policy, refresh_now=True)
    return Change(vm, VerdictKind.UNCHANGED)


def _with_facts(vm: Vm, seen: Observation, provenance: Provenance, verdict: Verdict) -> Vm:
    moved = verdict.kind is VerdictKind.MOVED
    return replace(
        vm,
        name=seen.name or vm.name,
        provider_status=seen.status or vm.provider_status,
        fixed_ip=seen.fixed_ip,
        floating_ip=seen.floating_ip,
        # What it is made from is the provider's to say, each time: one answer may be garbled, or an attempt had another alternative.
        flavor=seen.flavor or vm.flavor,
        environment=seen.environment or vm.environment,
        region=seen.region or vm.region,
        gpu_model=seen.gpu_model or vm.gpu_model,
        gpu_count=seen.gpu_count if seen.gpu_count is not None else vm.gpu_count,
        observed_contract_id=seen.contract_id,
        observed_at=provenance.at,
        refresh_attempts=0 if moved else vm.refresh_attempts + 1,
        deletion_announced=vm.deletion_announced or state_of(seen.status) is VmState.DELETING,
        reason=None if vm.state is VmState.LOST and moved else vm.reason,
    )


def _moved_by(
    vm: Vm,
    verdict: Verdict,
    seen: Evidence,
    provenance: Provenance,
    refresh_policy: RefreshPolicy,
    *,
    refresh_now: bool,
    known: Mapping[str, Any] = MappingProxyType({}),
) -> Change:
    """Apply a verdict to the record: state, times, readiness, the next refresh, and the transition to insert.

    `known` are other fields that the evidence changes. The record is wide, so it is copied only once.
    """
    moved = verdict.kind is VerdictKind.MOVED
    address, tries = known.get("floating_ip", vm.floating_ip), known.get("refresh_attempts", vm.refresh_attempts)
    moves = _moved(vm, verdict.state, provenance, refresh_policy) if moved else {}
    changes = {**known, **moves, **_readiness(vm, verdict.state, address, provenance.now)}
    transition = _transition(vm, verdict, seen, provenance) if verdict.kind in _RECORDED else None
    if transition:
        changes["seq"] = transition.seq
    inputs = RefreshInputs(
        state=verdict.state,
        ready=changes["ready"],
        assignment=vm.assignment,
        tries=tries,
        flavor=vm.flavor,
        region=vm.region,
    )
    due_before = None if moved else vm.next_refresh_at
    changes["next_refresh_at"] = _due(
        inputs, provenance, refresh_policy, refresh_now=refresh_now, due_before=due_before
    )
    return Change(replace(vm, **changes), verdict.kind, transition)


def _moved(vm: Vm, state: VmState, provenance: Provenance, refresh_policy: RefreshPolicy) -> dict[str, Any]:
    """What a move changes besides readiness and the next refresh."""
    now = provenance.now
    moved: dict[str, Any] = {"state": state, "state_since": now, "reason": _reason(vm, state)}
    moved["history_due_at"] = _history_due(vm, state, provenance, refresh_policy)
    if state is VmState.ACTIVE and vm.active_at is None:
        moved["active_at"] = now
    if vm.delete_due_at is not None and Operation.DELETE in ALLOWED[state] - ALLOWED[vm.state]:
        moved["delete_due_at"] = min(vm.delete_due_at, now)
    if state in ENDED:
        closed = end_on_demand(vm, now)
        moved |= {"on_demand_since": closed.on_demand_since, "on_demand_seconds": closed.on_demand_seconds}
        moved |= {"ended_at": now, "delete_due_at": None, "contract_due_at": None, "lease_token": None}
        moved["lease_until"] = None
    return moved


def _history_due(vm: Vm, state: VmState, provenance: Provenance, refresh_policy: RefreshPolicy) -> datetime | None:
    """When to read the events history: soon after a refresh that showed what a callback should have said.

    A VM that is gone has no history (404).
    """
    if state in ENDED or state is VmState.LOST:
        return None
    missed = provenance.kind is EvidenceKind.OBSERVATION
    return vm.history_due_at or (provenance.now + timedelta(seconds=refresh_policy.history) if missed else None)


def _reason(vm: Vm, state: VmState) -> str | None:
    """Why the VM is in this state, if it failed or others caused it: Rollcall never stops or hibernates a VM."""
    ours = vm.desired_state == "deleted" or vm.delete_attempts > 0
    if state in _DRIFT and not (ours and state in {VmState.DELETING, VmState.DELETED}):
        return f"{_DRIFT[state]} {_BY_OTHERS}"
    if state is VmState.ERROR and not ours:
        return _IN_ERROR if vm.reason is None or _is_of_state(vm.reason) else vm.reason
    over = vm.reason is not None and _is_of_state(vm.reason) and state is VmState.ACTIVE
    return None if over else vm.reason


def _is_of_state(reason: str) -> bool:
    return reason.endswith(_BY_OTHERS) or reason == _IN_ERROR


def with_readiness(vm: Vm, now: datetime) -> Vm:
    """The record with `ready` computed again. `ready_at` stays the first time."""
    return replace(vm, **_readiness(vm, vm.state, vm.floating_ip, now))


def _readiness(vm: Vm, state: VmState, address: str | None, now: datetime) -> dict[str, Any]:
    ready = vm.desired_state == "present" and is_ready(
        state, wants_address=vm.wants_address, address=address, assignment=vm.assignment
    )
    return {
        "ready": ready,
        "ready_at": vm.ready_at or (now if ready else None),
        "stuck": vm.stuck and not ready and state not in ENDED,
        **({"reason": None} if vm.stuck and ready else {}),
    }


def _tried(vm: Vm) -> Vm:
    return replace(vm, refresh_attempts=vm.refresh_attempts + 1)


def _refresh_due(vm: Vm, provenance: Provenance, refresh_policy: RefreshPolicy, *, refresh_now: bool) -> Vm:
    inputs = RefreshInputs(
        state=vm.state,
        ready=vm.ready,
        assignment=vm.assignment,
        tries=vm.refresh_attempts,
        flavor=vm.flavor,
        region=vm.region,
    )
    due = _due(inputs, provenance, refresh_policy, refresh_now=refresh_now, due_before=vm.next_refresh_at)
    return replace(vm, next_refresh_at=due)


def _due(
    inputs: RefreshInputs,
    provenance: Provenance,
    refresh_policy: RefreshPolicy,
    *,
    refresh_now: bool,
    due_before: datetime | None,
) -> datetime | None:
    due = next_refresh(inputs, now=provenance.now, refresh_policy=refresh_policy, refresh_now=refresh_now)
    # A callback never defers a refresh that is due sooner. A refresh may, and so may a move, which clears it.
    if provenance.kind is EvidenceKind.EVENT and due is not None and due_before is not None:
        return min(due, due_before)
    return due


def _transition(vm: Vm, verdict: Verdict, seen: Evidence, provenance: Provenance) -> Transition:
    return Transition(
        submission_id=vm.submission_id,
        vm_no=vm.vm_no,
        seq=vm.seq + 1,
        at=provenance.now,
        from_state=vm.state,
        to_state=verdict.state,
        verdict=verdict.kind,
        claimed=seen.status,
        evidence=provenance.kind,
        evidence_id=provenance.id,
        evidence_at=provenance.at,
    )

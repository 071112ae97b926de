"""Contracts: why an assignment did not happen, and what to do about it.

The provider creates a VM on demand where it cannot assign it to the contract, and says why in a text of which
one literal is known (infrahub-api.md section 3.5). So no text is matched: the VM's `contract_id` is compared
with the wanted one, and the reason is worked out from the contract itself.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from service.core.lifecycle import ALLOWED, Operation, VmState
from service.core.observation import Contract
from service.core.submission import ContractRetry


class Assignment(StrEnum):
    """The state of a VM's contract."""

    NONE = "none"  #: no contract was asked for
    WANTED = "wanted"  #: asked for; the provider has not said yet
    ASSIGNED = "assigned"
    ON_DEMAND = "on_demand"  #: not on it, and the policy is to keep it so or to delete it
    RETRYING = "retrying"  #: not on it, and being dealt with
    GIVEN_UP = "given_up"  #: not on it, and everything was tried


class Shortfall(StrEnum):
    """Why a contract cannot take a VM."""

    MISSING = "missing"
    ENDED = "ended"
    MISMATCHED = "mismatched"  #: it has no line for this GPU model
    INSUFFICIENT = "insufficient"  #: fewer GPUs are left than the VM has
    NOT_BEGUN = "not begun"  #: its first day is yet to come

    @property
    def permanent(self) -> bool:
        """Whether waiting cannot help."""
        return self not in {Shortfall.INSUFFICIENT, Shortfall.NOT_BEGUN}


@dataclass(frozen=True, slots=True)
class Room:
    """What a contract has for a flavor: how many VMs still fit (None: unknown), or why none does."""

    vms: int | None
    shortfall: Shortfall | None = None


def room_for(contract: Contract | None, *, gpu_model: str | None, gpu_count: int | None, now: datetime) -> Room:
    """How many VMs with `gpu_count` GPUs of `gpu_model` a contract can take now.

    `contract` is None where the provider knows none of that id. Where a contract's lines cannot be read, or the
    VM's GPU is not known, nothing is concluded: `Room(None)`, and the attempt itself has to show.
    """
    if contract is None:
        return Room(0, Shortfall.MISSING)
    if contract.end_date is not None and contract.end_date <= now:
        return Room(0, Shortfall.ENDED)
    if (contract.status or "").lower() in {"expired", "ended", "deleted", "terminated"}:
        return Room(0, Shortfall.ENDED)
    if contract.start_date is not None and contract.start_date > now:
        return Room(0, Shortfall.NOT_BEGUN)
    if not gpu_model or not contract.discounts:
        return Room(None)
    lines = [line for line in contract.discounts if (line.resource_name or "").lower() == gpu_model.lower()]
    if not lines:
        return Room(0, Shortfall.MISMATCHED)
    left = [line.remaining_count for line in lines if line.remaining_count is not None]
    if not left:
        return Room(None)
    fitting = sum(left) // max(gpu_count or 1, 1)
    return Room(fitting) if fitting > 0 else Room(0, Shortfall.INSUFFICIENT)


class Step(StrEnum):
    """What to do next for a VM that is not on its contract."""

    REASSIGN = "reassign"
    REPLACE = "replace"
    WAIT = "wait"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """A VM that is not on its contract: how often that was tried, since when, and where the VM is."""

    state: VmState
    attempts: int
    since: datetime
    active_at: datetime | None


_WAITS: Final = {
    Shortfall.INSUFFICIENT: "the contract has too few GPUs left",
    Shortfall.NOT_BEGUN: "the contract has not begun yet",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """A step, and for people, why."""

    step: Step
    reason: str


def decide(vm: Retrying, room: Room, policy: ContractRetry, *, can_reassign: bool, now: datetime) -> Decision:
    """The next step for a VM that is not on its contract.

    Order matters: what can never work ends it, then what has run out, then the want of room, and only then
    comes an attempt. Attempts are counted by the caller, and only where something was tried or found wanting.
    """
    if room.shortfall is not None and room.shortfall.permanent:
        return Decision(Step.GIVE_UP, f"the contract is {room.shortfall.value}, which waiting does not mend")
    if vm.attempts >= policy.attempts:
        return Decision(Step.GIVE_UP, f"{vm.attempts} attempts were made, as many as the policy allows")
    if now >= vm.since + timedelta(seconds=policy.deadline_seconds):
        return Decision(Step.GIVE_UP, f"not assigned within {policy.deadline_seconds:g} s")
    if room.shortfall is not None:
        return Decision(Step.WAIT, _WAITS[room.shortfall])
    return _attempt(vm, policy, can_reassign=can_reassign, now=now)


def _attempt(vm: Retrying, policy: ContractRetry, *, can_reassign: bool, now: datetime) -> Decision:
    if can_reassign and policy.means != "replace":
        if Operation.ASSIGN in ALLOWED[vm.state]:
            return Decision(Step.REASSIGN, "the contract has room")
        return Decision(Step.WAIT, f"a VM in {vm.state.value} cannot be reassigned")
    if policy.means == "reassign":
        return Decision(Step.GIVE_UP, "the policy is to reassign, and no call for that is configured")
    if vm.active_at is not None and now > vm.active_at + timedelta(seconds=policy.replace_grace_seconds):
        return Decision(Step.GIVE_UP, "it has been ACTIVE for too long to be replaced")
    return Decision(Step.REPLACE, "the contract has room")

"""Why a VM is not on its contract, and what to do about it.

If the provider cannot assign a VM to the contract, it creates it on demand and gives a reason in a text, of which one
literal is known (infrahub-api.md section 3.5). So no text is matched: the VM's `contract_id` is compared with the
requested one, and the reason is derived from the contract itself.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from service.core.lifecycle import ALLOWED, Operation, VmState
from service.core.observation import Contract, Discount
from service.core.submission import ContractRetry

#: How often a contract is read for those that wait for its room: they wait at least as long, unless their first wait is shorter.
READ_EVERY: Final = timedelta(seconds=5)


class Assignment(StrEnum):
    """The state of a VM's contract."""

    NONE = "none"  #: no contract was requested
    WANTED = "wanted"  #: requested; the provider has not said yet
    ASSIGNED = "assigned"  #: the provider shows the VM on it
    ON_DEMAND = "on_demand"  #: not on it; the policy keeps it so, or deletes it
    RETRYING = "retrying"  #: not on it; Rollcall is retrying
    GIVEN_UP = "given_up"  #: not on it; attempts or time ran out


class Shortfall(StrEnum):
    """Why a contract cannot take a VM."""

    MISSING = "missing"
    ENDED = "ended"
    MISMATCHED = "mismatched"  #: it has no line for this GPU model
    INSUFFICIENT = "insufficient"  #: fewer GPUs are left than the VM has
    NOT_BEGUN = "not begun"  #: its first day is yet to come

    @property
    def permanent(self) -> bool:
        """Whether waiting is useless."""
        return self not in {Shortfall.INSUFFICIENT, Shortfall.NOT_BEGUN}


@dataclass(frozen=True, slots=True)
class Room:
    """How many VMs of a flavor still fit on a contract (None: unknown), or why none does."""

    vms: int | None
    shortfall: Shortfall | None = None


def room_for(contract: Contract | None, *, gpu_model: str | None, gpu_count: int | None, now: datetime) -> Room:
    """How many VMs with `gpu_count` GPUs of `gpu_model` a contract can take now.

    `contract` is None if the provider knows none with that id. If its lines cannot be read, or the VM's GPU is not
    known, the result is `Room(None)`: only an attempt will tell.
    """
    ended = over(contract, now)
    if contract is None or ended is not None:
        return Room(0, ended)
    if contract.start_date is not None and contract.start_date > now:
        return Room(0, Shortfall.NOT_BEGUN)
    if not gpu_model or not contract.discounts:
        return Room(None)
    if not _lines(contract, gpu_model):
        return Room(0, Shortfall.MISMATCHED)
    left = gpus_left(contract, gpu_model)
    if left is None:
        return Room(None)
    fitting = left // max(gpu_count or 1, 1)
    return Room(fitting) if fitting > 0 else Room(0, Shortfall.INSUFFICIENT)


def over(contract: Contract | None, now: datetime) -> Shortfall | None:
    """Whether a contract is over, and how: the provider knows none with that id, or it has ended."""
    if contract is None:
        return Shortfall.MISSING
    ended = contract.end_date is not None and contract.end_date <= now
    if ended or (contract.status or "").lower() in {"expired", "ended", "deleted", "terminated"}:
        return Shortfall.ENDED
    return None


def gpus_left(contract: Contract, gpu_model: str | None) -> int | None:
    """How many GPUs of a model a contract has left; None if it does not say."""
    left = [line.remaining_count for line in _lines(contract, gpu_model) if line.remaining_count is not None]
    return sum(left) if left else None


def gpus_in_all(contract: Contract, gpu_model: str | None) -> int | None:
    """How many GPUs of a model a contract covers, taken or not; None if it does not say."""
    in_all = [line.resource_count for line in _lines(contract, gpu_model) if line.resource_count is not None]
    return sum(in_all) if in_all else None


def _lines(contract: Contract, gpu_model: str | None) -> list[Discount]:
    return [line for line in contract.discounts if (line.resource_name or "").lower() == (gpu_model or "").lower()]


class Step(StrEnum):
    """What to do next for a VM that is not on its contract."""

    REASSIGN = "reassign"
    REPLACE = "replace"
    WAIT = "wait"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """A VM that is not on its contract: its state, the attempts so far, and since when it is off the contract."""

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
    """A step, and the reason, for people."""

    step: Step
    reason: str


def decide(vm: Retrying, room: Room, policy: ContractRetry, *, can_reassign: bool, now: datetime) -> Decision:
    """The next step for a VM that is not on its contract. Waiting for room is no attempt: the deadline bounds it.

    Give up if nothing can help or attempts or time have run out; wait if there is no room; else make an attempt.
    """
    if room.shortfall is not None and room.shortfall.permanent:
        return Decision(Step.GIVE_UP, f"the contract is {room.shortfall.value}, and waiting does not change that")
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


def wait_for_room(since: datetime, policy: ContractRetry, jitter: float, now: datetime) -> timedelta:
    """How long to wait for room: up to as long as it has waited so far, capped, with full jitter."""
    waited = (now - since).total_seconds()
    ceiling = min(policy.max_wait_seconds, max(policy.first_wait_seconds, waited))
    return max(min(READ_EVERY, timedelta(seconds=policy.first_wait_seconds)), timedelta(seconds=ceiling * jitter))

"""What becomes of a VM that is not on its contract and of the one that is created in its place. Pure."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from service.core.contract import Assignment
from service.core.lifecycle import ENDED, VmState
from service.core.submission import ContractRetry, Policy
from service.core.vm import Vm

#: Of no use to anybody, although it may still be there.
_FAILED: Final = frozenset({VmState.ERROR, VmState.LOST})
#: A running VM is deleted only for one that was observed within so long: the new one may have died unheard.
_OBSERVED_WITHIN: Final = timedelta(seconds=60)


class Succession(StrEnum):
    """What becomes of a VM and of the one that was created in its place."""

    WAIT = "wait"  #: it is not known yet
    CHECK = "check"  #: the new one may take over if it is still there: it is read first
    TAKE_OVER = "take over"  #: the new one counts, the old one is deleted
    DROP = "drop"  #: nothing is to be done for the old one any more: the new one is deleted
    GIVE_UP = "give up"  #: somebody may use the old one by now: the new one is deleted, and nothing more is tried
    TRY_AGAIN = "try again"  #: the new one is not on the contract either, or failed: it is deleted


def succession(old: Vm, new: Vm, policy: Policy, now: datetime) -> Succession:
    """Decide between an old VM and the new one. At every moment one of them stays that is no worse than the old one was."""
    retrying = old.assignment is Assignment.RETRYING and old.ended_at is None
    if old.desired_state == "deleted":
        return Succession.DROP
    without_it = Succession.TRY_AGAIN if retrying else Succession.DROP
    if _is_over(new):
        return without_it
    new_is_on = new.assignment is Assignment.ASSIGNED
    # Whatever the new VM is like, it is better than one that is gone, and a good one is better than one that failed.
    if old.ended_at is not None or (old.state in _FAILED and (new_is_on or new.ready)):
        return Succession.TAKE_OVER
    if not retrying or _came_to_nothing(new, policy, now):
        return without_it
    # The grace protects who uses the old VM by now. With `then: delete` it would be deleted all the same.
    if old.state not in _FAILED and policy.retry.then == "keep" and not may_replace(old.active_at, policy.retry, now):
        return Succession.GIVE_UP
    if not new_is_on or not (new.ready or old.active_at is None):
        return Succession.WAIT
    is_known = new.observed_at is not None and now <= new.observed_at + _OBSERVED_WITHIN
    return Succession.TAKE_OVER if is_known else Succession.CHECK


def may_replace(active_at: datetime | None, retry: ContractRetry, now: datetime) -> bool:
    """Whether a VM may still be deleted for another: it has not been ACTIVE for longer than the grace."""
    return active_at is None or now <= active_at + timedelta(seconds=retry.replace_grace_seconds)


def _is_over(new: Vm) -> bool:
    return new.state in ENDED | _FAILED or new.desired_state == "deleted"


def _came_to_nothing(new: Vm, policy: Policy, now: datetime) -> bool:
    patience = timedelta(seconds=policy.stuck_after_seconds)
    late = not new.ready and new.bound_at is not None and now >= new.bound_at + patience
    return late or new.assignment in {Assignment.ON_DEMAND, Assignment.GIVEN_UP}

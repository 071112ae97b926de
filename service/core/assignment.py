"""The state machine of a VM's contract, beside the lifecycle: MOVES is all of it. Pure.

docs/contract-states.md is drawn from MOVES by `make diagram`. Why a contract does not take a VM, and what is tried next,
is in `contract.py`; whose turn it is in `contract_queue.py`.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from service.core.contract import Assignment
from service.core.submission import ContractRetry


class AssignmentEvent(StrEnum):
    """What moves the state of a VM's contract."""

    SHOWN_ON = "shown on it"  #: the provider shows the VM on its contract
    OFF_RETRY = "off it, retry"  #: it shows it off the contract, or the contract is over; the policy is to retry
    OFF_FINAL = "off it, final"  #: the same, and the policy is to keep the VM on demand or to delete it
    GIVE_UP = "give up"  #: nothing can help, or attempts or time have run out
    DELETION = "deletion"  #: somebody requested its deletion


A, E = Assignment, AssignmentEvent
_MISSED: Final = {E.OFF_RETRY: A.RETRYING, E.OFF_FINAL: A.ON_DEMAND}

#: The whole machine. An event that a state does not list changes nothing.
MOVES: Final[Mapping[Assignment, Mapping[AssignmentEvent, Assignment]]] = {
    A.NONE: {},
    A.WANTED: {E.SHOWN_ON: A.ASSIGNED, **_MISSED},
    A.ASSIGNED: _MISSED,
    A.RETRYING: {E.SHOWN_ON: A.ASSIGNED, E.GIVE_UP: A.GIVEN_UP, E.DELETION: A.ON_DEMAND},
    A.ON_DEMAND: {E.SHOWN_ON: A.ASSIGNED},
    A.GIVEN_UP: {E.SHOWN_ON: A.ASSIGNED},
}


def moved(state: Assignment, event: AssignmentEvent) -> Assignment:
    """The state after an event."""
    return MOVES[state].get(event, state)


class Succession(StrEnum):
    """What becomes of a VM and of the one that was created in its place."""

    WAIT = "wait"  #: it is not known yet
    TAKE_OVER = "take over"  #: the new one counts, the old one is deleted
    KEEP_OLD = "keep the old one"  #: somebody may use it by now: the new one is deleted, and nothing more is tried
    TRY_AGAIN = "try again"  #: the new one is not on the contract either, or failed: it is deleted


def succession(
    *, on_contract: bool, failed: bool, active_at: datetime | None, retry: ContractRetry, now: datetime
) -> Succession:
    """Decide between an old VM, ACTIVE since `active_at`, and the new one that is `on_contract` or has `failed`."""
    if failed:
        return Succession.TRY_AGAIN
    if not on_contract:
        return Succession.WAIT
    return Succession.TAKE_OVER if may_replace(active_at, retry, now) else Succession.KEEP_OLD


def may_replace(active_at: datetime | None, retry: ContractRetry, now: datetime) -> bool:
    """Whether a VM may still be deleted for another: it has not been ACTIVE for longer than the grace."""
    return active_at is None or now <= active_at + timedelta(seconds=retry.replace_grace_seconds)

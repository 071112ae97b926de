"""The state machine of a VM's contract, beside the lifecycle: MOVES is all of it. Pure.

docs/contract-states.md is drawn from MOVES by `make diagram`. Why a contract does not take a VM, and what is tried next,
is in `contract.py`; whose turn it is in `contract_queue.py`.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from service.core.contract import Assignment


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

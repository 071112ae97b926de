"""The lifecycle of a VM: its states, and which evidence moves it from one to another.

EXPECTED holds the moves that a provider ordinarily makes, ALLOWED the operations that we may call in each state.
`make diagram` draws docs/lifecycle.md from both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final


class VmState(StrEnum):
    """The states of a VM. All but the first and the last four are statuses of the provider."""

    REQUESTED = "REQUESTED"  #: requested by a user; not, or not certainly, known to the provider
    CREATING = "CREATING"  #: the provider accepted it
    BUILD = "BUILD"  #: being built
    ACTIVE = "ACTIVE"  #: running
    STARTING = "STARTING"
    STOPPING = "STOPPING"
    SHUTOFF = "SHUTOFF"  #: stopped, and still billed in full
    REBOOTING = "REBOOTING"
    HIBERNATING = "HIBERNATING"
    HIBERNATED = "HIBERNATED"
    RESTORING = "RESTORING"
    DELETING = "DELETING"
    DELETED = "DELETED"  #: an end: the provider confirmed that it is gone
    ERROR = "ERROR"  #: failed at the provider, until somebody acts
    REFUSED = "REFUSED"  #: an end: the provider refused to create it
    CANCELLED = "CANCELLED"  #: an end: cancelled before it was created
    LOST = "LOST"  #: existed, cannot be found, and nobody is known to have deleted it
    RELEASED = "RELEASED"  #: an end: it had been imported, and Rollcall let go of it


class Operation(StrEnum):
    """Calls that change a VM."""

    CREATE = "create"
    DELETE = "delete"
    ASSIGN = "assign contract"


S = VmState
_NEXT_OF_RUNNING = {S.STOPPING, S.REBOOTING, S.HIBERNATING, S.DELETING, S.ERROR}

#: The moves that a provider ordinarily makes (infrahub-api.md section 2.1). A callback moves the record only along
#: these; a refresh moves it anywhere. BUILD may be skipped: callbacks get lost.
EXPECTED: Final[Mapping[VmState, frozenset[VmState]]] = {
    state: frozenset(following)
    for state, following in {
        S.REQUESTED: {S.CREATING, S.BUILD, S.ACTIVE, S.ERROR, S.REFUSED, S.CANCELLED},
        S.CREATING: {S.BUILD, S.ACTIVE, S.ERROR, S.DELETING},
        S.BUILD: {S.ACTIVE, S.ERROR, S.DELETING},
        S.ACTIVE: _NEXT_OF_RUNNING,
        S.STARTING: {S.ACTIVE, S.ERROR, S.DELETING},
        S.STOPPING: {S.SHUTOFF, S.ERROR, S.DELETING},
        S.SHUTOFF: {S.STARTING, S.DELETING, S.ERROR},
        S.REBOOTING: {S.ACTIVE, S.ERROR, S.DELETING},
        S.HIBERNATING: {S.HIBERNATED, S.ERROR, S.DELETING},
        S.HIBERNATED: {S.RESTORING, S.DELETING, S.ERROR},
        S.RESTORING: {S.ACTIVE, S.ERROR, S.DELETING},
        S.DELETING: {S.DELETED, S.ERROR},
        S.ERROR: {S.STOPPING, S.REBOOTING, S.DELETING},
        S.DELETED: set(),
        S.REFUSED: set(),
        S.CANCELLED: set(),
        S.LOST: set(),
        S.RELEASED: set(),
    }.items()
}

_ASSIGNABLE = frozenset({Operation.DELETE, Operation.ASSIGN})
_DELETABLE = frozenset({Operation.DELETE})

#: What we may call in each state. The provider answers a delete of a VM being created with 400
#: (infrahub-api.md section 2.3), so the deletion waits; the other states take it.
ALLOWED: Final[Mapping[VmState, frozenset[Operation]]] = {
    S.REQUESTED: frozenset({Operation.CREATE}),
    S.CREATING: frozenset(),
    S.BUILD: frozenset(),
    S.ACTIVE: _ASSIGNABLE,
    S.STARTING: _ASSIGNABLE,
    S.STOPPING: _ASSIGNABLE,
    S.SHUTOFF: _ASSIGNABLE,
    S.REBOOTING: _ASSIGNABLE,
    S.HIBERNATING: _DELETABLE,
    S.HIBERNATED: _DELETABLE,
    S.RESTORING: _DELETABLE,
    S.DELETING: frozenset(),
    S.ERROR: _DELETABLE,
    S.DELETED: frozenset(),
    S.REFUSED: frozenset(),
    S.CANCELLED: frozenset(),
    S.LOST: _DELETABLE,
    S.RELEASED: frozenset(),
}

#: States that nothing leaves.
ENDED: Final = frozenset(state for state, following in EXPECTED.items() if not following) - {S.LOST}

#: States that a VM passes through. One that stays in such a state is refreshed.
TRANSIENT: Final = frozenset({
    S.CREATING, S.BUILD, S.STARTING, S.STOPPING, S.REBOOTING, S.HIBERNATING, S.RESTORING, S.DELETING,
})  # fmt: skip

#: States of a VM's first minutes. No VM returns to them, so a later callback that names one is late.
NEWBORN: Final = frozenset({S.REQUESTED, S.CREATING, S.BUILD})

#: Ends that a callback alone cannot cause: anyone who knows the URL could claim them, and no move leads back.
CORROBORATED: Final = frozenset({S.DELETED})

#: Other spellings of a status (infrahub-api.md sections 1.2 and 2.2).
_SPELLINGS: Final = {
    "BUILDING": S.BUILD,
    "HARD_REBOOT": S.REBOOTING,
    "FAILED": S.ERROR,
}
_PROVIDER_WORDS: Final = {
    state.value: state for state in VmState if state not in {S.REQUESTED, S.REFUSED, S.CANCELLED, S.LOST, S.RELEASED}
}


def state_of(status: str | None) -> VmState | None:
    """The state that the provider's status stands for, in any case; None for an unknown one."""
    if status is None:
        return None
    status = status.strip().upper()
    return _PROVIDER_WORDS.get(status) or _SPELLINGS.get(status)


class EvidenceKind(StrEnum):
    """Where evidence comes from."""

    EVENT = "event"  #: a callback: may be late, repeated, reordered, forged
    OBSERVATION = "observation"  #: a refresh: read from the provider
    ANSWER = "answer"  #: the provider's answer to an operation of ours
    DECISION = "decision"  #: our own, without a call (such as a cancellation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a callback or the provider says about a VM.

    `at` is when an event was received, or when a refresh or a call *began*: what it shows is no older than that.
    `status` is the provider's status; `state` the state that it stands for, or None if that is unknown.
    """

    kind: EvidenceKind
    at: datetime
    state: VmState | None
    status: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """What `judge` needs of a VM's record.

    `observed_at` is when the latest applied refresh began, `last_event_at` when the latest event that moved the VM
    was received; None if there was none.
    """

    state: VmState
    observed_at: datetime | None = None
    last_event_at: datetime | None = None


class VerdictKind(StrEnum):
    """What evidence does to a VM's record."""

    MOVED = "moved"
    UNCHANGED = "unchanged"
    STALE = "stale"  #: older than what we know
    UNEXPECTED = "unexpected"  #: not an expected move, or not understood


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `judge` decides. `refresh_now`: the VM should be read from the provider at once."""

    kind: VerdictKind
    state: VmState
    refresh_now: bool = False


def judge(vm: Belief, seen: Evidence) -> Verdict:
    """Decide what evidence does to a VM's record. Never raises.

    A refresh comes from the provider itself, so it makes moves that are not in EXPECTED too. A callback may be
    forged, so one that claims such a move is UNEXPECTED: it causes a refresh and moves nothing. Nothing moves a VM
    that is DELETED, REFUSED, CANCELLED or RELEASED. A VM that was read is no longer REQUESTED.
    """
    if seen.kind is EvidenceKind.EVENT:
        return _judge_event(vm, seen)
    return _judge_refresh(vm, seen)


def _judge_event(vm: Belief, seen: Evidence) -> Verdict:
    if vm.state in ENDED:
        return Verdict(VerdictKind.UNCHANGED if seen.state is vm.state else VerdictKind.STALE, vm.state)
    if vm.observed_at is not None and seen.at <= vm.observed_at:
        # The refresh began after this callback came, so it shows what the callback says.
        return Verdict(VerdictKind.STALE, vm.state)
    if seen.state is vm.state:
        return Verdict(VerdictKind.UNCHANGED, vm.state)
    if seen.state in CORROBORATED or seen.state is None:
        return Verdict(VerdictKind.UNEXPECTED, vm.state, refresh_now=True)
    if seen.state in EXPECTED[vm.state]:
        # A failure costs money: the VM moves, and a refresh checks it at once.
        return Verdict(VerdictKind.MOVED, seen.state, refresh_now=seen.state is S.ERROR)
    if seen.state in NEWBORN and vm.state is not S.LOST:
        return Verdict(VerdictKind.STALE, vm.state)
    return Verdict(VerdictKind.UNEXPECTED, vm.state, refresh_now=True)


def _judge_refresh(vm: Belief, seen: Evidence) -> Verdict:
    if vm.observed_at is not None and seen.at < vm.observed_at:
        # Even if the state is the same: its addresses and its contract are out of date.
        return Verdict(VerdictKind.STALE, vm.state)
    if seen.state is vm.state:
        return Verdict(VerdictKind.UNCHANGED, vm.state)
    if vm.state in ENDED:
        # Provider ids are not reused. A VM that exists again means that two records were confused, and
        # overwriting one of them would hide it.
        return Verdict(VerdictKind.UNEXPECTED, vm.state)
    if vm.last_event_at is not None and seen.at <= vm.last_event_at:
        # The refresh began before the event came, so it may show the state before the event.
        return Verdict(VerdictKind.STALE, vm.state, refresh_now=True)
    if seen.state is None and vm.state is not S.REQUESTED:
        return Verdict(VerdictKind.UNEXPECTED, vm.state)
    # Whatever the provider calls it: a VM that it shows was made, and must not be asked for again.
    return Verdict(VerdictKind.MOVED, seen.state or S.CREATING)


def state_when_missing(vm: Belief, *, end_announced: bool) -> VmState:
    """The state of a VM that the provider no longer knows (404, infrahub-api.md section 2.1).

    `end_announced`: we requested its end or the provider announced it. Otherwise it is LOST, which a later refresh
    may correct.
    """
    return S.DELETED if end_announced or vm.state is S.DELETING else S.LOST

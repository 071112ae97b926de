"""What we believe about a VM, and what may change that belief.

Both tables of the lifecycle are here and nowhere else: EXPECTED holds the moves a provider ordinarily
makes, ALLOWED the operations we may ask for. The diagram in docs/lifecycle.md is drawn from them by
`make diagram`. This file does not know where evidence comes from or where belief is kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final


class VmState(StrEnum):
    """Where our lifecycle has a VM. All but the first and the last three are the provider's own words."""

    REQUESTED = "REQUESTED"  #: asked for by a user; not, or not certainly, known to the provider
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
    DELETED = "DELETED"  #: an end: gone, and the provider confirmed it
    ERROR = "ERROR"  #: failed at the provider; stays so until somebody acts
    REFUSED = "REFUSED"  #: an end: the provider said no, nothing was made
    CANCELLED = "CANCELLED"  #: an end: withdrawn by us before it was sent
    LOST = "LOST"  #: was there, cannot be found, and nobody we know of deleted it


class Operation(StrEnum):
    """What we may ask of the provider."""

    CREATE = "create"
    DELETE = "delete"
    ASSIGN = "assign contract"


S = VmState
_NEXT_OF_RUNNING = {S.STOPPING, S.REBOOTING, S.HIBERNATING, S.DELETING, S.ERROR}

#: The moves a provider ordinarily makes (infrahub-api.md section 2.1). A callback moves the record along these and
#: no others; a reading moves it anywhere. BUILD may be skipped: a callback that never came is no contradiction.
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
    }.items()
}

_ASSIGNABLE = frozenset({Operation.DELETE, Operation.ASSIGN})
_DELETABLE = frozenset({Operation.DELETE})

#: What we may ask for in each state. The provider answers a delete of a VM being created with 400
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
}

#: States that nothing leaves.
ENDED: Final = frozenset(state for state, following in EXPECTED.items() if not following) - {S.LOST}

#: States a VM passes through: staying in one for long is worth a reading.
TRANSIENT: Final = frozenset({
    S.CREATING, S.BUILD, S.STARTING, S.STOPPING, S.REBOOTING, S.HIBERNATING, S.RESTORING, S.DELETING,
})  # fmt: skip

#: States of a VM's first minutes. No VM returns to them, so a callback that names one later is merely late.
NEWBORN: Final = frozenset({S.REQUESTED, S.CREATING, S.BUILD})

#: Ends that a callback alone cannot bring about: anyone who learned the URL could claim them, and the record
#: could not come back. The provider is asked.
CORROBORATED: Final = frozenset({S.DELETED})

#: Other spellings of a status (infrahub-api.md sections 1.2 and 2.2).
_SPELLINGS: Final = {
    "BUILDING": S.BUILD,
    "HARD_REBOOT": S.REBOOTING,
    "FAILED": S.ERROR,
}
_PROVIDER_WORDS: Final = {
    state.value: state for state in VmState if state not in {S.REQUESTED, S.REFUSED, S.CANCELLED, S.LOST}
}


def state_of(status: str | None) -> VmState | None:
    """The state that the provider's status stands for, in any case; None for an unknown one."""
    if status is None:
        return None
    status = status.strip().upper()
    return _PROVIDER_WORDS.get(status) or _SPELLINGS.get(status)


class EvidenceKind(StrEnum):
    """Where a piece of evidence comes from, from a callback to the provider's own answer."""

    EVENT = "event"  #: a callback: may be late, repeated, reordered, forged
    OBSERVATION = "observation"  #: a reading: the provider speaking for itself
    ANSWER = "answer"  #: the provider's answer to an operation of ours
    DECISION = "decision"  #: our own, where no provider is involved (a cancelled request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One thing that a callback or the provider says about a VM.

    `at` is when an event was received, when a reading or a call *began*: what it shows is no older than that.
    `status` is the status as the provider wrote it; `state` what it stands for, or None where that is unknown.
    """

    kind: EvidenceKind
    at: datetime
    state: VmState | None
    status: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """What the record says of a VM, as far as `judge` needs it.

    `observed_at` is when the latest applied reading began, `last_event_at` when the latest event that moved
    the VM was received; None where there was none.
    """

    state: VmState
    observed_at: datetime | None = None
    last_event_at: datetime | None = None


class VerdictKind(StrEnum):
    """What a piece of evidence does to the record."""

    MOVED = "moved"
    UNCHANGED = "unchanged"
    STALE = "stale"  #: older than what we know
    UNEXPECTED = "unexpected"  #: not foreseen, or not understood


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `judge` makes of evidence. `ask` says that the provider should be read to settle it."""

    kind: VerdictKind
    state: VmState
    refresh_now: bool = False


def judge(vm: Belief, seen: Evidence) -> Verdict:
    """Decide what one piece of evidence does to our record of a VM. Never raises.

    A reading is the provider speaking for itself, so it moves the record even where EXPECTED does not
    foresee it; a callback is hearsay, so an unforeseen one is a UNEXPECTED that asks for a reading and moves
    nothing. DELETED, REFUSED and CANCELLED never move. A VM that was read is no longer REQUESTED.
    """
    if seen.kind is EvidenceKind.EVENT:
        return _judge_event(vm, seen)
    return _judge_reading(vm, seen)


def _judge_event(vm: Belief, seen: Evidence) -> Verdict:
    if vm.state in ENDED:
        return Verdict(VerdictKind.UNCHANGED if seen.state is vm.state else VerdictKind.STALE, vm.state)
    if vm.observed_at is not None and seen.at <= vm.observed_at:
        # The provider was asked after this was sent: whatever it says, the answer included it.
        return Verdict(VerdictKind.STALE, vm.state)
    if seen.state is vm.state:
        return Verdict(VerdictKind.UNCHANGED, vm.state)
    if seen.state in CORROBORATED or seen.state is None:
        return Verdict(VerdictKind.UNEXPECTED, vm.state, refresh_now=True)
    if seen.state in EXPECTED[vm.state]:
        # A failure costs money and nerves: it is moved to at once and looked at at once.
        return Verdict(VerdictKind.MOVED, seen.state, refresh_now=seen.state is S.ERROR)
    if seen.state in NEWBORN and vm.state is not S.LOST:
        return Verdict(VerdictKind.STALE, vm.state)
    return Verdict(VerdictKind.UNEXPECTED, vm.state, refresh_now=True)


def _judge_reading(vm: Belief, seen: Evidence) -> Verdict:
    if vm.observed_at is not None and seen.at < vm.observed_at:
        # Also where it shows the same state: its addresses and its contract are as old as it is.
        return Verdict(VerdictKind.STALE, vm.state)
    if seen.state is vm.state:
        return Verdict(VerdictKind.UNCHANGED, vm.state)
    if vm.state in ENDED:
        # Provider ids are not reused: a VM that returns from the dead means two
        # records were confused, and overwriting one of them would hide that.
        return Verdict(VerdictKind.UNEXPECTED, vm.state)
    if vm.last_event_at is not None and seen.at <= vm.last_event_at:
        # The reading began before the event came in, so it may show the state before the event.
        return Verdict(VerdictKind.STALE, vm.state, refresh_now=True)
    if seen.state is None and vm.state is not S.REQUESTED:
        return Verdict(VerdictKind.UNEXPECTED, vm.state)
    # Whatever the provider calls it: a VM that it shows was made, and must not be asked for again.
    return Verdict(VerdictKind.MOVED, seen.state or S.CREATING)


def state_when_missing(vm: Belief, *, end_foretold: bool) -> VmState:
    """The state of a VM that the provider no longer knows (404, infrahub-api.md section 2.1).

    `end_foretold` says that its end was asked for by us or announced by the provider; without that it is LOST,
    which a later reading may still mend.
    """
    return S.DELETED if end_foretold or vm.state is S.DELETING else S.LOST

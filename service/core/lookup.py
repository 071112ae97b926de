"""When to conclude that an unconfirmed creation was not made. `operations/lookup.py` gathers the evidence."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

#: Even with positive evidence: a list may lag behind creates by many seconds (field-notes.md section 1).
SHORTEST_WINDOW = timedelta(minutes=1)


class Conclusion(StrEnum):
    """What follows from a list that does not show all of a creation's VMs."""

    WAIT = "wait"  #: they may still appear
    ABSENT = "absent"  #: they were not made: the creation may be sent again
    RENAME = "rename"  #: they were not made; send them again under another name, since this one was taken before


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupEvidence:
    """What is known about an unconfirmed creation when a list does not show all of its VMs.

    `listed_at` is when that list began and `since` when the creation became unconfirmed. `later_seen`: a creation that
    was sent after it is shown by this list, and its callbacks came. `name_available`: what the provider says of its
    name, None if it was not asked or did not answer.
    """

    listed_at: datetime
    since: datetime
    lookup_until: datetime
    whole: bool
    complete: bool
    later_seen: bool = False
    name_taken: bool = False
    name_available: bool | None = None
    wanted: bool = True  # somebody still wants the VMs


def conclude(evidence: LookupEvidence, *, window: timedelta) -> Conclusion:
    """What follows now. `window` is how long lookups go on without positive evidence.

    A list that is never complete (VMs come and go all the time, or `count` counts something else) counts after twice the
    window more. A name that was taken is never sent again; another one is, but only once the provider says that this one is free.
    """
    if not evidence.whole:
        return Conclusion.WAIT
    patience = timedelta() if evidence.complete else 2 * window
    is_over = evidence.listed_at >= evidence.lookup_until + patience
    if evidence.name_taken and evidence.wanted:
        waited = evidence.complete and evidence.listed_at >= evidence.since + window
        return Conclusion.RENAME if waited and evidence.name_available is True else Conclusion.WAIT
    return Conclusion.ABSENT if is_over or (is_positive(evidence) and not evidence.name_taken) else Conclusion.WAIT


def is_positive(evidence: LookupEvidence) -> bool:
    """Whether there is positive evidence that a creation was not made, so that its lookup may end early."""
    waited = evidence.listed_at >= evidence.since + SHORTEST_WINDOW
    return waited and evidence.complete and evidence.later_seen and evidence.name_available is True

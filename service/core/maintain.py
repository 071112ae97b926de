"""Keeping the count: which VMs that failed after they were ready are replaced, how many an hour, and when that stops. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pydantic import Field

from service.core.create_body import Part
from service.core.duration import Duration, text_of
from service.core.lifecycle import VmState

HOUR: Final = timedelta(hours=1)
#: What a VM is in when it has failed, or is gone although nobody asked us to delete it.
FAILED: Final = frozenset({VmState.ERROR, VmState.LOST, VmState.DELETED, VmState.REFUSED})


class Maintain(Part):
    """Replace VMs that are LOST, in ERROR or deleted by others after they were ready."""

    enabled: bool = Field(default=False, description="whether to replace them")
    max_per_hour: int = Field(default=20, ge=1, le=100_000, description="how many replacements an hour at most")
    grace_seconds: Duration = Field(
        default=120, ge=0, le=86_400, description="how long a VM must have failed before it is replaced"
    )
    stable_seconds: Duration = Field(
        default=600,
        ge=0,
        le=86_400,
        description="a replacement that fails before it was ready for that long is a crash",
    )
    stop_after: int = Field(default=5, ge=1, le=1000, description="stop after this many crashes in a row")


@dataclass(frozen=True, slots=True)
class Repair:
    """A replacement that was made for a VM that had failed: when, when it was ready, and when it failed itself.

    `deleted_at` is when a caller deleted it, which is no failure.
    """

    created_at: datetime
    ready_at: datetime | None = None
    failed_at: datetime | None = None
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RepairDecision:
    """How many VMs may be replaced now, when to look again if that is not all of them, and why nothing is ever again."""

    allowed: int
    again_at: datetime | None = None
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class LastHour:
    """The replacements that were made within the last hour, whatever became of them: how many, and when the oldest was."""

    made: int = 0
    oldest_at: datetime | None = None


def decide_repairs(
    wanted: int, repairs: Sequence[Repair], last_hour: LastHour, policy: Maintain, now: datetime
) -> RepairDecision:
    """Decide how many of `wanted` VMs are replaced now. `repairs` are those made before, in any order."""
    if crashes_in_a_row(repairs, policy, now) >= policy.stop_after:
        stable = text_of(policy.stable_seconds)
        return RepairDecision(
            0, stop=f"maintain stopped: {policy.stop_after} replacements in a row failed within {stable} of being ready"
        )
    allowed = min(wanted, max(0, policy.max_per_hour - last_hour.made))
    if allowed == wanted:
        return RepairDecision(allowed)
    # With these, as many are used up as the limit allows: the next may be made when the oldest of them is an hour old.
    return RepairDecision(allowed, again_at=(last_hour.oldest_at or now) + HOUR)


def crashes_in_a_row(repairs: Sequence[Repair], policy: Maintain, now: datetime) -> int:
    """How many replacements failed too soon, since the last one that proved stable."""
    decided = sorted(
        ((at, crashed) for one in repairs for at, crashed in [_outcome(one, policy, now)] if at), reverse=True
    )
    count = 0
    for _, crashed in decided:
        if not crashed:
            break
        count += 1
    return count


def _outcome(one: Repair, policy: Maintain, now: datetime) -> tuple[datetime | None, bool]:
    """When it was known how a replacement did, None if it is not known yet; and whether it crashed."""
    proven_at = None if one.ready_at is None else one.ready_at + timedelta(seconds=policy.stable_seconds)
    if one.failed_at is not None and (proven_at is None or one.failed_at < proven_at):
        return one.failed_at, True
    if one.deleted_at is not None and (proven_at is None or one.deleted_at < proven_at):
        return None, False
    return (proven_at, False) if proven_at is not None and proven_at <= now else (None, False)

"""Repairs times that lie in the future because the database's clock was set back."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

#: When something is done next, by table. What is due later than anything waits on purpose is due now.
DUE: Final[Mapping[str, tuple[str, ...]]] = {
    "creations": ("due_at", "lease_until", "lookup_until", "deadline_at"),
    "vms": ("next_refresh_at", "history_due_at", "delete_due_at", "contract_due_at", "lease_until"),
    "submissions": (
        "deadline_at",
        "withdraw_due_at",
        "expires_at",
        "expiry_notice_at",
        "repair_due_at",
        "limit_due_at",
    ),
    "inbox": ("due_at",),
    "orphans": ("due_at",),
    "rate_limits": ("paused_until",),
    "provider_circuits": ("open_until",),
    "scheduled_jobs": ("due_at", "lease_until"),
    "contract_leases": ("lease_until",),
    "messages": ("due_at",),
    "message_lanes": ("due_at", "lease_until"),
}
#: When something happened that later evidence or a patience is compared with. None of it is later than now: what came
#: from the future would be newer than everything that comes, and what was made in the future would be new for too long.
SINCE: Final[Mapping[str, tuple[str, ...]]] = {
    "submissions": ("maintained_since", "limit_reached_at"),
    "creations": ("first_sent_at", "unconfirmed_since"),
    "vms": ("observed_at", "last_event_at", "bound_at", "active_at", "on_demand_since", "deletion_requested_at"),
    "orphans": ("found_at", "ended_at"),
    "health_issues": ("reported_at",),
    "record_origin": ("uncertain_since",),
}
#: A lookup goes on for at most its window from now: what was sent just now may not be listed yet.
_CREATIONS: Final = """
UPDATE creations SET due_at = :now, lease_until = CASE WHEN lease_until > :now THEN :now ELSE lease_until END,
    lookup_until = CASE WHEN lookup_until > :latest THEN :latest ELSE lookup_until END
WHERE due_at > :latest
"""
#: LOST VMs are refreshed ever more rarely.
_REFRESHES: Final = """
UPDATE vms SET next_refresh_at = :now
WHERE next_refresh_at > :latest AND (state <> 'LOST' OR next_refresh_at > CAST(:now AS timestamptz) + interval '1 day')
"""
#: A policy may delay contract retries, by as much as it says.
_CONTRACTS: Final = """
UPDATE vms SET contract_due_at = :now FROM submissions
WHERE submissions.submission_id = vms.submission_id AND contract_due_at > :latest
  AND contract_due_at > CAST(:now AS timestamptz) + make_interval(secs => greatest(
    CAST(policy #>> '{retry,first_wait_seconds}' AS float), CAST(policy #>> '{retry,max_wait_seconds}' AS float)))
"""
#: At most the whole time that was asked for: from now, since `created_at` may itself lie in the future.
_DEADLINES: Final = """
UPDATE submissions SET deadline_at = CAST(:now AS timestamptz) + make_interval(secs => CAST(policy ->> 'deadline_seconds' AS float))
WHERE state = 'open' AND created_at > :now
  AND deadline_at > CAST(:now AS timestamptz) + make_interval(secs => CAST(policy ->> 'deadline_seconds' AS float))
"""
#: As for submissions. A replacement for the contract has as long as retrying has.
_CREATION_DEADLINES: Final = """
UPDATE creations SET deadline_at = CAST(:now AS timestamptz) + longest.wait
FROM submissions, make_interval(secs => greatest(
    CAST(policy ->> 'deadline_seconds' AS float), CAST(policy #>> '{retry,deadline_seconds}' AS float))) AS longest (wait)
WHERE submissions.submission_id = creations.submission_id AND creations.due_at IS NOT NULL AND creations.created_at > :now
  AND creations.deadline_at > CAST(:now AS timestamptz) + longest.wait
"""
#: A lifetime ends after its length at the latest. A time of expiry is what the caller said.
_EXPIRY: Final = """
UPDATE submissions SET expires_at = CAST(:now AS timestamptz) + make_interval(secs => CAST(policy ->> 'lifetime' AS float)),
    expiry_notice_at = CASE WHEN expiry_notice_at IS NOT NULL THEN expiry_notice_at - (expires_at
        - CAST(:now AS timestamptz) - make_interval(secs => CAST(policy ->> 'lifetime' AS float))) END
WHERE expires_at > CAST(:now AS timestamptz) + make_interval(secs => CAST(policy ->> 'lifetime' AS float))
  AND cancelled_at IS NULL
"""
#: Events wait for seconds on purpose; one that is applied too early waits again.
_INBOX: Final = "UPDATE inbox SET due_at = :now WHERE due_at > :now"
#: Some are hourly.
_JOBS: Final = """
UPDATE scheduled_jobs SET due_at = least(due_at, :now), lease_until = CASE WHEN lease_until > :now THEN :now ELSE lease_until END
WHERE greatest(due_at, lease_until) > greatest(:latest, CAST(:now AS timestamptz) + interval '1 hour')
"""
#: Calls of the last minute still count: they are moved by as much as the clock was.
_SLOTS: Final = """
WITH ahead AS (DELETE FROM rate_limit_slots WHERE slot > :now RETURNING scope, slot, operation, used)
INSERT INTO rate_limit_slots (scope, slot, operation, used)
SELECT scope, date_trunc('second', least(slot - CAST(:back AS interval), :now)), operation, sum(used) FROM ahead
GROUP BY 1, 2, 3
ON CONFLICT (scope, slot, operation) DO UPDATE SET used = rate_limit_slots.used + excluded.used
"""
#: What has a statement of its own.
_APART: Final = {
    ("creations", "due_at"): _CREATIONS,
    ("creations", "lease_until"): _CREATIONS,
    ("creations", "lookup_until"): _CREATIONS,
    ("vms", "next_refresh_at"): _REFRESHES,
    ("vms", "contract_due_at"): _CONTRACTS,
    ("creations", "deadline_at"): _CREATION_DEADLINES,
    ("submissions", "deadline_at"): _DEADLINES,
    ("submissions", "expires_at"): _EXPIRY,
    ("submissions", "expiry_notice_at"): _EXPIRY,
    ("inbox", "due_at"): _INBOX,
    ("scheduled_jobs", "due_at"): _JOBS,
    ("scheduled_jobs", "lease_until"): _JOBS,
}


def _due(table: str, column: str) -> str:
    return f"UPDATE {table} SET {column} = :now WHERE {column} > :latest"  # noqa: S608  constants of ours


def _since(table: str, columns: tuple[str, ...]) -> str:
    # Of VMs only the living, by the index on what is refreshed next.
    some = "next_refresh_at IS NOT NULL AND " if table == "vms" else ""
    values = ", ".join(f"{column} = CASE WHEN {column} > :now THEN :now ELSE {column} END" for column in columns)
    ahead = " OR ".join(f"{column} > :now" for column in columns)
    return f"UPDATE {table} SET {values} WHERE {some}({ahead})"  # noqa: S608  constants of ours


# Each statement changes nothing when it is run again, since every daemon notices the step.
_HEAL: Final = tuple(
    text(one)
    for one in dict.fromkeys(
        [
            *(
                _APART.get((table, column)) or _due(table, column)
                for table, columns in DUE.items()
                for column in columns
            ),
            *(_since(table, columns) for table, columns in SINCE.items()),
            _SLOTS,
        ]
    )
)


async def heal(conn: AsyncConnection, *, now: datetime, back: timedelta, longest: timedelta) -> None:
    """Make due what is due later than `longest` from now, after the clock was set back by `back`.

    Nothing of ours waits for longer than `longest` on purpose, but for what the statements name. Changes nothing if the
    clock was not set back, whatever `back` says.
    """
    values = {"now": now, "latest": now + longest, "back": back}
    for statement in _HEAL:
        names = statement.compile().params
        await conn.execute(statement, {name: values[name] for name in names})

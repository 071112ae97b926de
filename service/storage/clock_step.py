"""Repairs times that lie in the future because the database's clock was set back."""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# Every daemon notices the step, so each statement may run more than once.
_CREATIONS: Final = """
UPDATE creations SET due_at = :now, lease_until = least(lease_until, :now), lookup_until = least(lookup_until, :latest)
WHERE due_at > :latest
"""
# A refresh from the future would count as newer than everything that comes.
_SEEN: Final = """
UPDATE vms SET observed_at = least(observed_at, :now), last_event_at = least(last_event_at, :now)
WHERE observed_at > :now OR last_event_at > :now
"""
# Calls of the last minute still count: shift them by the step.
_SLOTS: Final = """
WITH ahead AS (DELETE FROM rate_limit_slots WHERE slot > :now RETURNING scope, slot, operation, used)
INSERT INTO rate_limit_slots (scope, slot, operation, used)
SELECT scope, date_trunc('second', least(slot - CAST(:back AS interval), :now)), operation, sum(used) FROM ahead
GROUP BY 1, 2, 3
ON CONFLICT (scope, slot, operation) DO UPDATE SET used = rate_limit_slots.used + excluded.used
"""
_HEAL: Final = (
    # Events wait only for seconds; one that is applied too early waits again.
    text("UPDATE inbox SET due_at = :now WHERE due_at > :now"),
    text(_CREATIONS),
    text("UPDATE vms SET next_refresh_at = :now WHERE next_refresh_at > :latest"),
    text("UPDATE vms SET history_due_at = :now WHERE history_due_at > :latest"),
    text("UPDATE vms SET delete_due_at = :now WHERE delete_due_at > :latest"),
    text("UPDATE vms SET lease_until = :now WHERE lease_until > :latest"),
    text(_SEEN),
    text("UPDATE rate_limits SET paused_until = :latest WHERE paused_until > :latest"),
    text(_SLOTS),
)


async def heal(conn: AsyncConnection, *, now: datetime, back: timedelta, longest: timedelta) -> None:
    """Make due what is due later than `longest` from now, after the clock was set back by `back`.

    Nothing waits longer than `longest` on purpose, except contract retries: policies may delay them, so they stay.
    """
    values = {"now": now, "latest": now + longest, "back": back}
    for statement in _HEAL:
        names = statement.compile().params
        await conn.execute(statement, {name: values[name] for name in names})

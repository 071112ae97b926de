"""What a step of the database's clock backwards leaves behind: times that lie in the future by mistake. Healed here."""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# Each statement changes nothing when it is run again, since every daemon notices the step.
_CREATIONS: Final = """
UPDATE creations SET due_at = :now, lease_until = least(lease_until, :now), lookup_until = least(lookup_until, :latest)
WHERE due_at > :latest
"""
# What was seen later than now would be taken for newer than everything that comes.
_SEEN: Final = """
UPDATE vms SET observed_at = least(observed_at, :now), last_event_at = least(last_event_at, :now)
WHERE observed_at > :now OR last_event_at > :now
"""
# Calls of the last minute still count: they are moved by as much as the clock was.
_SLOTS: Final = """
WITH ahead AS (DELETE FROM rate_limit_slots WHERE slot > :now RETURNING scope, slot, operation, used)
INSERT INTO rate_limit_slots (scope, slot, operation, used)
SELECT scope, date_trunc('second', least(slot - CAST(:back AS interval), :now)), operation, sum(used) FROM ahead
GROUP BY 1, 2, 3
ON CONFLICT (scope, slot, operation) DO UPDATE SET used = rate_limit_slots.used + excluded.used
"""
_HEAL: Final = (
    # Events wait for seconds on purpose; one that is applied too early waits again.
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
    """Make due what is due later than `longest` from now, after the clock went back by `back`.

    Nothing of ours waits for longer than `longest` on purpose. Contract retries are left alone: policies may delay them.
    """
    values = {"now": now, "latest": now + longest, "back": back}
    for statement in _HEAL:
        names = statement.compile().params
        await conn.execute(statement, {name: values[name] for name in names})

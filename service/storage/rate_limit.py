"""The rate limit: calls of all daemons of a scope, which share a source IP (infrahub-api.md section 6).

Calls are counted in a sliding window a little longer than a minute, so that no minute at the provider, wherever it begins
and however long calls travel, holds more than the limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.tables import rate_limit_slots, rate_limits

WINDOW = timedelta(seconds=62)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """How many calls a window may hold, and up to which share of it each operation gets calls.

    Creates go first and reads last: an operation gets calls only while less than its share of the window is used, so
    the rest is left for more important ones. `while_creating` is the share that an operation may itself take while
    creations wait.
    """

    scope: str
    calls: int
    shares: Mapping[str, float]
    while_creating: Mapping[str, float] = field(default_factory=dict)

    def cap(self, operation: str) -> int:
        """The number of used calls up to which this operation gets another one."""
        return max(1, int(self.calls * self.shares.get(operation, 1.0)))

    def own_cap(self, operation: str) -> int:
        """The most calls of this operation while creations wait."""
        return max(1, int(self.calls * self.while_creating.get(operation, 1.0)))


async def acquire(
    conn: AsyncConnection, limits: RateLimit, *, operation: str, wanted: int, now: datetime, creating: bool = False
) -> int:
    """Acquire up to `wanted` calls. They count from now on, made or not; commit before making them.

    `creating`: creations wait. The scope's row is locked until the transaction ends, so daemons count one after another.
    """
    paused_until = await _lock(conn, limits.scope)
    if paused_until is not None and paused_until > now:
        return 0
    used, own = await _used(conn, limits.scope, operation, now)
    left = limits.cap(operation) - used
    granted = max(0, min(wanted, left, limits.own_cap(operation) - own if creating else left))
    if granted == 0:
        return 0
    slot = now.replace(microsecond=0)
    spent = insert(rate_limit_slots).values(scope=limits.scope, slot=slot, operation=operation, used=granted)
    await conn.execute(
        spent.on_conflict_do_update(
            constraint="rate_limit_slots_pkey", set_={"used": rate_limit_slots.c.used + spent.excluded.used}
        )
    )
    return granted


async def pause(conn: AsyncConnection, scope: str, until: datetime) -> None:
    """Pause all daemons of the scope until `until`: the provider said that the limit was reached."""
    paused = insert(rate_limits).values(scope=scope, paused_until=until)
    await conn.execute(
        paused.on_conflict_do_update(
            constraint="rate_limits_pkey",
            set_={"paused_until": func.greatest(rate_limits.c.paused_until, paused.excluded.paused_until)},
        )
    )


async def usage(conn: AsyncConnection, scope: str, now: datetime) -> dict[str, int]:
    """Calls in the current window by operation."""
    rows = await conn.execute(
        select(rate_limit_slots.c.operation, func.sum(rate_limit_slots.c.used).label("used"))
        .where(rate_limit_slots.c.scope == scope, rate_limit_slots.c.slot > now - WINDOW)
        .group_by(rate_limit_slots.c.operation)
    )
    return {row.operation: int(row.used) for row in rows}


async def forget_old(conn: AsyncConnection, now: datetime) -> None:
    """Remove slots that are older than any window."""
    await conn.execute(delete(rate_limit_slots).where(rate_limit_slots.c.slot < now - 10 * WINDOW))


async def _lock(conn: AsyncConnection, scope: str) -> datetime | None:
    await conn.execute(insert(rate_limits).values(scope=scope).on_conflict_do_nothing())
    row = await conn.execute(select(rate_limits.c.paused_until).where(rate_limits.c.scope == scope).with_for_update())
    paused_until: datetime | None = row.scalar_one()
    return paused_until


async def _used(conn: AsyncConnection, scope: str, operation: str, now: datetime) -> tuple[int, int]:
    """Calls in the current window, and those of the operation among them."""
    # A slot is a whole second: one that began inside the window, or less than a second before it, counts in full.
    slots, own = rate_limit_slots.c, rate_limit_slots.c.operation == operation
    row = (
        await conn.execute(
            select(
                func.coalesce(func.sum(slots.used), 0),
                func.coalesce(func.sum(slots.used).filter(own), 0),
            ).where(slots.scope == scope, slots.slot > now - WINDOW - timedelta(seconds=1))
        )
    ).one()
    return int(row[0]), int(row[1])

"""The clock that everything takes as a dependency, and the database's clock, which is the clock of record."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from service.storage.engine import begin, server_time

#: Trust the database's clock only if it answered within this many seconds.
_PRECISE_SECONDS = 0.25


class Clock(Protocol):
    """Time as a dependency: tests and the explorer set it."""

    def now(self) -> datetime:
        """The time, aware, in UTC."""

    def monotonic(self) -> float:
        """Seconds, to measure how long something takes: nobody sets them."""

    async def sleep(self, seconds: float) -> None: ...


class DatabaseClock:
    """The database's time, the clock of record: measured from time to time, and counted on by a monotonic clock.

    That clock goes on while the machine sleeps, and nobody sets it. A step of this machine's time of day must not end
    leases and lookup windows early.
    """

    def __init__(self) -> None:
        self._at, self._counted = datetime.now(UTC), _count()

    def now(self) -> datetime:
        return self._at + timedelta(seconds=_count() - self._counted)

    def monotonic(self) -> float:
        return _count()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def measure(self, engine: AsyncEngine) -> timedelta:
        """Measure the database's time. Returns how far off we were.

        If the answer took too long to be exact, nothing changes until the next measurement.
        """
        async with begin(engine) as conn:
            await server_time(conn)  # connects, which must not count
            before = _count()
            theirs = await server_time(conn)
            after = _count()
        middle = (before + after) / 2
        off = theirs - (self._at + timedelta(seconds=middle - self._counted))
        if (after - before) / 2 < max(_PRECISE_SECONDS, abs(off.total_seconds()) / 2):
            self._at, self._counted = theirs, middle
        return off


def _count() -> float:
    """Seconds of a monotonic clock; if there is one, of a clock that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

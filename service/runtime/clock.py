"""Time as a dependency: the clock that everything takes, and the database's clock, which is the clock of record."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from service.storage.engine import begin, server_time

#: Trust the database's clock only if it answered within this many seconds.
_PRECISE_SECONDS = 0.25


class Clock(Protocol):
    """Time as a dependency: tests set it, the explorer turns it."""

    def now(self) -> datetime:
        """The time, aware, in UTC."""

    async def sleep(self, seconds: float) -> None: ...


class DatabaseClock:
    """The database's time, which is the clock of record: measured now and then, and counted on from there.

    It is counted by a clock that nobody sets, and that goes on while the machine sleeps: a step of this machine's
    time of day would otherwise end leases and quiet times that are not over.
    """

    def __init__(self) -> None:
        self._at, self._counted = datetime.now(UTC), _count()

    def now(self) -> datetime:
        return self._at + timedelta(seconds=_count() - self._counted)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def measure(self, engine: AsyncEngine) -> timedelta:
        """Ask the database for its time, and return how far off we were.

        Nothing is changed where it took so long to say that it may be as far off as we are: the next measure does.
        """
        async with begin(engine) as conn:
            await server_time(conn)  # connects and begins, which must not count
            before = _count()
            theirs = await server_time(conn)
            after = _count()
        middle = (before + after) / 2
        off = theirs - (self._at + timedelta(seconds=middle - self._counted))
        if (after - before) / 2 < max(_PRECISE_SECONDS, abs(off.total_seconds()) / 2):
            self._at, self._counted = theirs, middle
        return off


def _count() -> float:
    """Seconds since some moment, which nobody sets; where there is one, by a clock that goes on while we sleep."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

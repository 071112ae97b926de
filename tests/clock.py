"""A clock that tests set. Nothing here waits."""

import asyncio
from datetime import UTC, datetime, timedelta

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


class ManualClock:
    """Time stands still until a test moves it. Who sleeps on it only lets others go first, and `slept` tells how long."""

    def __init__(self, start: datetime = NOON) -> None:
        self._now = start
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self._now

    def set(self, now: datetime) -> None:
        self._now = now

    def advance(self, seconds: float) -> datetime:
        self._now += timedelta(seconds=seconds)
        return self._now

    def monotonic(self) -> float:
        return (self._now - NOON).total_seconds()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)

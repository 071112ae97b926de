"""Splits long computations, so that callbacks wait no longer than a few milliseconds, and lets others go first."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

Item = TypeVar("Item")

#: Seconds of CPU time after which other tasks get their turn.
SLICE: Final = 0.005
#: Items between two checks of the clock.
_EVERY: Final = 16
#: Two turns of the loop that take longer than so many seconds had work of others.
_IDLE: Final = 0.0001
#: Seconds in which more of their work is expected then, the first time and again: it comes and goes, and a rest sees only a moment.
_FIRST, _AGAIN = 0.02, 0.2
#: Seconds of rest for each second of work, while others have work too.
_REST: Final = 16.0


async def paced(items: Iterable[Item]) -> AsyncIterator[Item]:
    """The items one by one. Other tasks run after each slice of CPU time."""
    until = time.thread_time() + SLICE
    for number, item in enumerate(items):
        if number % _EVERY == 0 and time.thread_time() > until:
            await asyncio.sleep(0)
            until = time.thread_time() + SLICE
        yield item


class GivingWay:
    """Lets others go first: whoever has much to compute, in short parts, rests between them while others have work too."""

    def __init__(self) -> None:
        self._worked = 0.0
        self._busy_until = 0.0
        self.busy = False  #: whether others had work at the last rest

    @contextmanager
    def work(self) -> Iterator[None]:
        """Around what is computed without a pause."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._worked += time.perf_counter() - begun

    async def rest(self) -> None:
        """Rest for several times as long as was worked since the last rest; returns at once if nobody else has work."""
        worked, self._worked = self._worked, 0.0
        begun = time.perf_counter()
        for _ in range(2):  # what is ready, and what comes of what has arrived
            await asyncio.sleep(0)
        now = time.perf_counter()
        if now - begun > _IDLE:
            self._busy_until = now + worked * _REST + (_AGAIN if self.busy else _FIRST)  # that long after the rest
        self.busy = now < self._busy_until
        if self.busy:
            await asyncio.sleep(worked * _REST)

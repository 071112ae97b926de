"""Splits long computations, so that callbacks wait no longer than a few milliseconds."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

Item = TypeVar("Item")

#: Seconds of CPU time after which other tasks get their turn.
SLICE: Final = 0.005
#: Items between two checks of the clock.
_EVERY: Final = 16


async def paced(items: Iterable[Item]) -> AsyncIterator[Item]:
    """The items one by one. Other tasks run after each slice of CPU time."""
    until = time.thread_time() + SLICE
    for number, item in enumerate(items):
        if number % _EVERY == 0 and time.thread_time() > until:
            await asyncio.sleep(0)
            until = time.thread_time() + SLICE
        yield item

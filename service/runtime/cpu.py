"""Long computations on the event loop, cut so that callbacks wait for no more than a few milliseconds."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

Item = TypeVar("Item")

#: CPU time of this thread, in seconds, after which others get their turn.
SLICE: Final = 0.005
#: Items between two looks at the clock.
_EVERY: Final = 16


async def paced(items: Iterable[Item]) -> AsyncIterator[Item]:
    """The items one by one; the event loop is left to others after each slice of CPU time."""
    until = time.thread_time() + SLICE
    for number, item in enumerate(items):
        if number % _EVERY == 0 and time.thread_time() > until:
            await asyncio.sleep(0)
            until = time.thread_time() + SLICE
        yield item

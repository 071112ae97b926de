"""What many open pages show alike is computed once for all of them, until something changes.

While few pages are open, each computes it anew, and so shows what a reload would show.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, TypeVar

from aiohttp import web

Value = TypeVar("Value")

#: With more open pages than this, they share.
FEW: Final = 5


class SharedValues:
    """Values by key, each from one computation. `forget` them when something changed."""

    def __init__(self) -> None:
        self.is_on = False
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}

    async def get(self, key: Hashable, compute: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """The value of a key. One that failed is computed again for the next who asks."""
        if not self.is_on:
            return await compute()
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(compute())
            task.add_done_callback(lambda done: self._drop_failed(key, done))
        found: Value = await asyncio.shield(task)  # whoever asked first may go away
        return found

    def forget(self) -> None:
        self._tasks.clear()

    def _drop_failed(self, key: Hashable, done: asyncio.Task[Any]) -> None:
        if (done.cancelled() or done.exception()) and self._tasks.get(key) is done:
            del self._tasks[key]


SHARED: Final = web.AppKey("shared", SharedValues)

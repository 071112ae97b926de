"""Reports that read what they summarize, such as the statistics of a month: made once for all viewers, and kept for a while.

A report is kept for 50 times as long as it took, so making it anew takes at most a fiftieth of the time, however many
look at it. One that is made quickly is not kept at all.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from aiohttp import web

from service.runtime.runtime import Runtime

Value = TypeVar("Value")

_SHARE: Final = 50
#: Seconds: a report that takes no longer is made anew each time.
_QUICK: Final = 0.3
#: Seconds that a page waits for a report. Afterwards it shows the one before, or that there is none yet.
_PATIENCE: Final = 2.0
#: A report that takes longer is given up.
_LONGEST: Final = 600.0
#: The most that are made or wait to be made, and that are kept.
_MOST: Final = 8


@dataclass(frozen=True, slots=True)
class SharedReport(Generic[Value]):
    """A report, and when it was begun; `until` is when it is made anew, by the event loop's clock."""

    value: Value
    began_at: datetime
    until: float


class SharedReports:
    """The reports of one process by key. They are made one after another."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._one_at_a_time = asyncio.Lock()
        self._making: dict[Hashable, asyncio.Task[SharedReport[Any]]] = {}
        self._made: dict[Hashable, SharedReport[Any]] = {}

    async def get(self, key: Hashable, make: Callable[[], Coroutine[Any, Any, Value]]) -> SharedReport[Value] | None:
        """The report of a key; None if it takes longer than a page should wait. It is there soon, then.

        Raises what `make` raises, and TimeoutError if too many reports are being made.
        """
        made = self._made.get(key)
        if made is not None and asyncio.get_running_loop().time() < made.until:
            return made
        task = self._making.get(key) or self._start(key, make)
        done, _ = await asyncio.wait({task}, timeout=_PATIENCE)
        return task.result() if done else made

    async def close(self) -> None:
        tasks = list(self._making.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(
        self, key: Hashable, make: Callable[[], Coroutine[Any, Any, Value]]
    ) -> asyncio.Task[SharedReport[Value]]:
        if len(self._making) >= _MOST:
            raise TimeoutError
        task = self._making[key] = asyncio.create_task(self._make(key, make))
        task.add_done_callback(lambda done: self._end(key, done))
        return task

    async def _make(self, key: Hashable, make: Callable[[], Coroutine[Any, Any, Value]]) -> SharedReport[Value]:
        loop = asyncio.get_running_loop()
        async with self._one_at_a_time, asyncio.timeout(_LONGEST):
            began_at, began = self._rt.clock.now(), loop.time()
            value = await make()
            took = loop.time() - began
        report = SharedReport(value, began_at, loop.time() + _SHARE * took)
        self._made.pop(key, None)
        if took > _QUICK:
            self._made = {**dict(list(self._made.items())[1 - _MOST :]), key: report}
        return report

    def _end(self, key: Hashable, done: asyncio.Task[SharedReport[Any]]) -> None:
        del self._making[key]
        if not done.cancelled():
            done.exception()  # whoever asks next is told; nobody may be waiting now


REPORTS: Final = web.AppKey("reports", SharedReports)

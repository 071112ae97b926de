"""Reports that read what they summarize, such as the statistics of a month: made once for all viewers, and kept for a while.

A report is kept for 50 times as long as it took, so making it anew takes at most a fiftieth of the time, however many
look at it. One that is made quickly is not kept at all. That it failed is kept likewise: it may fail each time.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

from aiohttp import web

from service.errors import Overloaded, ServiceError, StorageError
from service.runtime.logs import logger
from service.runtime.runtime import Runtime

Value = TypeVar("Value")

_SHARE: Final = 50
#: Seconds: a report that takes no longer is made anew each time.
_QUICK: Final = 0.3
#: Seconds that a page waits for a report. Afterwards it shows the one before, or that there is none yet.
_PATIENCE: Final = 2.0
#: A report that takes longer is given up.
_LONGEST: Final = 600.0
#: Seconds for which a report that failed is at least not tried again.
_FAILURE_KEPT: Final = 60.0
#: The most that are made or wait to be made, and that are kept.
_MOST: Final = 8
#: The most failures that are kept: they are small.
_MOST_FAILURES: Final = 100
_STOPPING: Final = "Rollcall is stopping."


@dataclass(frozen=True, slots=True)
class SharedReport(Generic[Value]):
    """A report, and when it was begun; `until` is when it is made anew, by the monotonic clock.

    `is_replaced` says that a newer one is being made, `failure` why there is none.
    """

    value: Value
    began_at: datetime
    until: float
    is_replaced: bool = False
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class FailedReport:
    """Why a report could not be made; `until` is when it is tried again, by the monotonic clock."""

    text: str
    until: float


class SharedReports:
    """The reports of one process by key. They are made one after another."""

    def __init__(self, rt: Runtime, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._rt, self._monotonic = rt, monotonic
        self._one_at_a_time = asyncio.Lock()
        self._making: dict[Hashable, asyncio.Task[SharedReport[Any]]] = {}
        self._made: dict[Hashable, SharedReport[Any]] = {}
        self._failed: dict[Hashable, FailedReport] = {}
        self._took: dict[Hashable, float] = {}
        self._is_closed = False

    async def get(
        self, key: Hashable, make: Callable[[], Coroutine[Any, Any, Value]], *, patience: float | None = None
    ) -> SharedReport[Value] | None:
        """The report of a key, or the one before, or None, if it takes longer than a page should wait, or `patience` seconds.

        Raises Overloaded if it failed a while ago and none was made before, or if too many reports are being made; also
        what `make` raises, if that is about the request.
        """
        made = self._made.get(key)
        if made is not None and self._monotonic() < made.until:
            return made
        if not self._has_failed(key):
            task = self._making.get(key) or self._start(key, make)
            done, _ = await asyncio.wait({task}, timeout=_PATIENCE if patience is None else patience)
            if not done:
                return made and replace(made, is_replaced=True)
            if task.cancelled():
                raise Overloaded(_STOPPING)
            if not self._has_failed(key):
                return task.result()
        text = self._failed[key].text
        if made is None:
            raise Overloaded(text)
        return replace(made, failure=text)

    async def close(self) -> None:
        """Cancel what is being made. No report is begun any more."""
        self._is_closed = True
        tasks = list(self._making.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _has_failed(self, key: Hashable) -> bool:
        failed = self._failed.get(key)
        return failed is not None and self._monotonic() < failed.until

    def _start(
        self, key: Hashable, make: Callable[[], Coroutine[Any, Any, Value]]
    ) -> asyncio.Task[SharedReport[Value]]:
        if self._is_closed:
            raise Overloaded(_STOPPING)
        if len(self._making) >= _MOST:
            raise Overloaded(f"{_MOST} other reports are being counted, one after another. Try again in a while.")
        task = self._making[key] = asyncio.create_task(self._make(key, make))
        task.add_done_callback(lambda done: self._end(key, done))
        return task

    async def _make(self, key: Hashable, make: Callable[[], Coroutine[Any, Any, Value]]) -> SharedReport[Value]:
        async with self._one_at_a_time:
            began_at, began = self._rt.clock.now(), self._monotonic()
            try:
                async with asyncio.timeout(_LONGEST):
                    value = await make()
            finally:
                self._took[key] = took = self._monotonic() - began
        report = SharedReport(value, began_at, self._monotonic() + _SHARE * took)
        self._made.pop(key, None)
        if took > _QUICK:
            self._made = {**dict(list(self._made.items())[1 - _MOST :]), key: report}
        return report

    def _keep_failure(self, key: Hashable, error: BaseException, took: float) -> None:
        """Keep that a report failed, unless that is about the request: such an error is raised again at once."""
        if isinstance(error, ServiceError) and not isinstance(error, StorageError):
            return
        now, rest = self._rt.clock.now(), max(_FAILURE_KEPT, _SHARE * took)
        text = f"At {now:%Y-%m-%d %H:%M:%SZ} this could not be counted: {_why(error)}. "
        text += f"It is tried again from {now + timedelta(seconds=rest):%Y-%m-%d %H:%M:%SZ} on."
        failed = FailedReport(text, self._monotonic() + rest)
        self._failed = {**dict(list(self._failed.items())[1 - _MOST_FAILURES :]), key: failed}
        logger().error("a report failed", action="report", outcome="failed", error=str(error)[:500], exc_info=error)

    def _end(self, key: Hashable, done: asyncio.Task[SharedReport[Any]]) -> None:
        del self._making[key]
        self._failed.pop(key, None)
        took = self._took.pop(key, 0.0)
        error = None if done.cancelled() else done.exception()
        if error is not None:  # nobody may be waiting now
            self._keep_failure(key, error, took)


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"it took longer than {_LONGEST / 60:.0f} minutes"
    return str(error)[:300] if isinstance(error, ServiceError) else type(error).__name__


REPORTS: Final = web.AppKey("reports", SharedReports)

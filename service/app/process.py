"""Signals, the database's clock and health, and background tasks of a daemon."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from service.config import Settings
from service.errors import StorageError
from service.runtime.clock import Clock, DatabaseClock
from service.runtime.database_health import report_database, resolve_database
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.storage import clock_step
from service.storage.engine import begin, check_writable, transact
from service.storage.server_watch import ServerWatch

_CLOCK_SECONDS: Final = 5.0
_FIRST_SECONDS: Final = 1.0  # until the first measurement
_PROBE_SECONDS: Final = 5.0
_PROBE_TIMEOUT: Final = 10.0
_FOLLOW_SECONDS: Final = 1.0
#: For how long after the database's return a job that fails because of it is run again at once: it may notice late.
_RESUME_SECONDS: Final = 10.0
#: A clock that goes back by more than this was set; less is a correction.
_STEP: Final = timedelta(seconds=2)
_CLOCK: Final = "clock"
_LONGEST_LEASE: Final = 300.0


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM, SIGINT and SIGHUP set; SIGHUP not under nohup."""
    stop = asyncio.Event()
    for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if one == signal.SIGHUP and signal.getsignal(one) == signal.SIG_IGN:
            continue
        asyncio.get_running_loop().add_signal_handler(one, stop.set)
    return stop


async def keep_time(rt: Runtime) -> None:
    """Correct our clock by the database's from time to time."""
    wait = _FIRST_SECONDS
    while isinstance(rt.clock, DatabaseClock):
        with suppress(StorageError):
            await correct_clock(rt, rt.clock)
            wait = _CLOCK_SECONDS
        await asyncio.sleep(wait)


class MeasuredClock(Clock, Protocol):
    """A clock that is corrected by the database's."""

    async def measure(self, engine: AsyncEngine) -> timedelta:
        """As `DatabaseClock.measure`."""


async def correct_clock(rt: Runtime, clock: MeasuredClock) -> None:
    """Measure the database's clock. If it was set back, make due what would otherwise wait until it has caught up.

    What cannot be written now, such as to a standby after a failover, is written after the next measure.
    """
    before = clock.now()
    back = -await clock.measure(rt.engine)
    if back >= _STEP and clock.now() < before:
        rt.clock_set_back += back
        rt.health.set_back(back)
        rt.health.report(
            _CLOCK, f"the database's clock went back by {back.total_seconds():.0f} s; due times are being set anew"
        )
        logger().warning("the database's clock went back", action="clock", seconds=round(back.total_seconds(), 3))
    elif not rt.clock_set_back:
        rt.health.resolve(_CLOCK)
        return
    await heal_times(rt, clock.now())


async def heal_times(rt: Runtime, now: datetime) -> None:
    """Make due what would wait for a clock that was set back. Harmless if none was: done at each start, since a process
    that was killed may have left such times.
    """
    heal = partial(clock_step.heal, now=now, back=rt.clock_set_back, longest=longest_wait(rt.settings))
    await transact(rt.engine, heal)
    rt.clock_set_back = timedelta()


def longest_wait(settings: Settings) -> timedelta:
    """The longest that anything waits on purpose, contract retries aside."""
    return timedelta(
        seconds=max(
            max(settings.create_timeout, 2 * settings.call_timeout) + settings.lease_margin_seconds,
            settings.resync_seconds,
            settings.overdue_seconds,
            settings.lookup_window_seconds,
            settings.history_seconds,
            settings.retry_cap_seconds,
            _LONGEST_LEASE,
        )
    )


async def watch_database(rt: Runtime) -> None:
    """Probe the database from time to time, and report or resolve its health issues."""
    while True:
        await probe_database(rt)
        await asyncio.sleep(_PROBE_SECONDS)


async def probe_database(rt: Runtime) -> None:
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT), begin(rt.engine) as conn:
            await check_writable(conn)
    except (StorageError, TimeoutError) as error:
        report_database(rt.health, str(error) or f"the database did not answer within {_PROBE_TIMEOUT:g} s")
    else:
        resolve_database(rt.health)


async def follow_server(rt: Runtime) -> None:
    """Break connections to a server that another has replaced, and have jobs that wait after a failure run once the database is back."""
    watch, resumed_until = ServerWatch(rt.engine.url), 0.0
    try:
        while True:
            with suppress(StorageError):  # `watch_database` reports it
                if await watch.look():
                    resumed_until = time.monotonic() + _RESUME_SECONDS
                if time.monotonic() < resumed_until:
                    rt.resume_failed_jobs()
            await asyncio.sleep(_FOLLOW_SECONDS)
    finally:
        watch.close()


@asynccontextmanager
async def background(work: Coroutine[None, None, None], name: str, stop: asyncio.Event) -> AsyncIterator[None]:
    """Run work for as long as the block lasts. If it ends by itself, `stop` is set, and its error is raised at the end."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(lambda done: _ended(done, stop))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _ended(task: asyncio.Task[None], stop: asyncio.Event) -> None:
    if not task.cancelled() and not stop.is_set():
        logger().error(
            "a background task ended by itself; stopping",
            action="stop",
            task=task.get_name(),
            error=str(task.exception()),
        )
        stop.set()

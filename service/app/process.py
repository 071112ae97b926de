"""What every process that lasts does beside its work: hear the signals that end it, and keep the database's time."""

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress

from service.errors import StorageError
from service.runtime.clock import DatabaseClock
from service.runtime.runtime import Runtime

_CLOCK_SECONDS = 60.0
_FIRST_SECONDS = 1.0  # until it was told once


def stop_on_signals() -> asyncio.Event:
    """Set by SIGTERM, SIGINT and SIGHUP (the terminal was closed); not by a SIGHUP that nohup has us ignore."""
    stop = asyncio.Event()
    for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if one == signal.SIGHUP and signal.getsignal(one) == signal.SIG_IGN:
            continue
        asyncio.get_running_loop().add_signal_handler(one, stop.set)
    return stop


async def keep_time(rt: Runtime) -> None:
    """Correct our clock by the database's now and then: it is the clock of record for all daemons."""
    wait = _FIRST_SECONDS
    while isinstance(rt.clock, DatabaseClock):
        with suppress(StorageError):
            await rt.clock.measure(rt.engine)
            wait = _CLOCK_SECONDS
        await asyncio.sleep(wait)


@asynccontextmanager
async def background(work: Coroutine[None, None, None], name: str) -> AsyncIterator[None]:
    """Work that goes on for as long as the block lasts."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

"""A process that only hears callbacks: one of several that a daemon starts on one port (`rollcall serve --processes`).

It is told what to do by a line on its standard input, and says on its standard output how it does, a line of JSON each
time. It has the daemon's settings from the environment, as the daemon itself. When its standard input ends, the daemon
has gone, however it went: then it stops as if it had been told to, and nothing outlives the daemon.
"""

import asyncio
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import orjson
import structlog
import uvloop

from service.app.process import background, keep_time, stop_on_signals
from service.config import Settings, load
from service.receiver import Receiver
from service.runtime.logs import configure_logs, logger
from service.runtime.metrics_aggregation import samples
from service.runtime.runtime import Runtime, open_runtime

_REPORT_SECONDS: Final = 1.0
#: So many seconds at the least between two words of new events. A storm needs no more to keep a worker awake.
_TELL_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverConfig:
    """What the daemon tells a receiver that it starts: its number, the database, and where to listen."""

    number: int
    database_url: str
    host: str
    port: int


def main() -> None:
    settings = load()
    configure_logs(settings.log_level, settings.log_format)
    uvloop.run(_receive(settings))


async def _receive(settings: Settings) -> None:
    stop = stop_on_signals()
    told = await _standard_input()
    first = await told.readline()
    if not first:  # the daemon went before it had said anything
        return
    orders = ReceiverConfig(**orjson.loads(first))
    structlog.contextvars.bind_contextvars(receiver=orders.number)
    async with AsyncExitStack() as stack:
        rt = open_runtime(settings, orders.database_url)
        stack.push_async_callback(rt.close)
        await stack.enter_async_context(background(_stop_at_the_end_of(told, stop), "daemon"))
        await stack.enter_async_context(background(keep_time(rt), "clock"))
        receiver = Receiver(rt)
        await receiver.start(orders.host, orders.port, reuse_port=True)
        stack.push_async_callback(receiver.close)
        pipe = StatusPipe(await _standard_output())
        pipe.say(listening=True)
        await stack.enter_async_context(background(_report(rt, pipe), "reports"))
        await stack.enter_async_context(background(_tell_of_events(rt, pipe), "events kept"))
        logger().info("hearing callbacks", action="start", port=orders.port)
        await stop.wait()
        logger().info("stopping", action="stop")


class StatusPipe:
    """The way to the daemon. What it does not read is not said: a daemon that hangs must not stop its receivers."""

    def __init__(self, pipe: asyncio.WriteTransport) -> None:
        self._pipe = pipe

    def say(self, **what: Any) -> None:
        if not self._pipe.get_write_buffer_size():
            self._pipe.write(orjson.dumps(what) + b"\n")


async def _stop_at_the_end_of(told: asyncio.StreamReader, stop: asyncio.Event) -> None:
    await told.read()
    stop.set()


async def _report(rt: Runtime, pipe: StatusPipe) -> None:
    """Say every second what was counted and what is wrong."""
    while True:
        pipe.say(samples=samples(rt.metrics.registry), issues=rt.health.issues)
        await asyncio.sleep(_REPORT_SECONDS)


async def _tell_of_events(rt: Runtime, pipe: StatusPipe) -> None:
    """Say when events were kept, so that the daemon's worker need not wait for its next look."""
    while True:
        await rt.events_stored.wait()
        rt.events_stored.clear()
        pipe.say(stored=True)
        await asyncio.sleep(_TELL_SECONDS)


async def _standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def _standard_output() -> asyncio.WriteTransport:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sys.stdout)
    return transport


if __name__ == "__main__":
    main()

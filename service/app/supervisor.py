"""Several receivers of one daemon, each a process of its own on the same port: started, watched, started again, stopped.

The kernel spreads connections over them. The daemon keeps a socket bound to the port, so that nobody else gets it while
receivers come and go, but does not listen on it. What a receiver that died had in its spool is adopted by the others.
"""

import asyncio
import socket
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

import orjson

from service.app.receiver_process import ReceiverConfig
from service.core.backoff import Backoff
from service.runtime.logs import logger
from service.runtime.runtime import Runtime

_MODULE: Final = "service.app.receiver_process"
_AGAIN: Final = Backoff(first=0.5, cap=30.0, floor=0.1)
#: A receiver that has lived for so many seconds had begun well: what ended it is not what ended the one before it.
_WELL: Final = 60.0
#: Seconds that a receiver has for coming up, and for answering what has begun when it is told to stop.
_START: Final = 60.0
_STOP: Final = 20.0
#: Seconds of silence after which `/readyz` says so. Each speaks every second.
_SILENT: Final = 30.0
#: How often in a row that is said until it is taken to hang: its socket goes on getting connections nobody serves.
_HANGS: Final = 2
_LONGEST_LINE: Final = 2**20


class ReceiverSupervisor:
    """The receivers of a daemon. Start them once, and close them once, in the same event loop."""

    def __init__(self, rt: Runtime, database_url: str, number: int) -> None:
        self._rt = rt
        self._database_url = database_url
        self._numbers = range(1, number + 1)
        self._place: socket.socket | None = None
        self._stop = asyncio.Event()
        self._listening = {one: asyncio.Event() for one in self._numbers}
        self._processes: dict[int, Process] = {}
        self._keepers: list[asyncio.Task[None]] = []

    async def start(self, host: str, port: int) -> None:
        """Start them all, and return when all listen. Raises OSError where the address cannot be had."""
        self._place = await _reserve(host, port)
        where = (host, self._place.getsockname()[1])
        self._keepers = [asyncio.create_task(self._keep(one, *where), name=f"receiver {one}") for one in self._numbers]
        come_up = asyncio.gather(*(one.wait() for one in self._listening.values()))
        try:
            await asyncio.wait_for(come_up, _START)
        except TimeoutError:
            await self.close()
            raise OSError("the receivers did not come up; the log says why") from None

    async def close(self) -> None:
        """Have all of them answer what has begun and end; whoever does not is killed."""
        self._stop.set()
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.terminate()
        _, late = await asyncio.wait(self._keepers, timeout=_STOP)
        if late:
            for process in self._processes.values():
                with suppress(ProcessLookupError):
                    process.kill()
            await asyncio.wait(late)
        if self._place is not None:
            self._place.close()

    async def _keep(self, number: int, host: str, port: int) -> None:
        """Have this receiver run until we stop."""
        orders = ReceiverConfig(number=number, database_url=self._database_url, host=host, port=port)
        failures = 0
        while not self._stop.is_set():
            began = self._now()
            how = await self._run(orders)
            if self._stop.is_set():
                return
            failures = 1 if self._now() - began > _WELL else failures + 1
            wait = _AGAIN.after(failures, self._rt.jitter()).total_seconds()
            self._rt.health.report(f"receiver {number}", f"{how}, and is started again")
            logger().warning("a receiver ended; starting another", action="receiver", receiver=number, outcome=how)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), wait)

    async def _run(self, orders: ReceiverConfig) -> str:
        """Run one process from its start to its end; how it ended."""
        try:
            # In a session of its own: what a terminal sends on Ctrl-C is for the daemon, which stops the others in
            # their order. The working folder is not searched for modules.
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", _MODULE, stdin=PIPE, stdout=PIPE, limit=_LONGEST_LINE, start_new_session=True
            )  # fmt: skip
        except OSError as error:
            return f"could not be started: {error.strerror}"
        self._processes[orders.number] = process
        try:
            if self._stop.is_set():  # told to stop while it was being made
                process.terminate()
            why = await self._listen_to(process, orders)
            if why:
                with suppress(ProcessLookupError):
                    process.kill()
            code = await process.wait()
            return f"{why} and was killed" if why else f"ended with code {code}"
        finally:
            del self._processes[orders.number]
            self._say(orders.number, {})
            self._rt.metrics.aggregated.end(str(orders.number))

    async def _listen_to(self, process: Process, orders: ReceiverConfig) -> str:
        """Give a process its orders, and take in what it says until it has ended; or why it is to be killed."""
        if process.stdin is None or process.stdout is None:
            raise AssertionError("unreachable: both are pipes")
        with suppress(ConnectionError):
            process.stdin.write(orjson.dumps(asdict(orders)) + b"\n")
            await process.stdin.drain()
        # The pipe stays open for as long as we live: that it ends is how the process hears of our end.
        try:
            while (line := await self._line(process.stdout, orders.number)) != b"":
                self._take_in(orders.number, line)
        except TimeoutError:
            return f"said nothing for {_HANGS * _SILENT:g} seconds"
        except (ValueError, TypeError, KeyError, AttributeError):
            return "said what no receiver says"
        return ""

    def _take_in(self, number: int, line: bytes) -> None:
        try:
            said = orjson.loads(line)
        except ValueError:  # not a line of ours: some library printed it
            logger().warning("a receiver said what is not understood", action="receiver", receiver=number)
        else:
            self._hear(number, said)

    async def _line(self, said: asyncio.StreamReader, number: int) -> bytes:
        """What a receiver says next; nothing where it has ended. Raises TimeoutError where it hangs."""
        for _ in range(_HANGS):
            try:
                async with asyncio.timeout(_SILENT):
                    return await said.readline()
            except TimeoutError:
                self._rt.health.report(f"receiver {number}", f"has said nothing for {_SILENT:g} seconds")
        raise TimeoutError

    def _hear(self, number: int, said: dict[str, Any]) -> None:
        if "stored" in said:
            self._rt.events_stored.set()
        self._rt.health.resolve(f"receiver {number}")
        if "listening" in said:
            self._listening[number].set()
        if "samples" in said:
            self._rt.metrics.aggregated.report(str(number), said["samples"])
            self._say(number, said["issues"])

    def _say(self, number: int, issues: dict[str, str]) -> None:
        """Make a receiver's troubles the daemon's; those that it has no more are over."""
        of_it = f" (receiver {number})"
        for gone in [name for name in self._rt.health.issues if name.endswith(of_it)]:
            self._rt.health.resolve(gone)
        for name, text in issues.items():
            self._rt.health.report(name + of_it, text)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


async def _reserve(host: str, port: int) -> socket.socket:
    """A socket that is bound to the address and can share it with our receivers. Raises OSError where it is in use."""
    loop = asyncio.get_running_loop()
    family, kind, protocol, _, address = (
        await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    )[0]
    with socket.socket(family, kind, protocol) as alone:
        # Sharing would also let another daemon's receivers share the port with ours, and each hear half of the other's
        # callbacks. So the address has to be free of listeners first.
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        alone.bind(address)
    place = socket.socket(family, kind, protocol)
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        place.bind(address)
    except OSError:
        place.close()
        raise
    return place

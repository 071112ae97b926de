"""A simulated cloud on a port, in a thread with an event loop of its own: for clients that block.

Time stands still until `pass_seconds` moves it, so that no test waits and none depends on the machine's speed.
"""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from simulated import START, STEADY

from service.simulator.loading import parse_config
from service.simulator.server import Running, running


class SimulatorThread:
    def __init__(self, settings: Mapping[str, Any], speed: float) -> None:
        self._config = parse_config({"timing": STEADY, "rate_limit": 0, **settings})
        self._speed = speed
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._over: asyncio.Event
        self.running: Running

    @property
    def url(self) -> str:
        return self.running.url

    @property
    def private_url(self) -> str:
        return self.running.private_url

    def pass_seconds(self, seconds: float) -> None:
        """Let simulated time pass; returns when every callback of it was answered."""
        asyncio.run_coroutine_threadsafe(self.running.advance(seconds), self._loop).result(timeout=30)

    def truth(self) -> list[dict[str, Any]]:
        return self.running.cloud.truth()

    def work(self) -> None:
        asyncio.run(self._serve())

    def wait_until_ready(self) -> None:
        assert self._ready.wait(timeout=30)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with running(self._config, speed=self._speed, start=START) as self.running:
            self._ready.set()
            await self._over.wait()


@contextmanager
def simulator(*, speed: float = 0, **settings: Any) -> Iterator[SimulatorThread]:
    """A cloud with these settings for as long as the block lasts."""
    serving = SimulatorThread(settings, speed)
    thread = threading.Thread(target=serving.work)
    thread.start()
    try:
        serving.wait_until_ready()
        yield serving
    finally:
        serving.stop()
        thread.join(timeout=30)
        assert not thread.is_alive()

"""TCP proxies: in front of several servers, of which some may be down, and as a network that can be cut."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from threading import Thread

from service.lab.demo.stage import free_ports


class Proxy:
    """Passes TCP on to the first of its targets that answers; while cut it passes nothing on and closes nothing."""

    def __init__(self, port: int, targets: Sequence[int]) -> None:
        self.port, self._targets = port, targets
        self._open = asyncio.Event()
        self._open.set()

    async def listen(self) -> None:
        await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    def cut(self) -> None:
        self._open.clear()

    def mend(self) -> None:
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        for target in self._targets:
            with contextlib.suppress(OSError):
                there = await asyncio.open_connection("127.0.0.1", target)
                break
        else:
            writer.transport.abort()
            return
        await asyncio.gather(self._pump(reader, there[1]), self._pump(there[0], writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while content := await reader.read(65536):
                await self._open.wait()
                writer.write(content)
                await writer.drain()
            await self._open.wait()
        except OSError:
            pass
        finally:
            with contextlib.suppress(OSError, RuntimeError):
                writer.close()


class Proxies:
    """Proxies in a loop and a thread of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        Thread(target=self._loop.run_forever, daemon=True).start()

    def add(self, targets: Sequence[int], port: int | None = None) -> Proxy:
        one = Proxy(port or free_ports(1)[0], targets)
        asyncio.run_coroutine_threadsafe(one.listen(), self._loop).result()
        return one

    def tell(self, what: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(what)

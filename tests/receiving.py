"""Speaking to a receiver: callbacks as a good sender posts them, and raw bytes as a bad one does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import aiohttp
from sqlalchemy import text
from stored_events import REF

from service.core.token import CreationRef, mint
from service.receiver.app import Receiver
from service.runtime.runtime import Runtime
from service.storage.engine import begin


@dataclass
class Listening:
    """A receiver that listens, and how to reach it."""

    runtime: Runtime
    receiver: Receiver
    port: int
    session: aiohttp.ClientSession

    def path(self, ref: CreationRef = REF) -> str:
        return f"/callbacks/{mint(ref, self.runtime.callback_secrets[0])}"

    async def post(self, body: bytes, path: str | None = None, **options) -> int:
        url = f"http://127.0.0.1:{self.port}{path or self.path()}"
        async with self.session.post(url, data=body, **options) as response:
            await response.read()
            return response.status

    async def raw(self, *parts: bytes, half_close: bool = False) -> bytes:
        """Everything that comes back until the other side closes."""
        async with self.connected() as (reader, writer):
            for part in parts:
                writer.write(part)
                await asyncio.sleep(0)
            if half_close:
                writer.write_eof()
            with suppress(ConnectionError):
                return await reader.read()
        return b""

    async def first(self, *parts: bytes) -> bytes:
        """The first answer, while the rest of the request is still to come."""
        async with self.connected() as (reader, writer):
            writer.write(b"".join(parts))
            return await reader.readuntil(b"}")

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def bodies(self) -> list[bytes]:
        """The bodies in the record, in the order in which they were heard."""
        async with begin(self.runtime.engine) as conn:
            rows = await conn.execute(text("SELECT body FROM events ORDER BY received_at, event_id"))
            return list(rows.scalars())

    async def queued(self) -> int:
        async with begin(self.runtime.engine) as conn:
            return (await conn.execute(text("SELECT count(*) FROM inbox"))).scalar_one()

    async def recorded(self, number: int) -> list[bytes]:
        """The bodies in the record, once there are so many. Waits for the receiver to say that it kept some."""
        while len(bodies := await self.bodies()) < number:
            self.runtime.events_stored.clear()
            if len(await self.bodies()) < number:
                await self.runtime.events_stored.wait()
        return bodies


@asynccontextmanager
async def listening(runtime: Runtime) -> AsyncIterator[Listening]:
    receiver = Receiver(runtime)
    port = await receiver.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as session:
        try:
            yield Listening(runtime, receiver, port, session)
        finally:
            await session.close()
            await receiver.close()


def request(*lines: str, body: bytes = b"", method: str = "POST", path: str = "/") -> bytes:
    """A request as it goes over the wire, with these header lines and no others."""
    head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines])
    return head.encode("latin-1") + b"\r\n\r\n" + body


def status(answer: bytes) -> int:
    """The status of the first answer in these bytes, or 0."""
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0

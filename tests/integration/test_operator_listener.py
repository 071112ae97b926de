"""The operator's listener: a flood of connections takes neither the descriptors of callbacks nor the operators' turn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from service.app.operator_listener import OperatorListener
from service.runtime.paced import PacedConnection
from service.runtime.sockets import create_server


async def answer(_request: web.Request) -> web.Response:
    return web.Response(text="here")


class Seconds:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def serving(most: int, now: Seconds) -> AsyncIterator[tuple[OperatorListener, int]]:
    app = web.Application()
    app.router.add_get("/", answer)
    listener = OperatorListener(app, most=most, now=now)
    port = await listener.start("127.0.0.1", 0)
    try:
        yield listener, port
    finally:
        await listener.close()


async def ask(port: int) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as response:
        return await response.text()


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


async def test_a_flood_of_idle_connections_is_bounded_and_an_operator_is_answered():
    async with serving(5, Seconds()) as (_, port):
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
        assert await ask(port) == "here"
        # Each above the bound closed the oldest; so did the operator's.
        async with asyncio.timeout(10):
            assert all(await asyncio.gather(*(is_closed(reader) for reader, _ in opened[:36])))
        for _, writer in opened:
            writer.close()


async def test_a_connection_that_sends_no_request_in_time_is_closed():
    now = Seconds()
    async with serving(5, now) as (listener, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: ")
        assert await ask(port) == "here"
        now.now = 11.0
        listener.close_overdue()
        async with asyncio.timeout(10):
            assert await is_closed(reader)
        writer.close()


async def test_a_sender_of_single_bytes_is_answered_and_read_rarely(monkeypatch: pytest.MonkeyPatch):
    pauses: list[int] = []
    pause = PacedConnection._pause
    monkeypatch.setattr(PacedConnection, "_pause", lambda self, times: (pauses.append(times), pause(self, times)))
    async with serving(5, Seconds()) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in b"GET / HTTP/1.1\r\nHost: x\r\n\r\n":
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
    assert pauses


async def test_connections_with_requests_are_not_closed_for_others():
    async with serving(1, Seconds()) as (_, port), aiohttp.ClientSession() as session:
        for _ in range(3):
            async with session.get(f"http://127.0.0.1:{port}/") as response:
                assert await response.text() == "here"
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await ask(port)
        async with session.get(f"http://127.0.0.1:{port}/") as response:
            assert await response.text() == "here"


async def test_the_address_of_all_interfaces_takes_both_families():
    server = await create_server(asyncio.Protocol, "::", 0)
    port = server.sockets[0].getsockname()[1]
    for host in ("127.0.0.1", "::1"):
        _, writer = await asyncio.open_connection(host, port)
        writer.close()
    server.close()

"""The operator's listener: a flood of connections takes neither the descriptors of callbacks nor the operators' turn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr
from structlog.testing import capture_logs

from service.api.app import make_app
from service.app.operator_listener import OperatorListener
from service.runtime.paced import PacedConnection
from service.runtime.runtime import Runtime
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


TOKEN = "the-token-of-an-operator"
GOOD = f"Authorization: Bearer {TOKEN}".encode()
#: Requests that break off or cannot be read, each sent by many.
BROKEN = [
    b"GET /v1/vms HTTP/1.1\r\nHost: ",
    b"GET /v1/vms HTTP/1.1\r\nHost: x\r\n" + GOOD + b"\r\r\n\r\n",
    b"GET /v1/vms HTTP/1.1\r\nHost: x\r\n" + GOOD + b"\x00\r\n\r\n",
    b"GET /v1/vms HTTP/1.1\r\nHost: x\r\n" + GOOD + b"\r\n\r\n",
    b"POST /v1/submissions HTTP/1.1\r\nHost: x\r\n" + GOOD + b"\r\nContent-Length: 900\r\n\r\n{",
    b"POST /v1/submissions HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{",
    b"POST /v1/submissions HTTP/1.1\r\nHost: x\r\n" + GOOD + b"\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"nonsense\r\n\r\n",
]


@pytest.mark.parametrize("sent", BROKEN)
async def test_a_flood_of_requests_that_break_off_is_one_line_a_minute_without_a_token(
    runtime: Runtime, caplog: pytest.LogCaptureFixture, sent: bytes
):
    app = make_app(runtime, {"ops": SecretStr(TOKEN)})
    listener = OperatorListener(app)
    with capture_logs() as lines:
        port = await listener.start("127.0.0.1", 0)
        for number in range(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            if number % 2:  # in the middle of the answer, or before anything was read
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await reader.read(1)
            writer.transport.abort()
        await listener.close()
    written = [*map(str, lines), *(record.getMessage() for record in caplog.records)]
    assert len(written) <= 1, written
    assert not any("exc_info" in line or TOKEN in line or "Traceback" in line for line in written)


async def test_the_address_of_all_interfaces_takes_both_families():
    server = await create_server(asyncio.Protocol, "::", 0)
    port = server.sockets[0].getsockname()[1]
    for host in ("127.0.0.1", "::1"):
        _, writer = await asyncio.open_connection(host, port)
        writer.close()
    server.close()

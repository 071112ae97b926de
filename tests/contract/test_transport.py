"""The real transport against small real servers that fail in every way a network can."""

import asyncio
import gzip
import socket
import ssl
import traceback
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from service.config import Settings
from service.core.create_body import validate_create
from service.errors import TryLater, Unconfirmed
from service.provider.aiohttp_transport import AiohttpTransport
from service.provider.client import Client
from service.runtime.runtime import open_runtime

METHODS = ["GET", "POST", "PUT", "DELETE"]
KEY = "0123-the-api-key"


def answer(body=b"{}", *, status="200 OK", headers=()):
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def server(reply, *, hang=False):
    """Answers each request with the bytes `reply`, then closes, or with `hang` waits for the end of the test."""
    seen, over = [], asyncio.Event()

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(head)
        writer.write(reply(head) if callable(reply) else reply)
        await writer.drain()
        if hang:
            await over.wait()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", seen
    finally:
        over.set()
        listener.close()
        await listener.wait_closed()


@pytest.fixture
def create_body():
    names = ("name", "environment_name", "image_name", "flavor_name", "key_name")
    return validate_create(dict.fromkeys(names, "x") | {"count": 1})


@pytest.fixture
async def transport():
    transport = AiohttpTransport(largest_answer=1000)
    yield transport
    await transport.close()


async def send(transport, base, method="GET", body=None, within=5.0):
    return await transport.send(method, f"{base}/v1/core", {"api_key": KEY}, body, within)


async def test_an_answer_of_any_status_comes_whole(transport):
    async with server(answer(b'{"message": "no"}', status="503 No", headers=["Retry-After: 7"])) as (base, seen):
        got = await send(transport, base, "POST", b'{"count":1}')
    assert (got.status, got.headers["retry-after"], got.body) == (503, "7", b'{"message": "no"}')
    assert seen[0].startswith(b"POST /v1/core HTTP/1.1\r\n")
    assert b"api_key: " + KEY.encode() in seen[0]


async def test_a_compressed_answer_is_unpacked(transport):
    async with server(answer(gzip.compress(b'{"a":1}'), headers=["content-encoding: gzip"])) as (base, _):
        assert (await send(transport, base)).body == b'{"a":1}'


async def test_an_escaped_name_in_the_path_arrives_as_it_was_escaped(transport):
    async with server(answer()) as (base, seen):
        await transport.send("GET", f"{base}/v1/name-availability/a%2Fb%20c?search=x%20%26y", {}, None, 5.0)
    assert seen[0].startswith(b"GET /v1/name-availability/a%2Fb%20c?search=x%20%26y HTTP/1.1\r\n")


async def test_a_redirect_is_an_answer_and_is_not_followed(transport):
    async with server(answer(status="302 Found", headers=["Location: /elsewhere"])) as (base, seen):
        assert (await send(transport, base)).status == 302
    assert len(seen) == 1


async def test_the_proxies_of_the_environment_are_ignored(transport, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with server(answer()) as (base, _):
        assert (await send(transport, base)).status == 200


async def test_cookies_are_not_kept(transport):
    async with server(answer(headers=["Set-Cookie: a=b; Path=/"])) as (base, seen):
        await send(transport, base)
        await send(transport, base)
    assert b"ookie" not in seen[1]


@pytest.mark.parametrize("method", METHODS)
async def test_a_refused_connection_is_certainly_not_sent(transport, method):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(TryLater, match="not sent: Cannot connect"):
            await send(transport, f"http://127.0.0.1:{unused.getsockname()[1]}", method)


@pytest.mark.parametrize("base", ["http://no-such-host.invalid", "not a URL", "http://127.0.0.1:99999"])
async def test_an_address_that_leads_nowhere_is_certainly_not_sent(transport, base):
    with pytest.raises(TryLater, match="not sent"):
        await send(transport, base)


async def test_a_server_that_speaks_no_tls_gets_nothing(transport):
    async with server(b"what?\r\n\r\n") as (base, _):
        with pytest.raises(TryLater, match="not sent"):
            await send(transport, base.replace("http:", "https:"), within=1.0)


async def test_a_connection_that_takes_too_long_is_certainly_not_sent(transport):
    # A listener that accepts nothing, with its queue full: connecting hangs.
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        with pytest.raises(TryLater, match="not sent"):
            await send(transport, f"http://127.0.0.1:{full.getsockname()[1]}", "POST", b"{}", within=0.2)


async def test_waiting_for_a_free_connection_too_long_is_certainly_not_sent():
    transport = AiohttpTransport(connections=1)
    arrived = asyncio.Event()
    async with server(lambda _: arrived.set() or b"", hang=True) as (base, seen):
        first = asyncio.create_task(send(transport, base, within=5.0))
        await arrived.wait()
        with pytest.raises(TryLater, match="not sent"):
            await send(transport, base, "POST", b"{}", within=0.1)
        first.cancel()
    await transport.close()
    assert len(seen) == 1


@pytest.mark.parametrize("method", METHODS)
async def test_a_cut_before_the_answer_is_unconfirmed_and_nothing_is_sent_twice(transport, method):
    async with server(b"") as (base, seen):
        with pytest.raises(Unconfirmed):
            await send(transport, base, method)
    assert len(seen) == 1


async def test_calls_go_through_the_proxy_of_the_settings_and_no_other(monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with server(answer(b"from the provider")) as (base, _), server(answer(b"from the proxy")) as (proxy, seen):
        known = {"data_dir": tmp_path, "callback_secrets": "a secret of thirty-two characters", "infrahub_url": base}
        for settings, said in (
            (Settings(_env_file=None, **known), b"from the provider"),
            (Settings(_env_file=None, infrahub_proxy=f" {proxy}\n", **known), b"from the proxy"),
        ):
            rt = open_runtime(settings, "postgresql://nobody@127.0.0.1:9/none")
            assert (await send(rt.transport, base)).body == said
            await rt.close()
    assert seen[0].startswith(f"GET {base}/v1/core HTTP/1.1\r\n".encode())


async def test_a_call_that_the_proxy_refuses_to_pass_on_was_certainly_not_sent():
    async with server(answer(b"{}", status="407 Proxy Authentication Required")) as (proxy, seen):
        transport = AiohttpTransport(proxy=proxy.replace("http://", "http://user:hunter2@"))
        with pytest.raises(TryLater, match="not sent") as caught:
            await send(transport, "https://provider.invalid", "POST", b"{}")
        await transport.close()
    assert seen[0].startswith(b"CONNECT provider.invalid:443 ")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


async def test_a_kept_connection_that_is_cut_is_unconfirmed_and_nothing_is_sent_twice(transport):
    replies = iter([b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b""])
    heads = []

    async def serve(reader, writer):
        while head := await reader.readuntil(b"\r\n\r\n"):
            heads.append(head)
            if not (reply := next(replies)):
                break
            writer.write(reply)
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    assert (await send(transport, base, "DELETE")).status == 200
    with pytest.raises(Unconfirmed):
        await send(transport, base, "DELETE")
    assert len(heads) == 2
    listener.close()
    await transport.close()


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"\x00\x01 what is this\r\n\r\n",
        answer(b"not gzip at all", headers=["content-encoding: gzip"]),
        answer(b"x" * 1001),
    ],
    ids=["half a body", "half a chunk", "half a head", "no HTTP", "not the encoding it says", "too large"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_answer_that_is_not_whole_is_unconfirmed(transport, reply, method):
    async with server(reply) as (base, seen):
        with pytest.raises(Unconfirmed):
            await send(transport, base, method)
    assert len(seen) == 1


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"], ids=["nothing", "half"])
async def test_an_answer_that_does_not_come_in_time_is_unconfirmed(transport, reply):
    async with server(reply, hang=True) as (base, _):
        with pytest.raises(Unconfirmed, match="TimeoutError"):
            await send(transport, base, "POST", b"{}", within=0.2)


async def test_a_bomb_is_not_unpacked_to_its_end(transport):
    bomb = gzip.compress(b"0" * 50_000_000)
    async with server(answer(bomb, headers=["content-encoding: gzip"])) as (base, _):
        with pytest.raises(Unconfirmed, match="more than 1000 bytes"):
            await send(transport, base)


async def test_an_echo_of_the_key_is_in_no_traceback(transport):
    async with server(lambda head: b"HTTP/1.1 200 OK\r\nbad header " + head.replace(b"\r\n", b" ") + b"\r\n\r\n") as (
        base,
        _,
    ):
        with pytest.raises(Unconfirmed) as caught:
            await send(transport, base)
    assert KEY not in "".join(traceback.format_exception(caught.value))


async def test_a_failed_tls_handshake_is_certainly_not_sent(transport):
    without_certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=without_certificate)
    with pytest.raises(TryLater, match="not sent"):
        await send(transport, f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}", within=1.0)
    listener.close()
    await listener.wait_closed()


async def test_a_safe_call_that_was_cut_can_be_made_again_and_a_create_cannot(transport, create_body):
    async with server(b"") as (base, seen):
        client = Client(transport, base_url=f"{base}/v1/", api_key=SecretStr(KEY))
        with pytest.raises(TryLater):
            await client.get_vm(5)
        with pytest.raises(Unconfirmed):
            await client.create(create_body)
    assert [head.split(b" HTTP")[0] for head in seen] == [
        b"GET /v1/core/virtual-machines/5",
        b"POST /v1/core/virtual-machines",
    ]

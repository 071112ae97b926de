"""The HTTP transport, on aiohttp."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import aiohttp

from service import errors
from service.provider.wire import HttpResponse

# A list page of a hundred VMs has a few hundred kilobytes.
LARGEST_ANSWER = 64 * 2**20
CONNECTIONS = 16
# Seconds. A gateway may have closed a connection that was idle for longer, and a create call sent on it would be
# unconfirmed for nothing.
KEEP_ALIVE = 4.0
CONNECT_TIMEOUT = 10.0


NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)


class AiohttpTransport:
    """Sends over one pool of connections. Create and close it inside the event loop.

    `proxy` is the URL of an HTTP proxy. Proxies of the environment, cookies and redirects are ignored.
    """

    def __init__(
        self, *, connections: int = CONNECTIONS, largest_answer: int = LARGEST_ANSWER, proxy: str | None = None
    ) -> None:
        self._largest_answer = largest_answer
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=KEEP_ALIVE),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"user-agent": "rollcall"},
            middlewares=(_only_once,),
            trust_env=False,
            proxy=proxy,
        )

    async def close(self) -> None:
        await self._session.close()

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, within: float, /
    ) -> HttpResponse:
        """See `Transport.send`. An answer that is too large is `Unconfirmed`."""
        # Connecting must time out first, to tell "certainly not sent" from "perhaps sent".
        timeout = aiohttp.ClientTimeout(total=within, connect=min(CONNECT_TIMEOUT, within / 2))
        with _in_our_words():
            async with self._session.request(
                method, url, headers=headers, data=body, timeout=timeout, allow_redirects=False
            ) as response:
                whole = await self._read(response.content)
                return HttpResponse(status=response.status, headers=response.headers, body=whole)

    async def _read(self, stream: aiohttp.StreamReader) -> bytes:
        whole = bytearray()
        async for piece in stream.iter_any():
            whole += piece
            if len(whole) > self._largest_answer:
                raise errors.Unconfirmed(f"the answer has more than {self._largest_answer} bytes")
        return bytes(whole)


async def _only_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    # aiohttp repeats a GET, PUT or DELETE by itself when the connection is lost, unseen by our budget and our
    # record. It knows when to by its own errors, so they are turned into ours before they reach that place.
    with _in_our_words():
        return await send(request)


@contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except NOT_SENT as error:
        raise errors.TryLater(f"not sent: {error}") from error
    except aiohttp.ClientHttpProxyError as error:  # its own text holds the proxy's URL, perhaps with a password
        raise errors.TryLater(f"not sent: the proxy answered {error.status}") from None
    except (aiohttp.ClientError, OSError) as error:
        # Also TimeoutError, which is an OSError. Not `from error`: in its text may be what a proxy
        # echoed of our headers, and tracebacks end in logs.
        raise errors.Unconfirmed(f"perhaps sent; no complete answer came: {type(error).__name__}") from None

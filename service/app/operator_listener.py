"""The operator listener, with few connections, so that a flood of them leaves file descriptors for callbacks."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from service.runtime.logs import RareLog
from service.runtime.paced import PacedConnection
from service.runtime.sockets import create_server

#: Connections at once. The callback listener leaves room for as many (`receiver/app.py`).
MOST_CONNECTIONS: Final = 128
#: Seconds that a new connection has for its first request.
HEAD_SECONDS: Final = 10.0
_IDLE_SECONDS: Final = 30.0


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.abort()


class OperatorListener:
    """Serves an app with bounds. When it is full, the oldest connection that has sent no request makes room."""

    def __init__(
        self, app: web.Application, *, most: int = MOST_CONNECTIONS, head_seconds: float = HEAD_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._most = most
        self._head_seconds = head_seconds
        self._now = now
        #: Connections without a request so far, and since when, oldest first.
        self._silent: dict[web.RequestHandler, float] = {}

        @web.middleware
        async def note_request(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._silent.pop(request.protocol, None)
            try:
                return await handler(request)
            finally:
                if isinstance(request.protocol, PacedConnection):
                    request.protocol.request_ended()

        app.middlewares.insert(0, note_request)
        # aiohttp would log a traceback for each request that it cannot read, and quote it.
        unreadable = RareLog("requests that could not be read", room="api", action="receive").for_library()
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=_IDLE_SECONDS, logger=unreadable)
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port. Raises OSError if the address cannot be had."""
        await self._runner.setup()
        self._server = await create_server(self._connection, host, port)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def watch(self) -> None:
        """Close connections that send no request in time. Runs until cancelled."""
        while True:
            await asyncio.sleep(self._head_seconds / 4)
            self.close_overdue()

    def close_overdue(self) -> None:
        """Close connections whose first request is overdue."""
        latest = self._now() - self._head_seconds
        for handler in [one for one, since in self._silent.items() if since < latest]:
            self._close(handler)

    async def close(self) -> None:
        """Accept no more connections, and answer running requests."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _connection(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        if server is None:
            return _Refused()
        if len(server.connections) >= self._most:
            self._forget_ended(server)
            if not self._silent:
                return _Refused()
            self._close(next(iter(self._silent)))
        handler = PacedConnection(server, loop=asyncio.get_running_loop(), **server._kwargs)  # noqa: SLF001  as it makes its own
        self._silent[handler] = self._now()
        return handler

    def _forget_ended(self, server: web.Server) -> None:
        open_now = set(server.connections)
        self._silent = {one: since for one, since in self._silent.items() if one in open_now}

    def _close(self, handler: web.RequestHandler) -> None:
        del self._silent[handler]
        handler.force_close()

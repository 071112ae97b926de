"""The HTTP server of the callback listener, on aiohttp's low-level server: bounds, deadlines, responses.

It uses no application, router or middleware: for two paths, they would be most of the work of a request.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

from aiohttp import ClientError, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from service.core.token import CreationRef
from service.errors import Overloaded
from service.receiver import responses
from service.receiver.bounds import Bounds
from service.receiver.error_boundary import ErrorBoundary
from service.receiver.event_factory import EventFactory
from service.receiver.intake import Intake
from service.receiver.limits import ConnectionLimits
from service.receiver.responses import Response
from service.receiver.routes import Place, Routes
from service.runtime.metrics import Metrics
from service.runtime.paced import PacedConnection
from service.storage.events import Event

#: Bytes that a waiting callback takes besides its body.
OVERHEAD: Final = 1024
#: Seconds to discard what a refused sender still sends. Closing at once would reset the connection, and the response
#: could be lost.
LINGER: Final = 2.0
#: Bytes of the request line and of one header, and the number of headers. They are small, since they are held before
#: the token is verified; proxies add a dozen headers.
_LONGEST_LINE: Final = 2048
_LONGEST_HEADER: Final = 4096
_MOST_HEADERS: Final = 64
#: With too many connections, this fraction of them is closed at once, idle ones first, since finding them is slow.
_SHARE_ENDED: Final = 8
#: Seconds within which a new connection does not count as idle: its request may be on the way.
_FRESH: Final = 1.0
#: Stored callbacks that the metrics count at once while others are under way: counting one costs as much as counting all.
_COUNTED_AT_ONCE: Final = 64
_EDGE: Final = ErrorBoundary("receiver.answer")
# aiohttp answers malformed requests by itself, and would log each with a traceback that quotes it, perhaps with a
# token: a flood of requests would be a flood of lines. ErrorBoundary logs the errors of our own code.
_SILENT: Final = logging.getLogger("rollcall.receiver.aiohttp")
_SILENT.disabled = True


class PendingCallback:
    """A callback that waits to be stored, and its sender's pending response."""

    __slots__ = ("answered", "event", "size")

    def __init__(self, event: Event, size: int, answered: asyncio.Future[Response]) -> None:
        self.event = event
        self.size = size
        self.answered = answered

    def answer_with(self, answer: Response) -> None:
        """Respond, unless the sender has gone."""
        if not self.answered.done():
            self.answered.set_result(answer)


class PrebuiltResponse(web.StreamResponse):
    """The response to a stored callback, as prebuilt bytes, for connections that stay open: most responses are this one.

    One object serves all requests, so it holds no state of any.
    """

    def __init__(self, answer: Response) -> None:
        super().__init__(status=answer.status, headers=answer.headers)
        self._answer = answer
        self._wire = b""
        self.renew()

    def renew(self) -> None:
        """Update the date."""
        headers = {**self._answer.headers, "Date": formatdate(usegmt=True), "Content-Length": len(self._answer.body)}
        lines = [f"HTTP/1.1 {self.status} {self.reason}", *(f"{name}: {value}" for name, value in headers.items())]
        self._wire = "\r\n".join([*lines, "", ""]).encode() + self._answer.body

    @property
    def keep_alive(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> None:
        await request.writer.write_eof(self._wire)

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` wrote it all."""


@dataclass(slots=True)
class Connection:
    """The state of a connection. `silent`: it has not begun a request. `since`: when it connected or was last busy."""

    transport: asyncio.Transport
    since: float
    silent: bool = True
    busy: bool = False
    unread_since: float | None = None

    def unread_for(self, now: float) -> float:
        """For how many seconds the sender has left responses unread, as far as we checked."""
        if not self.transport.get_write_buffer_size():
            self.unread_since = None
            return 0.0
        self.unread_since = self.unread_since or now
        return now - self.unread_since


class CallbackServer(web.Server):
    """Receives callbacks. Refuses a request before reading its body, if it can."""

    def __init__(
        self,
        *,
        intake: Intake,
        arrivals: EventFactory,
        bounds: Bounds,
        limits: ConnectionLimits,
        secrets: tuple[bytes, ...],
        metrics: Metrics,
    ) -> None:
        # Bodies are stored as received. Decompressing them here would let a few bytes fill the memory.
        super().__init__(
            self._answer,
            auto_decompress=False,
            access_log=None,
            logger=_SILENT,
            keepalive_timeout=limits.idle_seconds,
            lingering_time=LINGER,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_HEADER,
            max_headers=_MOST_HEADERS,
        )
        self._intake = intake
        self._arrivals = arrivals
        self._bounds = bounds
        self._limits = limits
        self._routes = Routes(secrets)
        self._seconds = metrics.callback_seconds
        self._counters = {one.name: metrics.callbacks.labels(one.name) for one in responses.ALL}
        # A monotonic clock, unlike the runtime's; and finer than uvloop's, which counts milliseconds.
        self._now = time.monotonic
        self._connection_states: dict[web.RequestHandler, Connection] = {}
        self._ready = PrebuiltResponse(responses.STORED)
        self._under_way = 0
        self._uncounted = 0  # stored callbacks that the metrics do not have yet
        self._closing = False
        self._finished = asyncio.Event()

    async def close(self, within: float) -> None:
        """Answer running requests, for at most `within` seconds, and close every connection."""
        self._closing = True
        try:
            async with asyncio.timeout(within):
                while self._under_way:
                    self._finished.clear()
                    await self._finished.wait()
        except TimeoutError:
            pass  # cut off slow senders
        self.pre_shutdown()
        await self.shutdown(LINGER)

    def close_overdue(self) -> None:
        """Close connections whose first request does not come, and those that leave responses unread."""
        self._ready.renew()
        self._count_stored()
        now = self._now()
        for handler, connection in list(self._connection_states.items()):
            if connection.silent and now - connection.since > self._limits.head_seconds:
                handler.force_close()
            elif connection.unread_for(now) > self._limits.body_seconds:
                connection.transport.abort()

    def _end_idle(self) -> None:
        """Close connections without a running request, longest idle first, to make room for callbacks."""
        fresh = self._now() - _FRESH
        idle = sorted(
            (connection.since, id(one), one)
            for one, connection in self._connection_states.items()
            if not connection.busy and not (connection.silent and connection.since > fresh)
        )
        for _, _, handler in idle[: max(1, self._bounds.most_connections // _SHARE_ENDED)]:
            del self._connection_states[handler]
            handler.force_close()

    # Called by aiohttp.

    def __call__(self) -> web.RequestHandler:
        return PacedConnection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._bounds.connections += 1
        self._connection_states[handler] = Connection(transport, self._now())
        if len(self._connection_states) > self._bounds.most_connections:
            self._end_idle()
        if self._bounds.flooded:
            transport.abort()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._bounds.connections -= 1
        self._connection_states.pop(handler, None)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        began = self._now()
        # None if the connection has ended. A callback that came in full is stored all the same.
        connection = self._connection_states.get(request.protocol)
        if connection is not None:
            connection.silent, connection.busy = False, True
        self._under_way += 1
        answer = responses.NOT_STORED
        try:
            with _EDGE:
                answer = await self._receive(request)
        finally:
            self._under_way -= 1
            if connection is not None:
                connection.since, connection.busy = self._now(), False
            if isinstance(request.protocol, PacedConnection):
                request.protocol.request_ended()
            if self._closing:
                self._finished.set()
        self._count(answer, began)
        if answer is responses.STORED and not self._closing and request.keep_alive and request.version == HttpVersion11:
            return self._ready
        response = web.Response(status=answer.status, body=answer.body, headers=answer.headers)
        if answer.closes or self._closing:
            response.force_close()
        return response

    def _count(self, answer: Response, began: float) -> None:
        if answer is responses.STORED:
            self._seconds.observe(self._now() - began)
            self._uncounted += 1
        elif answer is not responses.ALIVE:
            self._counters[answer.name].inc()
        if not self._under_way or self._uncounted >= _COUNTED_AT_ONCE:
            self._count_stored()

    def _count_stored(self) -> None:
        if self._uncounted:
            self._counters[responses.STORED.name].inc(self._uncounted)
            self._uncounted = 0

    async def _receive(self, request: web.BaseRequest) -> Response:
        ref = self._routes.find(request.method, request.raw_path)
        if not isinstance(ref, CreationRef):
            return responses.ALIVE if ref is Place.LIVE else responses.NOT_FOUND
        if self._under_way > self._bounds.most_connections:
            return responses.FULL
        length = request.content_length
        if length is None:
            length = self._limits.most_body  # unknown, so hold room for the largest
        elif length > self._limits.most_body:
            return responses.TOO_LARGE
        size = OVERHEAD + length
        if not self._bounds.take(size):
            return responses.BUSY
        try:
            return await self._store(request, ref, size)
        finally:
            self._bounds.give(size)

    async def _store(self, request: web.BaseRequest, ref: CreationRef, size: int) -> Response:
        content = request.content
        if content.is_eof() and content.total_bytes <= self._limits.most_body:
            body = content.read_nowait()  # nearly all bodies come with the headers
        else:
            read = await self._body(request)
            if isinstance(read, Response):
                return read
            body = read
        event = self._arrivals.event(ref, body, request.raw_headers, request.remote)
        waiting = PendingCallback(event, size, self._loop.create_future())
        try:
            self._intake.offer(waiting)
        except Overloaded:
            return responses.BUSY
        return await waiting.answered

    async def _body(self, request: web.BaseRequest) -> bytes | Response:
        """The body, or the response if it is too large, too slow or malformed."""
        whole = bytearray()
        try:
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            async with asyncio.timeout(self._limits.body_seconds):
                async for piece in request.content.iter_any():
                    whole += piece
                    if len(whole) > self._limits.most_body:
                        return responses.TOO_LARGE
        except TimeoutError:
            return responses.TOO_SLOW
        except (ClientError, HttpProcessingError, web.RequestPayloadError, ConnectionError):
            return responses.MALFORMED
        return bytes(whole)

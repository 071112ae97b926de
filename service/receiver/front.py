"""The HTTP front of the callback listener, on aiohttp's low-level server: bounds, deadlines, answers. No storage.

No application, router or middleware stands between the socket and the intake: there are two paths, and what a
framework does for each request would be most of the work. Whatever nobody foresaw costs one answer, not the listener.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

from aiohttp import ClientError, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from service.core.token import CreationRef
from service.errors import Overloaded
from service.receiver import answers
from service.receiver.answers import Answer
from service.receiver.arrival import KEPT_HEADERS, Arrivals
from service.receiver.bounds import Bounds
from service.receiver.edge import Contained
from service.receiver.intake import Intake
from service.receiver.limits import Limits
from service.receiver.routes import Place, Routes
from service.storage.events import Event
from service.telemetry import Metrics

#: Bytes that a callback costs beside its body while it waits.
OVERHEAD: Final = 1024
#: Seconds that what a refused sender still sends is thrown away. Closing at once would reset the connection, and
#: the answer could be lost with it.
LINGER: Final = 2.0
#: Bytes of a request's first line and of one header, and how many headers. They are held before any token is looked at,
#: so they are few; proxies add a dozen of their own.
_LONGEST_LINE: Final = 2048
_LONGEST_HEADER: Final = 4096
_MOST_HEADERS: Final = 64
#: Where there are too many connections, idle ones are ended, so large a share of all at once: looking for them costs.
_SHARE_ENDED: Final = 8
#: Seconds within which a new connection has not been idle: what it is for may be on its way.
_FRESH: Final = 1.0
_EDGE: Final = Contained("receiver.answer")
# aiohttp answers malformed requests by itself, and would log each with a traceback that quotes it: a flood of lines
# from a flood of nonsense, and perhaps with a token in it. Our own troubles are logged by us.
_SILENT: Final = logging.getLogger("rollcall.receiver.aiohttp")
_SILENT.disabled = True


class Delivery:
    """A callback that waits to be kept, and the sender that waits for its answer."""

    __slots__ = ("answered", "event", "size")

    def __init__(self, event: Event, size: int, answered: asyncio.Future[Answer]) -> None:
        self.event = event
        self.size = size
        self.answered = answered

    def settle(self, answer: Answer) -> None:
        """Give the answer; a sender that has gone away does not mind."""
        if not self.answered.done():
            self.answered.set_result(answer)


class Ready(web.StreamResponse):
    """The answer to a callback that was kept, as bytes made beforehand: most answers are this one, every time the same.

    One object serves all requests, so it keeps nothing of any. For connections that stay open.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(status=answer.status, headers=answer.headers)
        self._answer = answer
        self._wire = b""
        self.renew()

    def renew(self) -> None:
        """Bring the date up to the present second."""
        headers = {**self._answer.headers, "Date": formatdate(usegmt=True), "Content-Length": len(self._answer.body)}
        lines = [f"HTTP/1.1 {self.status} {self.reason}", *(f"{name}: {value}" for name, value in headers.items())]
        self._wire = "\r\n".join([*lines, "", ""]).encode() + self._answer.body

    @property
    def keep_alive(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> None:
        await request.writer.write_eof(self._wire)

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to be written."""


@dataclass(slots=True)
class Line:
    """What is known of one connection: whether it has begun a request, when it was last busy, whether it reads answers."""

    transport: asyncio.Transport
    since: float
    silent: bool = True
    busy: bool = False
    unread_since: float | None = None

    def unread_for(self, now: float) -> float:
        """For how many seconds answers have been waiting for the sender to read them, as far as was looked."""
        if not self.transport.get_write_buffer_size():
            self.unread_since = None
            return 0.0
        self.unread_since = self.unread_since or now
        return now - self.unread_since


class Front(web.Server):
    """Hears requests and answers them. A sender is refused before its body is read, where that can be known."""

    def __init__(
        self,
        *,
        intake: Intake,
        arrivals: Arrivals,
        bounds: Bounds,
        limits: Limits,
        secrets: tuple[bytes, ...],
        metrics: Metrics,
    ) -> None:
        # Bodies are kept as they came: unpacking one is a way to be flooded by a few bytes.
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
        self._counters = {one.name: metrics.callbacks.labels(one.name) for one in answers.ALL}
        # Not the runtime's clock, which may be set: these are seconds of a socket's life. Nor the loop's, which goes by
        # milliseconds where the loop is uvloop's.
        self._now = time.monotonic
        self._lines: dict[web.RequestHandler, Line] = {}
        self._ready = Ready(answers.KEPT)
        self._under_way = 0
        self._closing = False
        self._finished = asyncio.Event()

    async def close(self, within: float) -> None:
        """Answer what has begun, for at most `within` seconds, and end every connection. Nothing new may come in."""
        self._closing = True
        try:
            async with asyncio.timeout(within):
                while self._under_way:
                    self._finished.clear()
                    await self._finished.wait()
        except TimeoutError:
            pass  # who has not sent the whole of it by now is cut off
        self.pre_shutdown()
        await self.shutdown(LINGER)

    def sweep(self) -> None:
        """End connections whose first request does not come, and those that leave their answers unread."""
        self._ready.renew()
        now = self._now()
        for handler, line in list(self._lines.items()):
            if line.silent and now - line.since > self._limits.head_seconds:
                handler.force_close()
            elif line.unread_for(now) > self._limits.body_seconds:
                line.transport.abort()

    def _end_idle(self) -> None:
        """End connections without a request under way, longest idle first: they must not take the room of callbacks."""
        fresh = self._now() - _FRESH
        idle = sorted(
            (line.since, id(one), one)
            for one, line in self._lines.items()
            if not line.busy and not (line.silent and line.since > fresh)
        )
        for _, _, handler in idle[: max(1, self._bounds.most_connections // _SHARE_ENDED)]:
            del self._lines[handler]
            handler.force_close()

    # What aiohttp calls.

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._bounds.connections += 1
        self._lines[handler] = Line(transport, self._now())
        if len(self._lines) > self._bounds.most_connections:
            self._end_idle()
        if self._bounds.flooded:
            transport.abort()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._bounds.connections -= 1
        self._lines.pop(handler, None)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        began = self._now()
        line = self._lines.get(request.protocol)  # none where the connection has ended: what came whole is kept
        if line is not None:
            line.silent, line.busy = False, True
        self._under_way += 1
        answer = answers.NOT_KEPT
        try:
            with _EDGE:
                answer = await self._hear(request)
        finally:
            self._under_way -= 1
            if line is not None:
                line.since, line.busy = self._now(), False
            if self._closing:
                self._finished.set()
        self._count(answer, began)
        if answer is answers.KEPT and not self._closing and request.keep_alive and request.version == HttpVersion11:
            return self._ready
        response = web.Response(status=answer.status, body=answer.body, headers=answer.headers)
        if answer.closes or self._closing:
            response.force_close()
        return response

    def _count(self, answer: Answer, began: float) -> None:
        if answer is answers.KEPT:
            self._seconds.observe(self._now() - began)
        if answer is not answers.ALIVE:
            self._counters[answer.name].inc()

    async def _hear(self, request: web.BaseRequest) -> Answer:
        ref = self._routes.find(request.method, request.raw_path)
        if not isinstance(ref, CreationRef):
            return answers.ALIVE if ref is Place.LIVE else answers.NOT_FOUND
        if self._under_way > self._bounds.most_connections:
            return answers.FULL
        length = request.content_length
        if length is None:
            length = self._limits.most_body  # it may be as large as any, so room is held for that
        elif length > self._limits.most_body:
            return answers.TOO_LARGE
        size = OVERHEAD + length
        if not self._bounds.take(size):
            return answers.BUSY
        try:
            return await self._keep(request, ref, size)
        finally:
            self._bounds.give(size)

    async def _keep(self, request: web.BaseRequest, ref: CreationRef, size: int) -> Answer:
        content = request.content
        if content.is_eof() and content.total_bytes <= self._limits.most_body:
            body = content.read_nowait()  # it came with the headers, as nearly all do
        else:
            read = await self._body(request)
            if isinstance(read, Answer):
                return read
            body = read
        event = self._arrivals.event(ref, body, _kept_headers(request), request.remote)
        waiting = Delivery(event, size, self._loop.create_future())
        try:
            self._intake.offer(waiting)
        except Overloaded:
            return answers.BUSY
        return await waiting.answered

    async def _body(self, request: web.BaseRequest) -> bytes | Answer:
        """The body as it comes, or what to answer where it does not, or comes without end."""
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        whole = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for piece in request.content.iter_any():
                    whole += piece
                    if len(whole) > self._limits.most_body:
                        return answers.TOO_LARGE
        except TimeoutError:
            return answers.TOO_SLOW
        except (ClientError, HttpProcessingError, web.RequestPayloadError, ConnectionError):
            return answers.MALFORMED
        return bytes(whole)


def _kept_headers(request: web.BaseRequest) -> Mapping[str, bytes]:
    kept: dict[str, bytes] = {}
    for name, value in request.raw_headers:
        if known := KEPT_HEADERS.get(name.lower()):
            kept[known] = kept[known] + b", " + value if known in kept else value
    return kept

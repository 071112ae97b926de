"""The HTTP front of the callback listener, on aiohttp's low-level server: bounds, deadlines, answers. No storage.

No application, router or middleware stands between the socket and the intake: there are two paths, and what a
framework does for each request would be most of the work. Whatever nobody foresaw costs one answer, not the listener.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError

from service.core.token import CreationRef
from service.errors import Overloaded
from service.receiver import answers
from service.receiver.answers import Answer
from service.receiver.arrival import KEPT_HEADERS, Arrivals
from service.receiver.bounds import Bounds
from service.receiver.edge import contained
from service.receiver.intake import Intake
from service.receiver.limits import Limits
from service.receiver.routes import Place, find
from service.storage.events import Event
from service.telemetry import Metrics

#: Bytes that a callback costs beside its body while it waits.
OVERHEAD: Final = 1024
#: Seconds that what a refused sender still sends is thrown away. Closing at once would reset the connection, and
#: the answer could be lost with it.
LINGER: Final = 2.0
_HEADERS: Final = {"Content-Type": "application/json", "Server": "rollcall"}


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
            keepalive_timeout=limits.idle_seconds,
            lingering_time=LINGER,
        )
        self._intake = intake
        self._arrivals = arrivals
        self._bounds = bounds
        self._limits = limits
        self._secrets = secrets
        self._metrics = metrics
        #: Connections on which no request is under way, and since when. A slow sender of headers is one of them.
        self._quiet: dict[web.RequestHandler, float] = {}

    # What aiohttp calls for each connection.

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._bounds.connections += 1
        self._quiet[handler] = self._now() - self._limits.idle_seconds + self._limits.head_seconds
        if self._bounds.flooded:
            transport.abort()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._bounds.connections -= 1
        self._quiet.pop(handler, None)

    def sweep(self) -> None:
        """Close connections that have been quiet for too long: idle ones, and those whose headers do not come."""
        late = self._now() - self._limits.idle_seconds
        for handler in [one for one, since in self._quiet.items() if since < late]:
            handler.force_close()
            if handler.transport is not None:
                handler.transport.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self._quiet.pop(request.protocol, None)
        began = self._now()
        answer = answers.NOT_KEPT
        with contained("receiver.answer"):
            answer = await self._hear(request)
        self._metrics.callbacks.labels(answer.name).inc()
        if answer is answers.KEPT:
            self._metrics.callback_seconds.observe(self._now() - began)
        if request.transport is not None:
            self._quiet[request.protocol] = self._now()
        response = web.Response(status=answer.status, body=answer.body, headers={**_HEADERS, **answer.headers})
        if answer.closes:
            response.force_close()
        return response

    async def _hear(self, request: web.BaseRequest) -> Answer:
        place = find(
            request.method.encode("utf-8", "replace"), request.raw_path.encode("utf-8", "replace"), self._secrets
        )
        if place is Place.LIVE:
            return answers.ALIVE
        if place is Place.NOWHERE:
            return answers.NOT_FOUND
        if self._bounds.full:
            return answers.BUSY
        assert isinstance(place, CreationRef)  # noqa: S101  what is neither is a creation
        if (request.content_length or 0) > self._limits.most_body:
            return answers.TOO_LARGE
        return await self._within_bounds(request, place)

    async def _within_bounds(self, request: web.BaseRequest, ref: CreationRef) -> Answer:
        """Hold room for the body while it is read and until it is kept."""
        # Without a declared length the body may be as large as any: room is held for that.
        size = OVERHEAD + (self._limits.most_body if request.content_length is None else request.content_length)
        if not self._bounds.take(size):
            return answers.BUSY
        try:
            return await self._keep(request, ref, size)
        finally:
            self._bounds.give(size)

    async def _keep(self, request: web.BaseRequest, ref: CreationRef, size: int) -> Answer:
        try:
            body = await self._body(request)
        except TimeoutError:
            return answers.TOO_SLOW
        except (ClientError, HttpProcessingError, web.RequestPayloadError, ConnectionError):
            return answers.MALFORMED
        if body is None:
            return answers.TOO_LARGE
        event = self._arrivals.event(ref, body, _kept_headers(request), request.remote)
        waiting = Delivery(event, size, asyncio.get_running_loop().create_future())
        try:
            self._intake.offer(waiting)
        except Overloaded:
            return answers.BUSY
        return await waiting.answered

    async def _body(self, request: web.BaseRequest) -> bytes | None:
        """The body, or None where it is too large. Raises `TimeoutError` where it does not come."""
        content = request.content
        if content.is_eof() and content.total_bytes <= self._limits.most_body:
            return content.read_nowait()  # it came with the headers, as nearly all do
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        whole = bytearray()
        async with asyncio.timeout(self._limits.body_seconds):
            async for piece in content.iter_any():
                whole += piece
                if len(whole) > self._limits.most_body:
                    return None
        return bytes(whole)

    def _now(self) -> float:
        # Not the runtime's clock: these are seconds of a socket's life, and the clock may be set.
        return self._loop.time()


def _kept_headers(request: web.BaseRequest) -> Mapping[str, bytes]:
    return {kept: value for name, value in request.raw_headers if (kept := KEPT_HEADERS.get(name.lower()))}

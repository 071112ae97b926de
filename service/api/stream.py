"""What is recorded, as it is recorded: server-sent events. One look at the database serves all streams."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from aiohttp import hdrs, web

from service.api import query, refs
from service.api.access import is_still_valid
from service.api.context import STREAMS, runtime
from service.api.stream_filter import RowFilter, StreamQuery
from service.audit.stream import StreamPlace, StreamRow, here, rows_between
from service.errors import FieldError, Invalid, Overloaded, StorageError
from service.runtime.runtime import Runtime
from service.storage.engine import begin
from service.storage.seals import XactSnapshot

#: Streams that may be open at once.
MOST: Final = 20
#: Rows that wait for a reader. One that falls further behind is cut off, and comes back with Last-Event-ID.
WAITING: Final = 5000
#: Seconds between two looks, until a quiet stream says that it lives, and that a reader may take for a piece.
EVERY: Final = 1.0
_ALIVE: Final = 15.0
_SLOWEST: Final = 30.0
#: Seconds that a stream lasts; then the reader comes back.
_LONGEST: Final = 3600.0
_KINDS: Final = {"transitions": "transition", "events": "event", "calls": "call", "call_ends": "call_end"}


class Streams:
    """The open streams of one process, and the task that looks for rows while there are any."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._queues: set[asyncio.Queue[StreamRow | None]] = set()
        self._at: XactSnapshot | None = None
        self._task: asyncio.Task[None] | None = None
        self._looking = asyncio.Lock()

    @asynccontextmanager
    async def opened(
        self, place: StreamPlace | None
    ) -> AsyncIterator[tuple[XactSnapshot, "asyncio.Queue[StreamRow | None]"]]:
        """A queue of everything behind the snapshot, which covers `place`; None ends it.

        Raises `Overloaded` if too many are open, and `Invalid` if the place is none of this database.
        """
        if len(self._queues) >= MOST:
            raise Overloaded(f"{MOST} streams are open; try again when one has ended")
        queue: asyncio.Queue[StreamRow | None] = asyncio.Queue()
        self._queues.add(queue)
        try:
            yield await self._joined(place, queue), queue
        finally:
            self._queues.discard(queue)

    async def _joined(self, place: StreamPlace | None, queue: "asyncio.Queue[StreamRow | None]") -> XactSnapshot:
        async with self._looking:
            if self._at is None:
                self._at = await here(self._rt.engine)
            if place is not None and not self._at.covers(place.shown):  # it comes from another daemon
                await self._pass_on(self._at)
            if place is not None and not self._at.covers(place.shown):
                raise _not_ours()
            while not queue.empty():  # up to the snapshot, its reader reads by itself
                queue.get_nowait()
            self._queues.add(queue)
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._look())
            return self._at

    async def close(self) -> None:
        """End all streams, so that the listener can stop."""
        self._end_all()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        while self._queues and self._at is not None:
            await self._rt.clock.sleep(EVERY)
            async with self._looking:
                with suppress(StorageError):  # it is looked again
                    await self._pass_on(self._at)
        self._at = None

    async def _pass_on(self, seen: XactSnapshot) -> None:
        place = StreamPlace(seen, await here(self._rt.engine))
        if place.shown == seen:
            return
        rows: list[StreamRow] = []
        async for row in rows_between(self._rt.engine, place):
            rows.append(row)
            if len(rows) > WAITING:  # readers come back, and each reads by itself, as fast as it can
                rows.clear()
                self._end_all()
                break
        self._at = place.shown
        for queue in [*self._queues]:
            if queue.qsize() + len(rows) > WAITING:
                queue.put_nowait(None)
                self._queues.discard(queue)
            for row in rows:
                queue.put_nowait(row)

    def _end_all(self) -> None:
        for queue in self._queues:
            queue.put_nowait(None)
        self._queues.clear()


async def follow(request: web.Request) -> web.StreamResponse:
    """Rows as they are recorded. The id of each is the place behind it; `Last-Event-ID` goes on there."""
    rt = runtime(request)
    wanted = query.read(StreamQuery, request)
    given = request.headers.get("Last-Event-ID", wanted.after)
    place = None if given is None else _place(given)
    rows = await _filter(rt, wanted)
    headers = {hdrs.CONTENT_TYPE: "text/event-stream", hdrs.CACHE_CONTROL: "no-store", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    async with request.app[STREAMS].opened(place) as (at, queue):
        await response.prepare(request)
        if request.method == hdrs.METH_HEAD:
            return response
        with suppress(ConnectionError, TimeoutError):  # the reader went away, or is too slow
            async with asyncio.timeout(_LONGEST):
                await _write(
                    response, f"retry: 1000\nid: {place or StreamPlace(at, at)}\nevent: begun\ndata: {{}}\n\n".encode()
                )
                if place is not None:
                    await _catch_up(rt, response, rows, place, at)
                await _go_on(request, response, rows, queue)
    return response


async def _filter(rt: Runtime, wanted: StreamQuery) -> RowFilter:
    async with begin(rt.engine) as conn:
        return RowFilter(rt, wanted, None if wanted.vm is None else await refs.find_by_parameter(conn, wanted.vm))


async def _catch_up(
    rt: Runtime, response: web.StreamResponse, wanted: RowFilter, place: StreamPlace, at: XactSnapshot
) -> None:
    for part in (place, StreamPlace(place.shown, at)):
        async for row in rows_between(rt.engine, part):
            if await wanted.wants(row):
                await _write(response, _message(row))


async def _go_on(
    request: web.Request, response: web.StreamResponse, wanted: RowFilter, queue: "asyncio.Queue[StreamRow | None]"
) -> None:
    silent_for = 0.0
    # A reader that went away gives its place to another.
    while request.transport is not None and await is_still_valid(request):
        try:
            row = await asyncio.wait_for(queue.get(), EVERY)
        except TimeoutError:
            silent_for += EVERY
            if silent_for >= _ALIVE:
                await _write(response, b": still here\n\n")
                silent_for = 0.0
            continue
        if row is None:
            return
        if await wanted.wants(row):
            await _write(response, _message(row))


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(_SLOWEST):
        await response.write(data)


def _message(row: StreamRow) -> bytes:
    return f"id: {row.place}\nevent: {_KINDS[row.table]}\ndata: ".encode() + row.line + b"\n"


def _place(given: str) -> StreamPlace:
    place = StreamPlace.parse(given)
    if place is None:
        raise _not_ours()
    return place


def _not_ours() -> Invalid:
    return Invalid([FieldError("Last-Event-ID", "is not the id of an event of this stream")])

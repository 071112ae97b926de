"""Server-sent events that tell an open page when to read itself again.

A page is told that something changed, not what: it reads itself, so that what it shows is what a reload would show.
Whether something changed is looked up once for all open pages, and the more there are, the less often. Many are told one after
another, so that their reading never keeps a callback waiting for long.
"""

import asyncio
from contextlib import suppress
from typing import Final

from aiohttp import web

from service.errors import StorageError
from service.queries import changes
from service.runtime.runtime import Runtime
from service.storage.engine import begin
from service.web.pages import signed_in
from service.web.shared import FEW, SharedValues

#: Seconds between two looks while few pages are open, and how many each further page adds.
_SECONDS: Final = 1.5
_SECONDS_PER_PAGE: Final = 0.2


class LivePages:
    """The open pages of one process, and the task that looks for changes while there are any."""

    def __init__(self, rt: Runtime, shared: SharedValues) -> None:
        self._rt, self._shared = rt, shared
        self._pages: set[asyncio.Event] = set()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def follow(self, request: web.Request) -> web.StreamResponse:
        """Tell one page of changes for as long as it is open, its session is valid, and the daemon runs."""
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        changed = asyncio.Event()
        self._pages.add(changed)
        if self._task is None:
            self._task = asyncio.create_task(self._look())
        try:
            await response.write(b"retry: 2000\n\n")
            while not self._closed and await _may_follow(request):
                await _wait(changed, 15)
                await response.write(b"event: changed\ndata: \n\n" if changed.is_set() else b": still here\n\n")
                changed.clear()
        except ConnectionError:
            pass  # the page was closed
        finally:
            self._pages.discard(changed)
        return response

    async def close(self) -> None:
        """End all streams, so that the listener can stop; pages come back when it runs again."""
        self._closed = True
        self._tell()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        seen = None
        while self._pages:
            self._shared.is_on = len(self._pages) > FEW
            has_changed = False
            with suppress(StorageError):  # the page says so by itself when it is read next
                async with begin(self._rt.engine) as conn:
                    now = (await changes.marker(conn), tuple(self._rt.health.issues))
                has_changed = seen is not None and now != seen
                seen = now
            if has_changed:
                self._shared.forget()
                await self._tell_in_turn()
            await asyncio.sleep(_SECONDS + (0 if has_changed else _SECONDS_PER_PAGE * len(self._pages)))
        self._shared.is_on = False
        self._task = None

    async def _tell_in_turn(self) -> None:
        for page in list(self._pages):
            page.set()
            await asyncio.sleep(_SECONDS_PER_PAGE)

    def _tell(self) -> None:
        for page in self._pages:
            page.set()


async def _may_follow(request: web.Request) -> bool:
    try:
        return await signed_in(request) is not None
    except StorageError:
        return True  # the page says so by itself when it is read next


async def _wait(changed: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await changed.wait()

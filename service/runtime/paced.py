"""A connection of a listener that is read more rarely the smaller the pieces are that its requests come in.

Each piece costs the event loop about the same, however small it is. What comes while a connection is not read waits in the
kernel and comes as one piece later, so a sender of single bytes is slowed down and heard, and delays nobody else.
"""

import asyncio
from typing import Final

from aiohttp import web

#: Pieces under this size count; of each request a few are free, such as its head and its body.
_SMALL: Final = 512
_FREE: Final = 4
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0


class PacedConnection(web.RequestHandler):
    """aiohttp's connection, which pauses after small pieces of a request: the longer, the more there were."""

    __slots__ = ("_resume", "_small_pieces")

    def __init__(self, manager: web.Server, **options: object) -> None:
        super().__init__(manager, **options)  # type: ignore[arg-type]  # as the server passes them on
        self._small_pieces = 0
        self._resume: asyncio.TimerHandle | None = None

    def request_ended(self) -> None:
        """Count the pieces of the next request anew."""
        self._small_pieces = 0

    def data_received(self, data: bytes) -> None:
        if 0 < len(data) < _SMALL:
            self._small_pieces += 1
            if self._small_pieces > _FREE and self._resume is None:
                self._pause(self._small_pieces - _FREE)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._resume is not None:
            self._resume.cancel()
        super().connection_lost(exc)

    def _pause(self, times: int) -> None:
        self._pause_transport_reading()
        seconds = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(times - 1, 10))
        self._resume = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._resume = None
        if not (self._reading_paused or self._buffer_paused):  # aiohttp has reasons of its own to pause
            self._resume_transport_reading()

"""Turns a request into an event: its id, its time, and the headers to store. The body is not parsed."""

import hashlib
import random
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from service.core.ids import uuid7_bytes
from service.core.token import CreationRef
from service.storage.events import Event, driver_uuid

#: The headers that are useful as evidence and hold no secret. All others are dropped.
STORED_HEADERS: Final[Mapping[bytes, str]] = {
    name.encode(): name
    for name in (
        "content-encoding",
        "content-type",
        "date",
        "traceparent",
        "user-agent",
        "x-correlation-id",
        "x-forwarded-for",
        "x-request-id",
    )
}
RawHeaders = tuple[tuple[bytes, bytes], ...]
_RANDOM: Final = 8
#: Ids whose random bytes are drawn at once: each draw is a call of the system.
_DRAWN: Final = 64
#: A clock that is this far behind was set back; continuing from the previous time would give times in the future.
_STEP: Final = timedelta(seconds=1)
_TICK: Final = timedelta(microseconds=1)


class EventFactory:
    """Makes the events of one process, each received later than the one before it unless the clock was set back."""

    def __init__(self, now: Callable[[], datetime], rng: random.Random) -> None:
        self._now = now
        self._rng = rng
        self._last: datetime | None = None
        self._random = b""

    def event(self, ref: CreationRef, body: bytes, headers: RawHeaders, peer: str | None) -> Event:
        """The event of a callback that was received in full. Ids sort by time."""
        received_at = self._stamp()
        return Event(
            submission_id=ref.submission_id,
            creation_no=ref.creation_no,
            received_at=received_at,
            # No two events share a microsecond, so microseconds order them within the id's millisecond.
            event_id=driver_uuid(uuid7_bytes(received_at, self._chance(), sequence=received_at.microsecond % 1000)),
            body=body,
            headers=_texts(_kept(headers)),
            peer=peer,
            digest=hashlib.sha256(body).digest(),
        )

    def _chance(self) -> bytes:
        if not self._random:
            self._random = self._rng.randbytes(_RANDOM * _DRAWN)
        drawn, self._random = self._random[:_RANDOM], self._random[_RANDOM:]
        return drawn

    def _stamp(self) -> datetime:
        now = self._now()
        if self._last is not None and self._last - _STEP < now <= self._last:
            now = self._last + _TICK
        self._last = now
        return now


def _kept(headers: RawHeaders) -> RawHeaders:
    return tuple(one for one in headers if one[0].lower() in STORED_HEADERS)


@lru_cache(maxsize=256)  # a sender sends the same of these with each callback; no other header is held in it
def _texts(headers: RawHeaders) -> dict[str, str]:
    joined: dict[str, bytes] = {}
    for raw, value in headers:
        name = STORED_HEADERS[raw.lower()]
        joined[name] = joined[name] + b", " + value if name in joined else value
    # Headers may be in any encoding, and Postgres takes no NUL.
    return {name: value.decode("utf-8", "replace").replace("\x00", "\ufffd") for name, value in joined.items()}

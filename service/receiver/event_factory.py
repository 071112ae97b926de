"""From a request to an event: which headers are kept, when it came, what it is called. The body is not looked into."""

import hashlib
import random
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from service.core.ids import uuid7
from service.core.token import CreationRef
from service.storage.events import Event

#: The headers that say something about a delivery and hold no secret. All others are dropped.
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
#: A clock that is this far behind was set back. Times that go on from the former ones would lie in the future.
_STEP: Final = timedelta(seconds=1)
_TICK: Final = timedelta(microseconds=1)


class EventFactory:
    """Makes the events of one process, each received later than the one before it unless the clock was set back."""

    def __init__(self, now: Callable[[], datetime], rng: random.Random) -> None:
        self._now = now
        self._rng = rng
        self._last: datetime | None = None

    def event(self, ref: CreationRef, body: bytes, headers: Mapping[str, bytes], peer: str | None) -> Event:
        """The event of a callback whose body is complete. Its id sorts as it came."""
        received_at = self._stamp()
        return Event(
            submission_id=ref.submission_id,
            creation_no=ref.creation_no,
            received_at=received_at,
            # No two events share a microsecond, so the microseconds are the order within the id's millisecond.
            event_id=uuid7(received_at, self._rng.randbytes(8), sequence=received_at.microsecond % 1000),
            body=body,
            headers=_texts(tuple(headers.items())),
            peer=peer,
            digest=hashlib.sha256(body).digest(),
        )

    def _stamp(self) -> datetime:
        now = self._now()
        if self._last is not None and self._last - _STEP < now <= self._last:
            now = self._last + _TICK
        self._last = now
        return now


@lru_cache(maxsize=256)  # a sender says the same of each of its callbacks
def _texts(headers: tuple[tuple[str, bytes], ...]) -> dict[str, str]:
    # Postgres takes any text but NUL, and senders take liberties with encodings.
    return {name: value.decode("utf-8", "replace").replace("\x00", "\ufffd") for name, value in headers}

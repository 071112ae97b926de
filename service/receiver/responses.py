"""Every answer that the callback listener gives. Who gets which is decided elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: Seconds after which a sender that was turned away may find room again.
RETRY_AFTER: Final = 5
_HEADERS: Final = {"Content-Type": "application/json", "Server": "rollcall"}
_TRY_AGAIN: Final = {**_HEADERS, "Retry-After": str(RETRY_AFTER)}


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """One answer: what it is counted as, its status, and its JSON body. `closes` ends the connection with it."""

    name: str
    status: int
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=lambda: _HEADERS)
    closes: bool = False


STORED: Final = Response("stored", 200)
ALIVE: Final = Response("alive", 200)
NOT_FOUND: Final = Response("not_found", 404, b'{"error":"not found"}', closes=True)
TOO_LARGE: Final = Response("too_large", 413, b'{"error":"too large"}', closes=True)
TOO_SLOW: Final = Response("too_slow", 408, b'{"error":"too slow"}', closes=True)
MALFORMED: Final = Response("malformed", 400, b'{"error":"malformed request"}', closes=True)
BUSY: Final = Response("busy", 503, b'{"error":"try again"}', _TRY_AGAIN)
FULL: Final = Response("busy", 503, b'{"error":"try again"}', _TRY_AGAIN, closes=True)
#: The same to a sender, another thing to an operator: there was room, and neither Postgres nor the spool took it.
NOT_STORED: Final = Response("not_stored", 503, b'{"error":"try again"}', _TRY_AGAIN)

ALL: Final = (STORED, ALIVE, NOT_FOUND, TOO_LARGE, TOO_SLOW, MALFORMED, BUSY, FULL, NOT_STORED)

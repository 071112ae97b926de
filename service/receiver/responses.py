"""Every response of the callback listener."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: Seconds after which a refused sender should try again.
RETRY_AFTER: Final = 5
_HEADERS: Final = {"Content-Type": "application/json", "Server": "rollcall"}
_TRY_AGAIN: Final = {**_HEADERS, "Retry-After": str(RETRY_AFTER)}


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """A response. `name` is its label in the metrics; `closes` ends the connection with it."""

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
#: The same as BUSY to a sender, but not to an operator: neither Postgres nor the spool took the callback.
NOT_STORED: Final = Response("not_stored", 503, b'{"error":"try again"}', _TRY_AGAIN)

ALL: Final = (STORED, ALIVE, NOT_FOUND, TOO_LARGE, TOO_SLOW, MALFORMED, BUSY, FULL, NOT_STORED)

"""Every answer that the callback listener gives, as bytes made once. Who gets which is decided elsewhere."""

from dataclasses import dataclass
from typing import Final

#: Seconds after which a sender that was turned away may find room again.
RETRY_AFTER: Final = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: what it is counted as, and its bytes for a connection that stays and for one that closes."""

    name: str
    staying: bytes
    closing: bytes

    def without_body(self) -> "Answer":
        """The same answer to a HEAD request."""
        return Answer(self.name, _head(self.staying), _head(self.closing))


def _answer(name: str, status: str, body: bytes = b"{}", *more: str) -> Answer:
    head = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *more]
    staying = "\r\n".join([*head, "", ""]).encode() + body
    closing = "\r\n".join([*head, "Connection: close", "", ""]).encode() + body
    return Answer(name, staying, closing)


def _head(whole: bytes) -> bytes:
    return whole[: whole.index(b"\r\n\r\n") + 4]


KEPT: Final = _answer("kept", "200 OK")
ALIVE: Final = _answer("alive", "200 OK")
NOT_FOUND: Final = _answer("not_found", "404 Not Found", b'{"error":"not found"}')
TOO_LARGE: Final = _answer("too_large", "413 Content Too Large", b'{"error":"too large"}')
HEAD_TOO_LARGE: Final = _answer("malformed", "431 Request Header Fields Too Large", b'{"error":"headers too large"}')
MALFORMED: Final = _answer("malformed", "400 Bad Request", b'{"error":"malformed request"}')
TOO_SLOW: Final = _answer("too_slow", "408 Request Timeout", b'{"error":"too slow"}')
BUSY: Final = _answer("busy", "503 Service Unavailable", b'{"error":"try again"}', f"Retry-After: {RETRY_AFTER}")
#: The same to a sender, another thing to an operator: there was room, and neither Postgres nor the spool took it.
NOT_KEPT: Final = _answer(
    "not_kept", "503 Service Unavailable", b'{"error":"try again"}', f"Retry-After: {RETRY_AFTER}"
)

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

"""The format of the spool's files.

A segment is a header (a line that names the format, and 16 random bytes, the salt) followed by records: a marker, the
length of the payload as four bytes, a checksum, and the event. The checksum is keyed with the salt, so the body of a
callback cannot pass for a record, even in a damaged segment.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import orjson

from service.storage.events import Event

_FORMAT: Final = b"rollcall spool 1\n"
SALT_BYTES: Final = 16
HEADER_BYTES: Final = len(_FORMAT) + SALT_BYTES
_MARKER: Final = b"\xf5evt"
_SUM_BYTES: Final = 16
_BEFORE: Final = len(_MARKER) + 4 + _SUM_BYTES
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TICK: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Contents:
    """A segment's events, in the order in which they were written, and how many bytes could not be read."""

    events: list[Event]
    unreadable: int


def header(salt: bytes) -> bytes:
    """The first bytes of a segment. `salt` is random, and no sender of callbacks knows it."""
    return _FORMAT + salt


def pack(event: Event, salt: bytes) -> bytes:
    """One event as a record of the segment with this salt."""
    about = orjson.dumps(
        [
            event.submission_id.hex,
            event.creation_no,
            (event.received_at - _EPOCH) // _TICK,
            event.event_id.hex,
            event.source,
            event.headers,
            event.peer,
        ]
    )
    payload = len(about).to_bytes(4, "big") + about + event.body
    length = len(payload).to_bytes(4, "big")
    return b"".join((_MARKER, length, _checksum(payload, salt), payload))


def unpack(segment: bytes) -> Contents:
    """Everything readable in a segment. Never raises: damage costs only the records that it hits."""
    salt = segment[len(_FORMAT) : HEADER_BYTES]
    if not segment.startswith(_FORMAT) or len(salt) < SALT_BYTES:
        return Contents([], len(segment))
    payloads = list(_payloads(segment, salt))
    read = sum(_BEFORE + len(payload) for payload in payloads)
    return Contents([_event(payload) for payload in payloads], len(segment) - HEADER_BYTES - read)


def _payloads(segment: bytes, salt: bytes) -> Iterator[bytes]:
    at = HEADER_BYTES
    while (at := segment.find(_MARKER, at)) >= 0:
        length = int.from_bytes(segment[at + len(_MARKER) : at + len(_MARKER) + 4], "big")
        given = segment[at + len(_MARKER) + 4 : at + _BEFORE]
        payload = segment[at + _BEFORE : at + _BEFORE + length]
        if len(payload) == length and _checksum(payload, salt) == given:
            yield payload
            at += _BEFORE + length
        else:
            at += 1


def _event(payload: bytes) -> Event:
    body_at = 4 + int.from_bytes(payload[:4], "big")
    submission_id, creation_no, received_at, event_id, source, headers, peer = orjson.loads(payload[4:body_at])
    body = payload[body_at:]
    return Event(
        submission_id=UUID(submission_id),
        creation_no=creation_no,
        received_at=_EPOCH + received_at * _TICK,
        event_id=UUID(event_id),
        source=source,
        headers=headers,
        peer=peer,
        body=body,
        digest=hashlib.sha256(body).digest(),
    )


def _checksum(payload: bytes, salt: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_SUM_BYTES, key=salt).digest()

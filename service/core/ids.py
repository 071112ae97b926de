"""Our ids: UUID version 7 (RFC 9562), which sort by time. The time and the random bytes are arguments."""

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

#: The `submission_id` of what is about the whole fleet.
FLEET: Final = UUID(int=0)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
#: In milliseconds, the year 6429. An id that claims to be later is not ours, and may not fit a datetime.
_LATEST: Final = 2**47


def uuid7(now: datetime, rng: bytes, *, sequence: int = 0) -> UUID:
    """A version 7 UUID for `now` (aware). `rng` is 8 or more random bytes.

    `sequence` (0 to 4095) orders ids of the same millisecond.
    """
    return UUID(bytes=uuid7_bytes(now, rng, sequence=sequence))


def uuid7_bytes(now: datetime, rng: bytes, *, sequence: int = 0) -> bytes:
    """The 16 bytes of `uuid7`."""
    # Integers, because the floats of `timestamp` may be equal for two consecutive milliseconds.
    milliseconds = (now - _EPOCH) // _MILLISECOND & 0xFFFF_FFFF_FFFF
    tail = int.from_bytes(rng[:8], "big") & 0x3FFF_FFFF_FFFF_FFFF
    return ((milliseconds << 80) | (0x7 << 76) | ((sequence & 0xFFF) << 64) | (0b10 << 62) | tail).to_bytes(16, "big")


def uuid7_time(made: UUID) -> datetime | None:
    """When a version 7 UUID was made, to the millisecond; None if it is not one."""
    milliseconds = made.int >> 80
    if made.version != 7 or milliseconds >= _LATEST:
        return None
    return _EPOCH + milliseconds * _MILLISECOND

"""Times within cursors: as microseconds since 1970, so that nothing of them is lost on the way."""

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TICK: Final = timedelta(microseconds=1)


def micros(at: datetime) -> int:
    return (at - _EPOCH) // _TICK


def moment(microseconds: str) -> datetime:
    """The time of a cursor's digits, of which there are 17 at most."""
    return _EPOCH + int(microseconds) * _TICK

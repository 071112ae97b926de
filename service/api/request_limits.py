"""How many requests a token may send a minute: a token bucket for each caller, in each process."""

from datetime import datetime
from typing import Final

from service.api.callers import Caller
from service.errors import TooManyRequests

_MINUTE: Final = 60.0


class RequestLimits:
    """What each caller with a limit has left. A caller may send its whole minute at once, and then waits."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, datetime]] = {}

    def take(self, caller: Caller, now: datetime) -> None:
        """Count a request. Raises `TooManyRequests`."""
        if caller.requests_per_minute is None:
            return
        most = float(caller.requests_per_minute)
        left, at = self._left.get(caller.name, (most, now))
        left = min(most, left + max(0.0, (now - at).total_seconds()) * most / _MINUTE)
        if left < 1:
            self._left[caller.name] = (left, now)
            text = f"{caller.name} may send {caller.requests_per_minute} requests a minute"
            raise TooManyRequests(text, retry_after=(1 - left) * _MINUTE / most)
        self._left[caller.name] = (left - 1, now)

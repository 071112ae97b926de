"""The rate limit: N calls per source address and window; further calls are rejected until the window ends.

infrahub-api.md section 6.
"""

from collections import Counter


class RateLimit:
    """Windows are fixed, as "until the minute is over" says, and start at multiples of their length."""

    def __init__(self, calls: int, window: float) -> None:
        self._calls = calls
        self._window = window
        self._counts: Counter[tuple[str, int]] = Counter()
        self.refused = 0

    def allows(self, source: str, now: float) -> bool:
        """Count the call, even if it is rejected. With a limit of 0 every call is allowed, and counted."""
        key = (source, int(now // self._window))
        self._counts[key] += 1
        if self._calls and self._counts[key] > self._calls:
            self.refused += 1
            return False
        return True

    def busiest(self) -> int:
        """The largest number of calls from one source in one window."""
        return max(self._counts.values(), default=0)

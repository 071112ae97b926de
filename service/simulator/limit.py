"""The rate limit: so many calls in a window for each source, and then none until the window is over. Only counting.

infrahub-api.md section 6.
"""

from collections import Counter


class Limit:
    """Windows are fixed, as "until the minute is over" says, and begin at multiples of their length."""

    def __init__(self, calls: int, window: float) -> None:
        self._calls = calls
        self._window = window
        self._seen: Counter[tuple[str, int]] = Counter()
        self.refused = 0

    def admits(self, source: str, now: float) -> bool:
        """Count the call, also one that is refused. Without a limit (0) everything is admitted, and counted."""
        key = (source, int(now // self._window))
        self._seen[key] += 1
        if self._calls and self._seen[key] > self._calls:
            self.refused += 1
            return False
        return True

    def busiest(self) -> int:
        """The most calls that one source made in one window."""
        return max(self._seen.values(), default=0)

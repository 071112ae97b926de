"""How long to wait before the next try: capped exponential backoff with full jitter. The jitter is an argument."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits in seconds: `first` doubles with each attempt up to `cap`; no wait is under `floor`."""

    first: float
    cap: float
    floor: float = 0.0

    def after(self, attempt: int, jitter: float) -> timedelta:
        """The wait after attempt number `attempt` (from 1), for a `jitter` drawn uniformly from [0, 1)."""
        ceiling = min(self.cap, self.first * 2 ** min(max(attempt, 1) - 1, 62))
        return timedelta(seconds=max(self.floor, ceiling * jitter))

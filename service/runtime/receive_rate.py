"""How many callbacks come in, and so how much of its time the process has left for other work."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

#: Callbacks a second of which other work notices nothing. A fleet of 10,000 VMs that boots within five minutes sends 170.
_CALM: Final = 500.0
#: Callbacks a second that would leave no time for others: about as many as one process stores.
_MOST: Final = 15_000.0
#: The share of its time that remains for others whatever comes in.
_LEAST: Final = 0.1
#: Seconds over which the rate is measured at least.
_WINDOW: Final = 0.25


@dataclass(slots=True)
class ReceiveRate:
    """The rate at which callbacks are stored."""

    per_second: float = 0.0
    _stored: int = 0
    _since: datetime | None = None

    def share_left(self, now: datetime, stored: int) -> float:
        """The share of its time that the process has for other work, 0.1 to 1; `stored` callbacks were stored until `now`."""
        seconds = (now - self._since).total_seconds() if self._since is not None else -1.0
        if not 0.0 <= seconds < _WINDOW:
            self.per_second = max(0.0, (stored - self._stored) / seconds) if seconds > 0 else 0.0
            self._stored, self._since = stored, now
        return 1.0 if self.per_second < _CALM else max(_LEAST, 1.0 - self.per_second / _MOST)

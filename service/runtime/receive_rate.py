"""How many callbacks come in: whether receiving them needs the processor for itself."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

#: Callbacks a second from which on there is a storm. A fleet of 10,000 VMs that boots within five minutes sends 170.
STORM: Final = 500.0
#: Seconds over which the rate is measured at least.
WINDOW: Final = 0.25


@dataclass(slots=True)
class ReceiveRate:
    """The rate at which callbacks are stored."""

    per_second: float = 0.0
    _stored: int = 0
    _since: datetime | None = None

    def is_storm(self, now: datetime, stored: int) -> bool:
        """Whether there is a storm; `stored` callbacks were stored until `now`."""
        seconds = (now - self._since).total_seconds() if self._since is not None else -1.0
        if not 0.0 <= seconds < WINDOW:
            self.per_second = max(0.0, (stored - self._stored) / seconds) if seconds > 0 else 0.0
            self._stored, self._since = stored, now
        return self.per_second >= STORM

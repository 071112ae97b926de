"""What is going to happen, in the order in which it will. It knows nothing of VMs."""

import heapq
import itertools
from collections.abc import Callable

Action = Callable[[float], None]


class Timeline:
    """Actions with the simulated second at which they are due; those of one second run in the order they were added."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Action]] = []
        self._order = itertools.count()

    def add(self, at: float, action: Action) -> None:
        heapq.heappush(self._heap, (at, next(self._order), action))

    def run(self, now: float) -> None:
        """Do everything that is due, each at its own time. What an action adds runs too, if it is due."""
        while self._heap and self._heap[0][0] <= now:
            at, _, action = heapq.heappop(self._heap)
            action(at)

    def next_due(self) -> float | None:
        return self._heap[0][0] if self._heap else None

"""Scheduled actions in order of their time."""

import heapq
import itertools
from collections.abc import Callable

Action = Callable[[float], object]


class Timeline:
    """Actions by the simulated second at which they are due; actions of the same second run in insertion order."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Action]] = []
        self._order = itertools.count()

    def add(self, at: float, action: Action) -> None:
        heapq.heappush(self._heap, (at, next(self._order), action))

    def run(self, now: float) -> None:
        """Run every due action, each at its own time. Actions added meanwhile run too if they are due."""
        while self._heap and self._heap[0][0] <= now:
            at, _, action = heapq.heappop(self._heap)
            action(at)

    def next_due(self) -> float | None:
        return self._heap[0][0] if self._heap else None

"""How much the receiver takes on at once. Counting only: who asks decides what to do with a no."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Bounds:
    """Counts of what is in flight, each with the most that it may be. A no leaves the counts as they were."""

    most_connections: int
    most_bytes: int
    connections: int = 0
    held: int = 0

    @property
    def flooded(self) -> bool:
        """So many more connections than may be that the newest cannot even be told to come again."""
        return self.connections > 2 * self.most_connections

    def take(self, size: int) -> bool:
        """Hold `size` bytes more of callbacks, if there is room."""
        if self.held + size > self.most_bytes:
            return False
        self.held += size
        return True

    def give(self, size: int) -> None:
        """Let go of bytes that were taken."""
        self.held -= size

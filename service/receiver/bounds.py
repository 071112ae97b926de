"""Bounds on what the receiver holds at once."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Bounds:
    """Counts of connections and of bytes in flight, and their limits."""

    most_connections: int
    most_bytes: int
    connections: int = 0
    held: int = 0

    @property
    def flooded(self) -> bool:
        """Whether there are so many connections that new ones are dropped without an answer."""
        return self.connections > 2 * self.most_connections

    def take(self, size: int) -> bool:
        """Hold `size` more bytes if there is room. Returns whether there was."""
        if self.held + size > self.most_bytes:
            return False
        self.held += size
        return True

    def give(self, size: int) -> None:
        """Release bytes that were taken."""
        self.held -= size

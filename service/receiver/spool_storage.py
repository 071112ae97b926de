"""Where the spool keeps its groups. The spool decides when to store and to drain; a storage only keeps them."""

from collections.abc import Sequence
from typing import Protocol

from service.receiver.records import Contents
from service.storage.events import Event


class SpoolPart(Protocol):
    """Some of the groups in a storage, which are drained together."""

    @property
    def name(self) -> str: ...

    async def read(self) -> Contents | None:
        """What is in it; None if it must be passed over. Raises OSError."""

    async def remove(self, contents: Contents) -> None:
        """Remove it, since its events are in Postgres. Keeps what is unreadable, for people. Raises OSError."""


class SpoolStorage(Protocol):
    """Keeps groups until they are in Postgres. For one task at a time, but for `append`."""

    @property
    def issue(self) -> str:
        """The health issue that is open while it cannot be read or written."""

    @property
    def look_seconds(self) -> float:
        """Seconds between two looks."""

    @property
    def bytes(self) -> int:
        """How much is in it, as far as is known."""

    async def open(self) -> None:
        """Get ready, and find what is there already. Raises OSError; then it may be ready later."""

    async def append(self, group: Sequence[Event]) -> None:
        """Write a group; on return it is durable. Raises `Overloaded` (full) or `StorageUnavailable`."""

    async def complete(self) -> Sequence[SpoolPart]:
        """What can be drained now, oldest first. Raises OSError."""

    @property
    def left(self) -> int:
        """How many groups there are besides those that `complete` gave last, as far as is known."""

    async def is_drained(self) -> bool:
        """Whether everything is in Postgres that must be there before a new callback. Raises OSError."""

    async def look(self) -> bool:
        """Look for what others left, and resolve issues that are over.

        Returns whether there is something that must be in Postgres before a new callback. Raises OSError.
        """

    async def close(self) -> None:
        """Release it. What is left is drained by others, or by the next process."""

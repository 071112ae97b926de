"""The spool: callbacks wait in it while Postgres is away, and move to Postgres when it is back.

While the spool holds anything, new callbacks go there too. So events reach Postgres in the order of their arrival, and a
VM's callbacks are applied in that order. (Sorting by arrival would not do: the worker applies what it can see.)

Under constant load the spool would never become empty. So when little is left, new callbacks wait a moment until the rest
is drained; then they go to Postgres again.

That holds for a receiver that drains alone. Several have a spool each, or drain one stream together; between them there is
no order. An event that overtakes another about its VM costs a refresh.

An event may be written more than once and is stored once: it got its key when it arrived.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from service.errors import ServiceError, StorageError
from service.receiver.error_boundary import ErrorBoundary, log
from service.receiver.spool_storage import SpoolPart, SpoolStorage
from service.runtime.runtime import Runtime
from service.storage.event_writer import EventWriter
from service.storage.events import Event

#: The health issue while callbacks wait for Postgres.
_WAITS: Final = "spool"
#: Seconds between attempts to reach Postgres.
_AGAIN: Final = 0.5
#: Events that the drain writes at once, and the seconds that Postgres may take for them. No sender waits for it, and
#: giving up on a slow Postgres would only make it slower.
_AT_ONCE: Final = 1000
_WITHIN: Final = 30.0
#: A pass that drained at most this many events, and left as few, has caught up: even fewer came meanwhile.
_FEW: Final = _AT_ONCE


class Spool:
    """Stores groups in a storage and drains them in order."""

    def __init__(self, runtime: Runtime, writer: EventWriter, storage: SpoolStorage) -> None:
        self._runtime = runtime
        self._writer = writer
        self._storage = storage
        self._wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._last_within = runtime.settings.spool_after_seconds
        self._shown = 0
        #: Held while a group is stored, and while the drain finishes, so that nothing is appended meanwhile.
        self.turn = asyncio.Lock()
        #: Set while the spool is empty. Cleared before anything is appended.
        self.empty = asyncio.Event()
        self.empty.set()

    async def start(self) -> None:
        """Find what is stored, and begin to drain. A failing storage is a health issue, not an exception."""
        try:
            await self._storage.open()
        except OSError as error:
            self._report("the spool cannot be written", error)
        self._weighed()
        if self._storage.bytes:
            self.empty.clear()
            self._wanted.set()
        self._tasks = [
            asyncio.create_task(self._drain(), name="spool"),
            asyncio.create_task(self._keep_looking(), name="spool: what others left"),
        ]

    async def append(self, group: Sequence[Event]) -> None:
        """Write a group; on return it is durable. Raises `Overloaded` (full) or `StorageUnavailable`."""
        self.empty.clear()
        try:
            await self._storage.append(group)
        except ServiceError as error:
            self._runtime.health.report(self._storage.issue, str(error))
            raise
        else:
            self._runtime.health.resolve(self._storage.issue)
        finally:
            self._weighed()
            self._wanted.set()

    async def close(self) -> None:
        """Stop draining. The next process drains what is left."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._storage.close()

    def postgres_is_away(self, error: StorageError) -> None:
        """Report why the spool is used; log it once until Postgres is back."""
        if _WAITS not in self._runtime.health.issues:
            log.warning("spool.begun", error=str(error))
        self._runtime.health.report(_WAITS, f"callbacks wait for Postgres: {error}")

    def postgres_is_there(self, received: int = 0) -> None:
        """Report that a group was stored, `received` of it straight from the provider, and wake the workers."""
        self._runtime.callbacks_stored += received
        if _WAITS in self._runtime.health.issues:
            log.info("spool.ended")
            self._runtime.health.resolve(_WAITS)
        self._runtime.events_stored.set()

    async def look(self) -> None:
        """Look for what others left there, and drain it. Resolves the issues of a storage that works again."""
        try:
            if await self._storage.look():
                self.empty.clear()
        except OSError as error:
            self._report("the spool fails", error)
        self._weighed()
        self._wanted.set()

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._storage.look_seconds)
            with ErrorBoundary("spool.look"):
                await self.look()

    async def _drain(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            with ErrorBoundary("spool.drain"):
                while not await self._drained():
                    await self._runtime.clock.sleep(_AGAIN)

    async def _drained(self) -> bool:
        """Drain until nothing is left. Returns False if Postgres or the storage fails, or others have taken some of it."""
        try:
            while self._storage.bytes or not self.empty.is_set():
                # Take nothing out while Postgres is away: others may reach it.
                await self._writer.store((), within=_WITHIN)
                parts = await self._storage.complete()
                if await self._drain_parts(parts, _WITHIN) + self._storage.left > _FEW:
                    continue
                if not self.empty.is_set():
                    return await self._drain_the_rest()
                if not parts:
                    break
        except StorageError as error:
            self.postgres_is_away(error)
            return False
        except OSError as error:
            self._report("the spool cannot be read", error)
            return False
        return True

    async def _drain_the_rest(self) -> bool:
        """Drain everything while nothing is appended. Postgres may take as long as for any new group.

        Returns False if others append so much that our new callbacks would wait for long.
        """
        drained = 0
        async with self.turn:
            while parts := await self._storage.complete():
                drained += await self._drain_parts(parts, self._last_within)
                if drained > _FEW:
                    return False
            if not await self._storage.is_drained():
                return False
            self.empty.set()
        return True

    async def _drain_parts(self, parts: Sequence[SpoolPart], within: float) -> int:
        """Drain parts one after another. Returns how many events they held."""
        return sum([await self._drain_part(part, within) for part in parts])

    async def _drain_part(self, part: SpoolPart, within: float) -> int:
        contents = await part.read()
        if contents is None:
            return 0
        for group in _groups(contents.events):
            await self._writer.store(group, within=within)
            self.postgres_is_there()
        await part.remove(contents)
        self._weighed()
        log.info("spool.drained", segment=part.name, events=len(contents.events))
        return len(contents.events)

    def _report(self, what: str, error: OSError) -> None:
        self._runtime.health.report(self._storage.issue, f"{what}: {error.strerror or error}")

    def _weighed(self) -> None:
        # Added up, since a process may have a spool in each of two storages.
        self._runtime.metrics.spooled.inc(self._storage.bytes - self._shown)
        self._shown = self._storage.bytes


class PostgresOrSpool:
    """Stores the intake's groups: in Postgres, or in the spool while Postgres is away or too slow."""

    def __init__(self, writer: EventWriter, spool: Spool, *, within: float) -> None:
        self._within = within
        self._writer = writer
        self._spool = spool

    async def store(self, group: Sequence[Event]) -> None:
        """Store a group; on return it is durable. Raises `ServiceError` if neither takes it."""
        async with self._spool.turn:
            await self._store(group)

    async def _store(self, group: Sequence[Event]) -> None:
        in_order = self._spool.empty.is_set()
        if in_order and await self._is_stored(group):
            return
        try:
            await self._spool.append(group)
        except ServiceError:
            # Postgres may work although the spool fails. Then a VM's callbacks may overtake those in the spool, which
            # costs a refresh; refusing them would lose them.
            if in_order or not await self._is_stored(group):
                raise

    async def _is_stored(self, group: Sequence[Event]) -> bool:
        """Whether Postgres stored the group. If that is unknown, the spool may store it a second time: no harm."""
        try:
            await self._writer.store(group, within=self._within)
        except StorageError as error:
            self._spool.postgres_is_away(error)
            return False
        self._spool.postgres_is_there(len(group))
        return True


def _groups(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    for start in range(0, len(events), _AT_ONCE):
        yield events[start : start + _AT_ONCE]

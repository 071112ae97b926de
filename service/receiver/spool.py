"""The spool: callbacks wait on disk while Postgres is away, and move to Postgres when it is back.

While the spool holds anything, new callbacks go there too. So events reach Postgres in the order of their arrival, and a
VM's callbacks are applied in that order. (Sorting by arrival would not do: the worker applies what it can see.)

Under constant load the spool would never become empty. So when little is left, new callbacks wait a moment until the rest
is drained; then they go to Postgres again.

An event may be written more than once and is stored once: it got its key when it arrived.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from service.errors import ServiceError, StorageError
from service.receiver.error_boundary import ErrorBoundary, log
from service.receiver.segments import Segments
from service.runtime.runtime import Runtime
from service.storage.event_writer import EventWriter
from service.storage.events import Event

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

#: Health issues: callbacks wait for Postgres; the disk cannot be written; a segment cannot be read or removed.
_WAITS: Final = "spool"
_DISK: Final = "spool disk"
_PASSED: Final = "spool segment"
#: Seconds between attempts to reach Postgres.
_AGAIN: Final = 0.5
#: Events that the drain writes at once, and the seconds that Postgres may take for them. No sender waits for it, and
#: giving up on a slow Postgres would only make it slower.
_AT_ONCE: Final = 1000
_WITHIN: Final = 30.0
#: Seconds between checks for folders of dead processes, and for whether a disk that failed works again.
_ADOPT: Final = 10.0
#: A pass that drained at most this many events has caught up: even fewer came meanwhile.
_FEW: Final = _AT_ONCE


class Spool:
    """Stores groups on disk and drains them in order. One thread does all the file work."""

    def __init__(self, runtime: Runtime, writer: EventWriter) -> None:
        self._runtime = runtime
        self._writer = writer
        self._segments = Segments(runtime.settings.data_dir / "spool", most_bytes=runtime.settings.spool_max_bytes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._last_within = runtime.settings.spool_after_seconds
        #: Held while a group is stored, and while the drain finishes, so that nothing is appended meanwhile.
        self.turn = asyncio.Lock()
        #: Set while the spool is empty. Cleared before anything is appended.
        self.empty = asyncio.Event()
        self.empty.set()

    async def start(self) -> None:
        """Adopt what dead processes left, and begin to drain. A failing disk is a health issue, not an exception."""
        try:
            await self._blocking(self._segments.open)
        except OSError as error:
            self._runtime.health.report(_DISK, f"the spool cannot be written: {error.strerror}")
        self._weighed()
        if self._segments.bytes:
            self.empty.clear()
            self._wanted.set()
        self._tasks = [
            asyncio.create_task(self._drain(), name="spool"),
            asyncio.create_task(self._adopt(), name="spools of dead processes"),
        ]

    async def append(self, group: Sequence[Event]) -> None:
        """Write a group; on return it is on the disk. Raises `Overloaded` (full) or `StorageUnavailable` (disk failure)."""
        self.empty.clear()
        try:
            await self._blocking(self._segments.append, group)
        except ServiceError as error:
            self._runtime.health.report(_DISK, str(error))
            raise
        else:
            self._runtime.health.resolve(_DISK)
        finally:
            self._weighed()
            self._wanted.set()

    async def close(self) -> None:
        """Stop draining. The next process drains what is left."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._blocking(self._segments.close)
        self._thread.shutdown()

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

    async def _drain(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            with ErrorBoundary("spool.drain"):
                while not await self._drained():
                    await self._runtime.clock.sleep(_AGAIN)

    async def _adopt(self) -> None:
        """Adopt the folders of processes that die while this one lives."""
        while True:
            await asyncio.sleep(_ADOPT)
            with ErrorBoundary("spool.adopt"), suppress(OSError):  # `append` reports a failing disk
                await self.recheck()
                await self.adopt()

    async def adopt(self) -> None:
        """Adopt what dead processes left, and drain it. Raises OSError."""
        if await self._blocking(self._segments.adopt):
            self.empty.clear()
            self._wanted.set()
        self._weighed()

    async def recheck(self) -> None:
        """Resolve the health issues about the disk if it works again."""
        issues = self._runtime.health.issues
        if _DISK in issues:
            with suppress(OSError, ServiceError):
                await self._blocking(self._segments.probe)
                self._runtime.health.resolve(_DISK)
        if _PASSED in issues:
            await self._blocking(self._segments.retry)
            self.empty.clear()
            self._wanted.set()

    async def _drained(self) -> bool:
        """Drain until the spool is empty. Returns False if Postgres or the disk fails."""
        try:
            while not self.empty.is_set():
                if await self._drain_segments(await self._complete(), _WITHIN) <= _FEW:
                    await self._drain_the_rest()
        except StorageError as error:
            self.postgres_is_away(error)
            return False
        except OSError as error:
            self._runtime.health.report(_DISK, f"the spool cannot be read: {error.strerror}")
            return False
        if not self._segments.passed:
            self._runtime.health.resolve(_PASSED)
        return True

    async def _drain_the_rest(self) -> None:
        """Drain everything while nothing is appended. Postgres may take as long as for any new group."""
        async with self.turn:
            while segments := await self._complete():
                await self._drain_segments(segments, self._last_within)
            self.empty.set()

    async def _complete(self) -> list[Path]:
        return await self._blocking(self._segments.complete)

    async def _drain_segments(self, segments: Sequence[Path], within: float) -> int:
        """Drain segments one after another. Returns how many events they held."""
        return sum([await self._drain_segment(segment, within) for segment in segments])

    async def _drain_segment(self, segment: Path, within: float) -> int:
        try:
            contents = await self._blocking(self._segments.read, segment)
        except OSError as error:
            # One unreadable segment must not hold up the others, or new callbacks.
            self._pass_over(segment, f"cannot be read ({error.strerror}); it is tried again every {_ADOPT:g} seconds")
            return 0
        for group in _groups(contents.events):
            await self._writer.store(group, within=within)
            self.postgres_is_there()
        if contents.unreadable:
            # After a kill this is a group that was not acknowledged. It may also be a faulty disk.
            log.warning("spool.unreadable", segment=segment.name, bytes=contents.unreadable, outcome="file kept")
        try:
            await self._blocking(lambda: self._segments.remove(segment, keep_file=contents.unreadable > 0))
        except OSError as error:
            self._pass_over(segment, f"is in Postgres and cannot be removed ({error.strerror})")
        else:
            self._runtime.health.resolve(_DISK)
        self._weighed()
        log.info("spool.drained", segment=segment.name, events=len(contents.events))
        return len(contents.events)

    def _pass_over(self, segment: Path, why: str) -> None:
        self._segments.pass_over(segment)
        text = f"{segment.parent.name}/{segment.name} {why}"
        if self._runtime.health.issues.get(_PASSED) != text:
            log.error("spool.segment", segment=segment.name, outcome="passed over", error=why)
        self._runtime.health.report(_PASSED, text)

    async def _blocking(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args, **kwargs))

    def _weighed(self) -> None:
        self._runtime.metrics.spooled.set(self._segments.bytes)


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
            # Postgres may work although the disk fails. Then a VM's callbacks may overtake those in the spool, which
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

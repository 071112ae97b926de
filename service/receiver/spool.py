"""The spool: where callbacks wait while Postgres is away, and how they get into the record when it is back.

While anything waits here, everything new has to come here too, and waits its turn. It costs a callback a moment to be
applied later, and it keeps the order: what was heard first is in the record first, so that no VM's callbacks overtake
each other on the way. (Sorting by time of arrival would not do: the worker applies what it can see.)

Where callbacks never pause there is always a last one that came while the one before it was drained. So when little is
left, what comes in waits a moment for its turn, the rest is drained, and Postgres is used again.

An event is written to the record as often as it takes, and is there once: its key was given when it arrived.
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

#: What is said in `/readyz`: callbacks wait for Postgres; the disk does not take them; it does not give one back.
_WAITS: Final = "spool"
_DISK: Final = "spool disk"
_PASSED: Final = "spool segment"
#: Seconds between looks whether Postgres is back.
_AGAIN: Final = 0.5
#: What the drain writes at once, and how long, in seconds, Postgres may take for it. It is patient: nobody waits for
#: its answer, and giving up on a slow Postgres would only make it slower.
_AT_ONCE: Final = 1000
_WITHIN: Final = 30.0
#: Seconds between looks for folders whose processes have died (the next process of their daemon adopts them when it
#: starts, but there may be none), and whether a disk that failed works again.
_ADOPT: Final = 10.0
#: A pass that drained no more than so many events has caught up: what came meanwhile is fewer still.
_FEW: Final = _AT_ONCE


class Spool:
    """Keeps groups on the disk and drains them in their order. Its files are handled by one thread, one at a time."""

    def __init__(self, runtime: Runtime, writer: EventWriter) -> None:
        self._runtime = runtime
        self._writer = writer
        self._segments = Segments(runtime.settings.data_dir / "spool", most_bytes=runtime.settings.spool_max_bytes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._last_within = runtime.settings.spool_after_seconds
        #: Held by who keeps a group, and by the drain for its last stretch: a moment, in which nothing is appended.
        self.turn = asyncio.Lock()
        #: Set while nothing waits here. Cleared before anything is appended.
        self.empty = asyncio.Event()
        self.empty.set()

    async def start(self) -> None:
        """Adopt what dead processes left, and begin to drain. A disk that will not have us is said, not raised."""
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
            asyncio.create_task(self._adopt(), name="spools of the dead"),
        ]

    async def append(self, group: Sequence[Event]) -> None:
        """Keep a group; on return it is on the disk. Raises `Overloaded` (full) or `StorageUnavailable` (the disk)."""
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
        """Stop draining. What waits is found again by the next process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._blocking(self._segments.close)
        self._thread.shutdown()

    def postgres_is_away(self, error: StorageError) -> None:
        """Say why the spool is used; in the log once, until Postgres is back."""
        if _WAITS not in self._runtime.health.issues:
            log.warning("spool.begun", error=str(error))
        self._runtime.health.report(_WAITS, f"callbacks wait for Postgres: {error}")

    def postgres_is_there(self, received: int = 0) -> None:
        """Say that a group was just stored, `received` of it straight from the provider, and let the workers know."""
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
        """Take on, again and again, what processes leave that die while we live."""
        while True:
            await asyncio.sleep(_ADOPT)
            with ErrorBoundary("spool.adopt"), suppress(OSError):  # a disk that fails says so where it is written to
                await self.recheck()
                await self.adopt()

    async def adopt(self) -> None:
        """Take on what dead processes have left, and drain it. Raises OSError."""
        if await self._blocking(self._segments.adopt):
            self.empty.clear()
            self._wanted.set()
        self._weighed()

    async def recheck(self) -> None:
        """Resolve the health issues of the disk if it works again: a full or read-only disk may have been mended."""
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
        """One pass over what waits. False means that Postgres, or the disk, would not have it yet."""
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
        """Drain everything while nothing is appended, and be empty. Postgres gets as long as for any new group."""
        async with self.turn:
            while segments := await self._complete():
                await self._drain_segments(segments, self._last_within)
            self.empty.set()

    async def _complete(self) -> list[Path]:
        return await self._blocking(self._segments.complete)

    async def _drain_segments(self, segments: Sequence[Path], within: float) -> int:
        """Drain segments one after another; how many events they held."""
        return sum([await self._drain_segment(segment, within) for segment in segments])

    async def _drain_segment(self, segment: Path, within: float) -> int:
        try:
            contents = await self._blocking(self._segments.read, segment)
        except OSError as error:
            # One that the disk does not give must hold up neither those behind it nor what comes in.
            self._pass_over(segment, f"cannot be read ({error.strerror}); it is tried again every {_ADOPT:g} seconds")
            return 0
        for group in _groups(contents.events):
            await self._writer.store(group, within=within)
            self.postgres_is_there()
        if contents.unreadable:
            # After a kill this is a group that nobody was told was kept. It may also be a disk that forgets.
            log.warning("spool.unreadable", segment=segment.name, bytes=contents.unreadable, outcome="put keep_file")
        try:
            await self._blocking(lambda: self._segments.remove(segment, keep_file=contents.unreadable > 0))
        except OSError as error:
            self._pass_over(segment, f"is in the record and cannot be removed ({error.strerror})")
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
    """Where the intake keeps its groups: in Postgres, or on the disk while Postgres is away or too slow."""

    def __init__(self, writer: EventWriter, spool: Spool, *, within: float) -> None:
        self._within = within
        self._writer = writer
        self._spool = spool

    async def store(self, group: Sequence[Event]) -> None:
        """Keep a group; on return it is durable. Raises `ServiceError` where neither would have it."""
        async with self._spool.turn:
            await self._store(group)

    async def _store(self, group: Sequence[Event]) -> None:
        in_order = self._spool.empty.is_set()
        if in_order and await self._is_stored(group):
            return
        try:
            await self._spool.append(group)
        except ServiceError:
            # What waits in the spool was heard first, and a VM's callbacks may now overtake each other: that costs a
            # reading. Turning them away would cost the callbacks, and Postgres may be well although the disk is not.
            if in_order or not await self._is_stored(group):
                raise

    async def _is_stored(self, group: Sequence[Event]) -> bool:
        """Whether Postgres has it now. If not, whatever the reason and even if it has: the spool can do no harm."""
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

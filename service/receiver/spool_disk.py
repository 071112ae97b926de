"""The local disk as the storage of the spool. One thread does all the file work."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from service.config import Settings
from service.errors import ServiceError
from service.receiver.error_boundary import log
from service.receiver.records import Contents
from service.receiver.segments import Segments
from service.runtime.health import Health
from service.storage.events import Event

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

#: The health issue if a segment cannot be read or removed.
_PASSED: Final = "spool segment"


class DiskStorage:
    """A `SpoolStorage`: segments in the data directory, of this process and of dead ones."""

    issue: Final = "spool disk"
    #: Seconds between checks for folders of dead processes, and for whether a disk that failed works again.
    look_seconds: Final = 10.0
    left: Final = 0

    def __init__(self, health: Health, settings: Settings, *, only_drains: bool = False) -> None:
        """`only_drains`: nothing is appended; what is left there by processes that died is drained."""
        self._health = health
        self._root = settings.data_dir / "spool"
        self._segments = Segments(self._root, most_bytes=settings.spool_max_bytes)
        self._only_drains = only_drains
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")

    @property
    def bytes(self) -> int:
        return self._segments.bytes

    async def open(self) -> None:
        """Adopt what dead processes left."""
        await (self.look() if self._only_drains else self.blocking(self._segments.open))

    async def append(self, group: Sequence[Event]) -> None:
        await self.blocking(self._segments.append, group)

    async def complete(self) -> Sequence["SegmentPart"]:
        found = await self.blocking(self._segments.complete)
        if not found and not self._segments.passed:
            self._health.resolve(_PASSED)
        return [SegmentPart(self, path) for path in found]

    async def is_drained(self) -> bool:
        return True

    async def look(self) -> bool:
        """Adopt the folders of processes that died since, and try again what failed."""
        if self._only_drains and not self._root.exists():
            return False
        if self.issue in self._health.issues and not self._only_drains:
            with suppress(OSError, ServiceError):
                await self.blocking(self._segments.probe)
                self._health.resolve(self.issue)
        again = _PASSED in self._health.issues
        if again:
            await self.blocking(self._segments.retry)
        found = await self.blocking(self._segments.adopt)
        if self._only_drains:
            self._health.resolve(self.issue)
        return found or again

    async def close(self) -> None:
        await self.blocking(self._segments.close)
        self._thread.shutdown()

    async def read(self, segment: Path) -> Contents | None:
        try:
            return await self.blocking(self._segments.read, segment)
        except OSError as error:
            # One unreadable segment must not hold up the others, or new callbacks.
            why = f"cannot be read ({error.strerror}); it is tried again every {self.look_seconds:g} seconds"
            self._pass_over(segment, why)
            return None

    async def remove(self, segment: Path, contents: Contents) -> None:
        if contents.unreadable:
            # After a kill this is a group that was not acknowledged. It may also be a faulty disk.
            log.warning("spool.unreadable", segment=segment.name, bytes=contents.unreadable, outcome="file kept")
        try:
            await self.blocking(lambda: self._segments.remove(segment, keep_file=contents.unreadable > 0))
        except OSError as error:
            self._pass_over(segment, f"is in Postgres and cannot be removed ({error.strerror})")
        else:
            self._health.resolve(self.issue)

    async def blocking(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args, **kwargs))

    def _pass_over(self, segment: Path, why: str) -> None:
        self._segments.pass_over(segment)
        text = f"{segment.parent.name}/{segment.name} {why}"
        if self._health.issues.get(_PASSED) != text:
            log.error("spool.segment", segment=segment.name, outcome="passed over", error=why)
        self._health.report(_PASSED, text)


class SegmentPart:
    """A `SpoolPart`: one file."""

    def __init__(self, disk: DiskStorage, path: Path) -> None:
        self._disk, self._path = disk, path

    @property
    def name(self) -> str:
        return self._path.name

    async def read(self) -> Contents | None:
        return await self._disk.read(self._path)

    async def remove(self, contents: Contents) -> None:
        await self._disk.remove(self._path, contents)

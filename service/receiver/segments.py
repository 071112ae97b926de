"""The spool's files: append-only segments, in one folder for each process. Blocking; for one thread at a time.

Several processes may share the root. Each locks a file in its own folder while it lives. A folder whose lock is free
belonged to a process that died, and is adopted. Folders are created, adopted and removed under a lock in the root.
"""

import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from service.errors import Overloaded, StorageUnavailable
from service.files import sync_folder
from service.receiver.records import HEADER_BYTES, SALT_BYTES, Contents, header, pack, unpack
from service.storage.events import Event

#: Segments of this size are complete.
SEGMENT_BYTES: Final = 8 * 2**20
_SEGMENT: Final = ".segment"
_PROBE_BYTES: Final = 64 * 1024
_MICROSECONDS: Final = 1_000_000


class Segments:
    """The segments of this process, and of dead processes whose folders it adopted."""

    def __init__(self, root: Path, *, most_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._root = root
        self._most_bytes = most_bytes
        self._segment_bytes = segment_bytes
        self._folders: dict[Path, int] = {}  # folder -> descriptor that holds its lock
        self._own: Path | None = None
        self._active: _Active | None = None
        #: Segments that `complete` leaves out.
        self.passed: set[Path] = set()
        self.bytes = 0

    def open(self) -> None:
        """Create our own folder if there is none, and adopt those of dead processes. Raises OSError."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(self._root):
            if not self._has_its_own():
                own = Path(tempfile.mkdtemp(prefix="process-", dir=self._root))
                self._folders[own] = _lock(own)  # at once: others would adopt a folder that is not locked
                self._own = own
                sync_folder(self._root)
                sync_folder(self._root.parent)  # the root itself may be new
            self._adopt()
        self._weigh()

    def adopt(self) -> bool:
        """Adopt the folders of processes that died since. Returns whether there is anything to drain. Raises OSError."""
        with _locked(self._root):
            self._adopt()
        for folder in list(self._folders):
            self._leave(folder)
        self._weigh()
        return bool(self._complete())

    def append(self, group: Sequence[Event]) -> None:
        """Write a group; on return it is on the disk.

        Raises `Overloaded` if the spool is full and `StorageUnavailable` if the disk fails; part of the group may be
        in the spool even then.
        """
        try:
            active = self._active or self._begin(group[0])
            data = b"".join(pack(event, active.salt) for event in group)
            if self.bytes + len(data) > self._most_bytes:
                raise Overloaded("the spool is full")
            active.append(data)
        except OSError as error:
            # Nobody knows what the disk did with this write, so write nothing after it.
            self._finish()
            raise StorageUnavailable(f"the spool cannot be written: {error.strerror}") from error
        self.bytes += len(data)
        if active.size >= self._segment_bytes:
            self._finish()

    def complete(self) -> list[Path]:
        """Segments that will not be appended to again, oldest first: the full ones, or all if none is full.

        So a long outage makes few large segments, however often this is called.
        """
        found = self._complete()
        if not found:
            self._finish()
            found = self._complete()
        return found

    def read(self, segment: Path) -> Contents:
        """The contents of a complete segment. Raises OSError."""
        return unpack(segment.read_bytes())

    def pass_over(self, segment: Path) -> None:
        """Make `complete` skip a segment that cannot be read or removed, until `retry`."""
        self.passed.add(segment)

    def retry(self) -> None:
        """Make `complete` return skipped segments again."""
        self.passed.clear()

    def probe(self) -> None:
        """Test the disk by a write. Raises OSError if it fails, `Overloaded` if the spool is full."""
        if not self._has_its_own() or self._own is None:
            self.open()
        if self._own is None:
            raise AssertionError("unreachable: open makes a folder or raises")
        if self.bytes >= self._most_bytes:
            raise Overloaded("the spool is full")
        with tempfile.TemporaryFile(dir=self._own) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())

    def remove(self, segment: Path, *, keep_file: bool) -> None:
        """Remove a segment whose events are in Postgres. `keep_file` renames the file instead, for people to inspect."""
        if keep_file:
            segment.rename(self._root / f"{segment.stem}.damaged")
        else:
            segment.unlink(missing_ok=True)
        self._leave(segment.parent)
        self._weigh()

    def close(self) -> None:
        """Release the folders. The next process drains what is left in them."""
        self._finish()
        self._own = None
        with suppress(OSError):  # an empty folder that stays does no harm
            for folder in list(self._folders):
                self._leave(folder)
        for lock in self._folders.values():
            os.close(lock)
        self._folders.clear()

    def _has_its_own(self) -> bool:
        return self._own is not None and self._own in self._folders and self._own.exists()

    def _adopt(self) -> None:
        """Lock the folders of dead processes. The root is locked, so every new folder has its lock by now."""
        for folder in self._root.glob("process-*"):
            if folder not in self._folders:
                # Its process lives, or the disk fails; then try again later.
                with suppress(OSError):
                    self._folders[folder] = _lock(folder, wait=False)

    def _begin(self, first: Event) -> "_Active":
        if not self._has_its_own():
            self.open()
        if self._own is None:
            raise AssertionError("unreachable: open makes a folder or raises")
        # Names sort by time, across all folders.
        name = f"{int(first.received_at.timestamp() * _MICROSECONDS):018d}-{secrets.token_hex(4)}{_SEGMENT}"
        self._active = _Active(self._own / name)
        self.bytes += self._active.size
        return self._active

    def _complete(self) -> list[Path]:
        found = (path for folder in self._folders for path in folder.glob(f"*{_SEGMENT}"))
        out = self.passed if self._active is None else {*self.passed, self._active.path}
        return sorted((path for path in found if path not in out), key=lambda path: path.name)

    def _finish(self) -> None:
        active, self._active = self._active, None
        if active is not None:
            active.close()

    def _leave(self, folder: Path) -> None:
        """Remove a folder that is not ours (any more) and holds no segment."""
        if folder == self._own or any(folder.glob(f"*{_SEGMENT}")):
            return
        with _locked(self._root):
            os.close(self._folders.pop(folder))
            (folder / "lock").unlink(missing_ok=True)
            with suppress(OSError):  # it holds a file that is not ours
                folder.rmdir()

    def _weigh(self) -> None:
        self.bytes = sum(path.stat().st_size for folder in self._folders for path in folder.glob(f"*{_SEGMENT}"))


class _Active:
    """The segment that is appended to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.salt = secrets.token_bytes(SALT_BYTES)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = 0
        try:
            self.append(header(self.salt))
            sync_folder(path.parent)
        except OSError:
            self.size = 0
            self.close()
            raise

    def append(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        os.fsync(self._descriptor)
        self.size += len(data)

    def close(self) -> None:
        """Cut off a partial write. Removes the segment if it holds no record."""
        with suppress(OSError):  # if the disk fails, `unpack` copes with what is left
            os.ftruncate(self._descriptor, self.size)
            if self.size <= HEADER_BYTES:
                self.path.unlink()
        os.close(self._descriptor)


def _lock(folder: Path, *, wait: bool = True) -> int:
    """A descriptor that holds the folder's lock until it is closed. Raises BlockingIOError if it must not wait."""
    descriptor = os.open(folder / "lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = _lock(folder)
    try:
        yield
    finally:
        os.close(descriptor)

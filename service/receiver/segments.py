"""The spool's files: append-only segments in a folder for each process. Everything here blocks; one thread at a time.

Several processes may share the root. Each holds a file lock in its own folder for as long as it lives; a folder
whose lock can be had belonged to a process that died, and is adopted. A lock in the root is held for the moment
in which folders are made, adopted and removed.
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

#: A segment that has grown to this is not appended to; the next one is begun.
SEGMENT_BYTES: Final = 8 * 2**20
_SEGMENT: Final = ".segment"
_PROBE_BYTES: Final = 64 * 1024
_MICROSECONDS: Final = 1_000_000


class Segments:
    """The segments of this process, and of the dead ones whose folders it has adopted."""

    def __init__(self, root: Path, *, most_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._root = root
        self._most_bytes = most_bytes
        self._segment_bytes = segment_bytes
        self._folders: dict[Path, int] = {}  # and the descriptor that holds the lock
        self._own: Path | None = None
        self._active: _Active | None = None
        #: Segments that `complete` leaves out.
        self.passed: set[Path] = set()
        self.bytes = 0

    def open(self) -> None:
        """Make a folder of our own where there is none, and adopt those of the dead. Raises OSError."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(self._root):
            if not self._has_its_own():
                own = Path(tempfile.mkdtemp(prefix="process-", dir=self._root))
                self._folders[own] = _lock(own)  # first: without its lock, others would take it for a dead one's
                self._own = own
                sync_folder(self._root)
                sync_folder(self._root.parent)  # where the root itself may be new
            self._adopt()
        self._weigh()

    def adopt(self) -> bool:
        """Adopt the folders of processes that have died since; whether something waits to be drained. Raises OSError."""
        with _locked(self._root):
            self._adopt()
        for folder in list(self._folders):
            self._leave(folder)
        self._weigh()
        return bool(self._complete())

    def append(self, group: Sequence[Event]) -> None:
        """Write a group; on return it is on the disk.

        Raises `Overloaded` where the spool is full and `StorageUnavailable` where the disk will not have it; then
        part of the group may be found in the spool later all the same.
        """
        try:
            active = self._active or self._begin(group[0])
            data = b"".join(pack(event, active.salt) for event in group)
            if self.bytes + len(data) > self._most_bytes:
                raise Overloaded("the spool is full")
            active.append(data)
        except OSError as error:
            # Whatever the disk did with the write, nothing is to be written behind it.
            self._finish()
            raise StorageUnavailable(f"the spool cannot be written: {error.strerror}") from error
        self.bytes += len(data)
        if active.size >= self._segment_bytes:
            self._finish()

    def complete(self) -> list[Path]:
        """Segments that will not be appended to again, oldest first: those that are full, or else all there are.

        So what waits through a long outage grows in few large segments, however often somebody looks.
        """
        found = self._complete()
        if not found:
            self._finish()
            found = self._complete()
        return found

    def read(self, segment: Path) -> Contents:
        """What a complete segment holds. Raises OSError."""
        return unpack(segment.read_bytes())

    def pass_over(self, segment: Path) -> None:
        """Have `complete` leave out a segment that the disk will not give or let go of, until `retry`."""
        self.passed.add(segment)

    def retry(self) -> None:
        """Have `complete` name the segments again that were passed over."""
        self.passed.clear()

    def probe(self) -> None:
        """Write something and remove it. Raises OSError if the disk will not have it, `Overloaded` if the spool is full."""
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
        """Forget a segment whose events are in the record. `keep_file` keeps the file, under another name: for people."""
        if keep_file:
            segment.rename(self._root / f"{segment.stem}.damaged")
        else:
            segment.unlink(missing_ok=True)
        self._leave(segment.parent)
        self._weigh()

    def close(self) -> None:
        """Let go of the folders. What is still in them waits for the next process."""
        self._finish()
        self._own = None
        with suppress(OSError):  # at the end, a folder more or less is nothing to fail for
            for folder in list(self._folders):
                self._leave(folder)
        for lock in self._folders.values():
            os.close(lock)
        self._folders.clear()

    def _has_its_own(self) -> bool:
        return self._own is not None and self._own in self._folders and self._own.exists()

    def _adopt(self) -> None:
        """Lock the folders whose processes have died. The root is locked: no folder is without a lock for lack of time."""
        for folder in self._root.glob("process-*"):
            if folder not in self._folders:
                # Its process lives; or it cannot be had now, and is tried again: what was had so far is not held up.
                with suppress(OSError):
                    self._folders[folder] = _lock(folder, wait=False)

    def _begin(self, first: Event) -> "_Active":
        if not self._has_its_own():
            self.open()
        if self._own is None:
            raise AssertionError("unreachable: open makes a folder or raises")
        # The name sorts by time, over all folders: the event that begins it was heard after all before it.
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
        """Remove the folder of a dead process, or ours at the end, if nothing waits in it."""
        if folder == self._own or any(folder.glob(f"*{_SEGMENT}")):
            return
        with _locked(self._root):
            os.close(self._folders.pop(folder))
            (folder / "lock").unlink(missing_ok=True)
            with suppress(OSError):  # somebody put something of theirs into it
                folder.rmdir()

    def _weigh(self) -> None:
        self.bytes = sum(path.stat().st_size for folder in self._folders for path in folder.glob(f"*{_SEGMENT}"))


class _Active:
    """The segment that is being appended to."""

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
        """Leave the segment without what was written in part, and no segment where nothing was written at all."""
        with suppress(OSError):  # on a disk that fails, what remains is read as what it is
            os.ftruncate(self._descriptor, self.size)
            if self.size <= HEADER_BYTES:
                self.path.unlink()
        os.close(self._descriptor)


def _lock(folder: Path, *, wait: bool = True) -> int:
    """A descriptor that holds the folder's lock until it is closed. Raises BlockingIOError where it may not wait."""
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

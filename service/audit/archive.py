"""Writes events to a file of compressed JSON lines, with a manifest next to it. Blocking.

A file gets its name only when it is complete, on disk and was read back; the manifest is written last. No file is ever
overwritten. Each group of events is a gzip member of its own, so that an interrupted file is continued after its last
whole member.
"""

import base64
import fcntl
import gzip
import hashlib
import os
import secrets
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final, Self
from uuid import UUID

import orjson

from service.files import sync_folder, write_whole
from service.storage.events import Event

_PIECE: Final = 2**20
_GZIP: Final = 31  # zlib's number for the gzip format


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a file holds: the number of its events, their times, and its size and SHA-256."""

    file: str
    events: int
    first: datetime | None
    last: datetime | None
    bytes: int
    sha256: str


class Archive:
    """A file that is being written. End with `finish` or `leave`, which does nothing after `finish`."""

    def __init__(self, raw: BinaryIO, part: Path) -> None:
        """Continue the unfinished file `part`, which is open and locked as `raw`, after its last whole member."""
        self._raw, self._part = raw, part
        self._path = part.with_name(part.name.removeprefix(".").removesuffix(".part"))
        self._count = 0
        self._first: datetime | None = None
        self._last: datetime | None = None
        #: The key of the last event written: continue after it.
        self.after: tuple[UUID, datetime, UUID] | None = None
        whole = 0
        for content, end in _whole_members(raw):
            whole = end
            for line in content.splitlines():
                event = orjson.loads(line)
                received_at = datetime.fromisoformat(event["received_at"])
                self._note((UUID(event["submission_id"]), received_at, UUID(event["event_id"])))
        raw.truncate(whole)
        raw.seek(whole)

    @classmethod
    def begin(cls, folder: Path, name: str) -> Self:
        """Create a file in `folder`, and the folder if it is missing. Raises OSError."""
        _make_durably(folder)
        # A random name, so that files of other databases stay.
        part = folder / f".{name}-{secrets.token_hex(4)}.jsonl.gz.part"
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return cls(os.fdopen(descriptor, "r+b"), part)

    @classmethod
    def resume(cls, folder: Path, name: str, *, first: UUID) -> Self | None:
        """The interrupted file with this name that begins with the event `first`, if no living process writes it.

        Raises OSError.
        """
        unfinished = sorted(folder.glob(f".{name}-*.jsonl.gz.part"))
        unfinished += [path for path in sorted(folder.glob(f"{name}-*.jsonl.gz")) if not _manifest_of(path).exists()]
        for path in unfinished:
            raw = path.open("r+b")
            if _lock(raw) and _begins_with(raw) == str(first):
                part = path if path.suffix == ".part" else path.rename(folder / f".{path.name}.part")
                return cls(raw, part)
            raw.close()
        return None

    def write(self, events: Sequence[Event]) -> None:
        """Add a line for each event, as one member."""
        lines = b"".join(orjson.dumps(as_line(event), option=orjson.OPT_UTC_Z) + b"\n" for event in events)
        self._raw.write(gzip.compress(lines, mtime=0))
        self._raw.flush()
        for event in events:
            self._note(event.key)

    def finish(self) -> Manifest:
        """Flush the file to disk, read it back, and name it. Raises OSError if it is not what was written."""
        os.fsync(self._raw.fileno())
        try:
            if (lines := _lines_of(self._part)) != self._count:
                raise OSError(f"{lines} lines were read back of {self._count} that were written")
        except OSError:
            self._part.unlink()
            raise
        manifest = Manifest(
            file=self._path.name,
            events=self._count,
            first=self._first,
            last=self._last,
            bytes=self._part.stat().st_size,
            sha256=_sha256_of(self._part),
        )
        self._part.rename(self._path)
        write_whole(_manifest_of(self._path), orjson.dumps(asdict(manifest)) + b"\n")
        self._raw.close()
        return manifest

    def leave(self) -> None:
        """Close an unfinished file, to be continued by `resume`. One without events is removed."""
        if not self._raw.closed:
            if not self._count:
                self._part.unlink(missing_ok=True)
            with suppress(OSError):
                self._raw.close()

    def _note(self, key: tuple[UUID, datetime, UUID]) -> None:
        _, received_at, _ = self.after = key
        self._count += 1
        self._first = min(received_at, self._first or received_at)
        self._last = max(received_at, self._last or received_at)


def finished(folder: Path, name: str, *, first: Event, events: int) -> Manifest | None:
    """The manifest of an earlier file with this name that begins with `first`, has `events` events and is intact on disk.

    Raises OSError.
    """
    for path in sorted(folder.glob(f"{name}-*.jsonl.gz.json")):
        found = orjson.loads(path.read_bytes())
        file = folder / found["file"]
        if found["events"] != events or not file.exists() or _sha256_of(file) != found["sha256"]:
            continue
        with gzip.open(file, "rb") as lines:
            begins = orjson.loads(lines.readline())["event_id"] == str(first.event_id)
        if begins:
            times = {field: found[field] and datetime.fromisoformat(found[field]) for field in ("first", "last")}
            return Manifest(**(found | times))
    return None


def as_line(event: Event) -> dict[str, object]:
    """An event as a JSON object: the body in base64, since it may be any bytes, the digest in hex."""
    return {
        "submission_id": str(event.submission_id),
        "received_at": event.received_at,
        "event_id": str(event.event_id),
        "creation_no": event.creation_no,
        "source": event.source,
        "body": base64.b64encode(event.body).decode(),
        "headers": event.headers,
        "peer": event.peer,
        "digest": event.digest.hex(),
    }


def _manifest_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _lock(file: BinaryIO) -> bool:
    """Whether nobody else has the file locked. Its lock ends with the process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _begins_with(file: BinaryIO) -> str | None:
    """The id of the first event of an unfinished file. Leaves the file at its beginning."""
    content, _ = next(_whole_members(file), (b"", 0))
    file.seek(0)
    return str(orjson.loads(content[: content.index(b"\n")])["event_id"]) if content else None


def _whole_members(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The content of each gzip member that is whole and sound, and where it ends, until the first that is not."""
    member, content, rest = zlib.decompressobj(_GZIP), bytearray(), b""
    while piece := rest or file.read(_PIECE):
        try:
            content += member.decompress(piece)
        except zlib.error:
            return
        rest = member.unused_data
        if member.eof:
            yield bytes(content), file.tell() - len(rest)
            member, content = zlib.decompressobj(_GZIP), bytearray()


def _lines_of(path: Path) -> int:
    lines = 0
    try:
        with gzip.open(path, "rb") as file:
            while piece := file.read(_PIECE):
                lines += piece.count(b"\n")
    except EOFError as error:
        raise OSError("what was written cannot be read back") from error
    return lines


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make_durably(folder: Path) -> None:
    """Create a folder and its missing parents, so that they survive a power cut."""
    if folder.exists():
        return
    _make_durably(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)

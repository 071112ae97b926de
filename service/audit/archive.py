"""Writes events to a file of compressed JSON lines, with a manifest next to it. Blocking.

A file gets its name only when it is complete, on disk and was read back; the manifest is written last. No file is ever
overwritten.
"""

import base64
import gzip
import hashlib
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import orjson

from service.files import sync_folder, write_whole
from service.storage.events import Event

_PIECE: Final = 2**20


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
    """A file that is being written. End with `finish` or `abandon`; abandoning a finished file does nothing."""

    def __init__(self, folder: Path, name: str) -> None:
        """Create a file in `folder`, and the folder if it is missing. Raises OSError."""
        _make_durably(folder)
        # A random name, so that files of dead processes and of other databases stay.
        self._path = folder / f"{name}-{secrets.token_hex(4)}.jsonl.gz"
        self._part = self._path.with_name(f".{self._path.name}.part")
        descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._raw = os.fdopen(descriptor, "wb")
        self._lines = gzip.GzipFile(filename="", mode="wb", fileobj=self._raw, mtime=0)
        self._count = 0
        self._first: datetime | None = None
        self._last: datetime | None = None

    def write(self, events: Sequence[Event]) -> None:
        """Add a line for each event."""
        for event in events:
            self._lines.write(orjson.dumps(as_line(event), option=orjson.OPT_UTC_Z) + b"\n")
            self._first = min(event.received_at, self._first or event.received_at)
            self._last = max(event.received_at, self._last or event.received_at)
        self._count += len(events)

    def finish(self) -> Manifest:
        """Flush the file to disk, read it back, and name it. Raises OSError if it is not what was written."""
        self._lines.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()
        if (lines := _lines_of(self._part)) != self._count:
            raise OSError(f"{lines} lines were read back of {self._count} that were written")
        manifest = Manifest(
            file=self._path.name,
            events=self._count,
            first=self._first,
            last=self._last,
            bytes=self._part.stat().st_size,
            sha256=_sha256_of(self._part),
        )
        self._part.rename(self._path)
        write_whole(self._path.with_name(f"{self._path.name}.json"), orjson.dumps(asdict(manifest)) + b"\n")
        return manifest

    def abandon(self) -> None:
        """Remove the unfinished file."""
        with suppress(OSError):
            self._lines.close()
        with suppress(OSError):
            self._raw.close()
        with suppress(OSError):
            self._part.unlink(missing_ok=True)


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

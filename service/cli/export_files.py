"""The files of an export as they are written: what is there is always whole rows, and the manifest says how far it is.

A file that is not finished has the suffix `.part`. The manifest is written anew every few seconds and whenever the export
ends, for whatever reason.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import orjson

from service.audit.export_formats import Format, formatter
from service.audit.export_record import FORMAT, MANIFEST, name_of, read_manifest
from service.audit.export_tables import LOG, cursor_of
from service.errors import ExportInvalid
from service.files import write_whole

#: Seconds of work that a power cut may cost.
_SAVED_EVERY: Final = 5.0
_PIECE: Final = 2**20


class Export:
    """An export in a directory. Use it as a context: leaving it saves how far it is."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self._open: _Part | None = None
        self._saved_at = time.monotonic()

    @classmethod
    def begin(cls, folder: Path, about: dict[str, Any]) -> Self:
        """A new one. Raises `ExportInvalid` if something is in the directory."""
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ExportInvalid(f"{folder} is not empty; --resume continues an export, or name another directory")
        made = cls(folder, {"export": FORMAT, "complete": False, **about, "files": {}, "unfinished": None})
        made.save()
        return made

    @classmethod
    def resume(cls, folder: Path) -> Self:
        """One that was broken off. Raises `ExportInvalid` if there is none, or if it is finished."""
        manifest = read_manifest(folder)
        if manifest["complete"]:
            raise ExportInvalid(f"{folder} is finished: there is nothing to resume")
        return cls(folder, manifest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.save()
        if self._open is not None:
            self._open.close()

    def write(self, table: str, rows: Callable[[str | None], Iterator[list[bytes]]]) -> None:
        """Write the file of a table, if it is not there yet. `rows` gives its lines behind a place."""
        kind: Format = "ndjson" if table in LOG else self.manifest["format"]
        name = name_of(table, kind)
        if name in self.manifest["files"]:
            return
        unfinished = self.manifest["unfinished"]
        said = unfinished if unfinished and unfinished["file"] == name and kind != "parquet" else None
        part = self._open = _Part(self.folder / f"{name}.part", said)
        made = formatter(kind, table, f"rollcall/{self.manifest['server']}")
        if said is None:
            part.write(made.begin(), [])
        for lines in rows(part.after):
            part.write(made.encode(lines), lines)
            part.after = cursor_of(table, orjson.loads(lines[-1]))
            if time.monotonic() - self._saved_at > _SAVED_EVERY:
                self.save()
        part.write(made.end(), [])
        self._finish(name, part)

    def _finish(self, name: str, part: "_Part") -> None:
        part.sync()
        part.close()
        self._open = self.manifest["unfinished"] = None
        part.path.rename(self.folder / name)
        self.manifest["files"][name] = {"rows": part.rows, "bytes": part.bytes, "sha256": part.digest.hexdigest()}
        self.save()

    def finish(self) -> None:
        self.manifest["complete"] = True

    def save(self) -> None:
        """Write the manifest, durably, once what it says is durable."""
        part = self._open
        if part is not None:
            part.sync()
            self.manifest["unfinished"] = {
                "file": part.path.name.removesuffix(".part"), "rows": part.rows, "bytes": part.bytes, "after": part.after,
            }  # fmt: skip
        write_whole(self.folder / MANIFEST, orjson.dumps(self.manifest, option=orjson.OPT_INDENT_2) + b"\n")
        self._saved_at = time.monotonic()


class _Part:
    """A file that is being written, from where the manifest says that it was whole."""

    def __init__(self, path: Path, said: dict[str, Any] | None) -> None:
        self.path = path
        self.rows: int = said["rows"] if said else 0
        self.bytes: int = said["bytes"] if said else 0
        self.after: str | None = said["after"] if said else None
        self.digest = hashlib.sha256()
        self._file = path.open("r+b" if said else "wb")
        if said:
            self._continue()

    def _continue(self) -> None:
        if os.fstat(self._file.fileno()).st_size < self.bytes:
            raise ExportInvalid(f"{self.path.name} is truncated: delete the directory and export anew")
        self._file.truncate(self.bytes)
        while piece := self._file.read(_PIECE):
            self.digest.update(piece)

    def write(self, data: bytes, lines: list[bytes]) -> None:
        self._file.write(data)
        self.digest.update(data)
        self.bytes += len(data)
        self.rows += len(lines)

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

"""An export as verification reads it (`SealedRecord`): its rows, and the log that it was sealed into. Reads files only.

The leaf of each row is computed again from what the file holds. A row in which something sealed was struck out has the
hash of its leaf instead: that such a row was sealed is proved, what it held is not.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

import orjson
from sqlalchemy.types import Text

from service.audit.export import body_matches, hash_of, value_of
from service.audit.export_formats import LEAF_HASH, STRUCK_OUT, SUFFIXES
from service.audit.export_tables import LOG, order_of
from service.audit.findings import Examples, named
from service.audit.leaf import key_of
from service.audit.live import Row
from service.audit.merkle import TileId, Tiles, leaf_hash
from service.errors import ExportInvalid
from service.storage import leaf_sql
from service.storage.leaf_sql import SEALED, TIMES
from service.storage.seals import DroppedMonth, Log, Seal, StoredCheckpoint, XactSnapshot
from service.storage.tables import metadata

Value = TypeVar("Value")
MANIFEST: Final = "manifest.json"
FORMAT: Final = "rollcall-export/1"
_AT_ONCE: Final = 1000
_PIECE: Final = 2**20
#: Formats that hold a row so that its leaf can be computed again.
_EXACT: Final = ("ndjson", "cloudevents")


@dataclass(slots=True)
class ExportRecord:
    """A finished export. `manifest` is what its manifest says."""

    folder: Path
    manifest: dict[str, Any]
    log: Log
    sealed: XactSnapshot | None = None
    wrong: list[str] = field(default_factory=list)  #: files that are not what the manifest says
    struck_out: Examples = field(default_factory=Examples)  #: rows that hold less than was sealed
    misplaced: list[str] = field(default_factory=list)  #: rows that come after one that an export has later
    _tiles: dict[tuple[int, int], int] = field(default_factory=dict)
    _seals: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)

    def expects(self, table: str, key: str) -> bool:
        """Whether a row of the log belongs into the export. Not every key tells whether its row is of the period."""
        try:
            return self._expects(table, json.loads(key))
        except (TypeError, ValueError):
            return True  # no row has such a key

    def _expects(self, table: str, values: list[Any]) -> bool:
        names = leaf_sql.of(table).key
        row = dict(zip(names, values, strict=False))
        submission_id = self.manifest["submission_id"]
        if submission_id is not None and row.get("submission_id", submission_id) != submission_id:
            return False
        since, until = self.manifest["since"], self.manifest["until"]
        if (since is None and until is None) or table in {"log_keys", "dropped_months"}:
            return True
        time = row.get(TIMES[table])
        if time is None:
            return False  # it may be of the period, or not
        at = datetime.fromisoformat(time)
        began = since is None or table in {"prices", "contract_discounts"} or at >= datetime.fromisoformat(since)
        return began and (until is None or at < datetime.fromisoformat(until))

    async def checkpoints(self) -> list[StoredCheckpoint]:
        def read(row: dict[str, Any]) -> StoredCheckpoint:
            return StoredCheckpoint(self.log.log_id, row["size"], row["note"], datetime.fromisoformat(row["signed_at"]))

        return list(self._each("checkpoints", read))

    async def tiles(self, wanted: Iterable[TileId]) -> Tiles:
        with self._path("log_tiles").open("rb") as file:
            found = {}
            for one in wanted:
                if one in self._tiles:
                    file.seek(self._tiles[one])
                    row = self._row("log_tiles", file.readline())
                    found[one.level, one.number] = self._as("log_tiles", lambda row: bytes.fromhex(row["hashes"]), row)
            return found

    async def seals(self) -> AsyncIterator[Seal]:
        for seal in self._each("seals", _seal):
            yield seal

    async def seals_by_transaction(self, table: str) -> AsyncIterator[Seal]:
        with self._path("seals").open("rb") as file:
            for _, _, offset in sorted(self._seals.get(table, ())):
                file.seek(offset)
                yield self._as("seals", _seal, self._row("seals", file.readline()))

    async def rows(self, table: str) -> AsyncIterator[list[Row]]:
        page: list[Row] = []
        for row in self._each(table, partial(self._sealed_row, table, _InOrder(table))):
            page.append(row)
            if len(page) == _AT_ONCE:
                yield page
                page = []
        if page:
            yield page

    async def existing(self, table: str, keys: Collection[str]) -> set[str]:
        wanted = set(keys)
        return {key for key in self._each(table, partial(_key, table)) if key in wanted}

    async def dropped_months(self) -> list[DroppedMonth]:
        def read(row: dict[str, Any]) -> DroppedMonth:
            return DroppedMonth(datetime.fromisoformat(row["month"]), datetime.fromisoformat(row["dropped_at"]))

        return list(self._each("dropped_months", read))

    async def keys(self) -> list[str]:
        return list(self._each("log_keys", lambda row: str(row["verifier_key"])))

    def index(self) -> None:
        """Find the places of what is not read in the order of its file."""
        for row, offset in self._lines("log_tiles"):
            self._tiles[self._as("log_tiles", lambda row: (int(row["level"]), int(row["tile_no"])), row)] = offset
        for row, offset in self._lines("seals"):
            seal = self._as("seals", _seal, row)
            self._seals.setdefault(seal.table_name, []).append((seal.first_xact, seal.first_leaf, offset))

    def _sealed_row(self, table: str, in_order: "_InOrder", row: dict[str, Any]) -> Row:
        key, hash_ = _key(table, row), _hash(table, row)
        if not in_order.follows(row) and len(self.misplaced) < _AT_ONCE:
            self.misplaced.append(f"{named(table, key)} comes after a later one in {self._path(table).name}")
        if row.get(STRUCK_OUT):
            self.struck_out.add(f"{named(table, key)}: {', '.join(row[STRUCK_OUT])}")
        return Row(int(row["xact_id"]), key, hash_, datetime.fromisoformat(row[TIMES[table]]))

    def _each(self, table: str, read: Callable[[dict[str, Any]], Value]) -> Iterator[Value]:
        return (self._as(table, read, row) for row, _ in self._lines(table))

    def _as(self, table: str, read: Callable[[dict[str, Any]], Value], row: dict[str, Any]) -> Value:
        """A row as `read` understands it. Raises `ExportInvalid` if it does not: the file names what is damaged."""
        try:
            return read(row)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ExportInvalid(f"{self._path(table).name} holds a line that is no row of {table}") from None

    def _lines(self, table: str) -> Iterator[tuple[dict[str, Any], int]]:
        with self._path(table).open("rb") as file:
            offset = 0
            for line in file:
                yield self._row(table, line), offset
                offset += len(line)

    def _row(self, table: str, line: bytes) -> dict[str, Any]:
        try:
            row = orjson.loads(line)
            if self.manifest["format"] == "cloudevents" and table not in LOG:
                row = row["data"]
            return dict(row)
        except (ValueError, TypeError, KeyError):
            raise ExportInvalid(f"{self._path(table).name} holds a line that is no row of {table}") from None

    def _path(self, table: str) -> Path:
        return self.folder / name_of(table, self.manifest["format"])


class _InOrder:
    """Whether the rows of a file come in an export's order, as far as its columns have an order that no database chooses."""

    def __init__(self, table: str) -> None:
        columns = metadata.tables[table].c
        self._table = table
        self._names = list(takewhile(lambda name: not isinstance(columns[name].type, Text), order_of(table)))
        self._last: tuple[Any, ...] = ()

    def follows(self, row: dict[str, Any]) -> bool:
        place = tuple(value_of(self._table, name, row[name]) for name in self._names)
        before, self._last = self._last, place
        return before <= place


def name_of(table: str, kind: str) -> str:
    """The file of a table. Those of the log are always NDJSON."""
    return f"{table}.{SUFFIXES['ndjson' if table in LOG else kind]}"


def open_export(folder: Path) -> ExportRecord:
    """An export, with its files compared with its manifest. Raises `ExportInvalid` with everything that is wrong."""
    manifest = read_manifest(folder)
    try:
        return _opened(folder, manifest)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ExportInvalid(f"{folder / MANIFEST} is not the manifest of an export, or was changed") from None


def _opened(folder: Path, manifest: dict[str, Any]) -> ExportRecord:
    if not manifest["complete"]:
        raise ExportInvalid(f"{folder} is not finished; `rollcall export --resume` continues it")
    if manifest["format"] not in _EXACT:
        raise ExportInvalid(f"{manifest['format']} does not hold rows exactly; export as ndjson or cloudevents")
    if manifest["log"] is None:
        raise ExportInvalid("it holds no log: nothing was sealed yet, or it was exported with --no-log")
    wrong = _compare_all(folder, manifest)
    log = _log(manifest["log"])
    record = ExportRecord(folder, manifest, log, wrong=wrong)
    if manifest["server"] == log.server:
        with suppress(ValueError):
            record.sealed = log.sealed
    record.index()
    return record


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export. Raises `ExportInvalid` if there is none."""
    try:
        found = orjson.loads((folder / MANIFEST).read_bytes())
        if found["export"] == FORMAT and isinstance(found["files"], dict):
            return dict(found)
        raise ExportInvalid(f"{folder / MANIFEST} is no {FORMAT} but {str(found['export'])[:40]!r}")
    except FileNotFoundError:
        raise ExportInvalid(f"{folder} is no export: it has no {MANIFEST}") from None
    except (OSError, ValueError, TypeError, KeyError):
        raise ExportInvalid(f"{folder / MANIFEST} is not the manifest of an export, or is cut off") from None


def _compare_all(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """The files that are whole and not as they were written. Raises `ExportInvalid` if any is not whole, or foreign."""
    compared = {name: _compare(folder / name, said) for name, said in manifest["files"].items()}
    known = {*manifest["files"], MANIFEST}
    needed = {name_of(table, manifest["format"]) for table in (*SEALED, *LOG)}
    refused = [text for text, whole in compared.values() if text and not whole]
    refused += [f"{name} is missing in the manifest" for name in sorted(needed - known)]
    refused += [f"{one.name} is no file of this export" for one in sorted(folder.iterdir()) if one.name not in known]
    if refused:
        raise ExportInvalid("\n".join(refused))
    return [text for text, _ in compared.values() if text]


def _compare(path: Path, said: dict[str, Any]) -> tuple[str | None, bool]:
    """What is wrong with a file, and whether all of it is there."""
    if not path.exists():
        return f"{path.name} is missing", False
    size = path.stat().st_size
    if size < said["bytes"]:
        return f"{path.name} is truncated: it has {size} bytes of {said['bytes']}", False
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return (None if digest == said["sha256"] else f"{path.name} is not as it was written"), True


def _log(found: dict[str, Any]) -> Log:
    return Log(
        UUID(found["log_id"]), found["origin"], datetime.fromisoformat(found["begun_at"]), found["reason"],
        size=found["size"], server=found["server"], snapshot=found["snapshot"],
    )  # fmt: skip


def _seal(row: dict[str, Any]) -> Seal:
    return Seal(
        UUID(row["log_id"]), row["first_leaf"], row["rows"], row["table_name"], bytes.fromhex(row["row_keys"]),
        row["first_xact"], row["last_xact"], datetime.fromisoformat(row["sealed_at"]),
    )  # fmt: skip


def _key(table: str, row: dict[str, Any]) -> str:
    sql = leaf_sql.of(table)
    return key_of(sql, {name: value_of(table, name, row[name]) for name in sql.key})


def _hash(table: str, row: dict[str, Any]) -> bytes:
    struck = row.get(STRUCK_OUT) or ()
    if LEAF_HASH in row:
        return bytes.fromhex(row[LEAF_HASH])
    if table == "events" and "body" not in struck and not body_matches(row):
        return leaf_hash(b"")  # a body that is not what its digest says makes the row another one
    return hash_of(table, row)

"""The formats of an export: NDJSON, CSV, Parquet and CloudEvents 1.0, each made from lines of NDJSON. No I/O.

The API and the command line write files with these.
"""

import io
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Literal, Protocol

import orjson
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.types import BigInteger, Boolean, Float, Integer

from service.audit.export_tables import COSTS, columns_of, order_of
from service.core import csv_lines
from service.core.cost_csv import COLUMNS
from service.errors import FieldError, Invalid
from service.storage.leaf_sql import TIMES
from service.storage.tables import metadata

Format = Literal["ndjson", "csv", "parquet", "cloudevents"]
CONTENT_TYPES: Final[dict[str, str]] = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "cloudevents": "application/x-ndjson",
}
SUFFIXES: Final = {"ndjson": "ndjson", "csv": "csv", "parquet": "parquet", "cloudevents": "cloudevents.ndjson"}
#: Members that a row has besides its columns: how the body is written, what was struck out, and the hash of its leaf.
STRUCK_OUT: Final = "struck_out"
LEAF_HASH: Final = "leaf_hash"
BODY_ENCODING: Final = "body_encoding"
#: What VMs cost: `key` is SUBMISSION.N.
COST_FIELDS: Final = (*COLUMNS, "currency")
#: Rows of a Parquet row group.
_GROUP: Final = 20_000


class Formatter(Protocol):
    """Makes one file. Concatenate what its methods return."""

    def begin(self) -> bytes: ...
    def encode(self, lines: Sequence[bytes]) -> bytes: ...
    def end(self) -> bytes: ...


def fields_of(table: str) -> tuple[str, ...]:
    """Everything that a row of a table may have, in the order of a file's columns."""
    if table == COSTS:
        return COST_FIELDS
    extra = (BODY_ENCODING,) if table == "events" else ()
    return (*columns_of(table), *extra, STRUCK_OUT, LEAF_HASH)


def formatter(kind: Format, table: str, source: str) -> Formatter:
    """A formatter of one table. `source` is the source of CloudEvents. Raises `Invalid` if the format is not installed."""
    if kind == "csv":
        return _Csv(table)
    if kind == "cloudevents":
        return _CloudEvents(table, source)
    return _Parquet(table) if kind == "parquet" else _Ndjson()


class _Ndjson:
    def begin(self) -> bytes:
        return b""

    def encode(self, lines: Sequence[bytes]) -> bytes:
        return b"".join(lines)

    def end(self) -> bytes:
        return b""


class _Csv(_Ndjson):
    def __init__(self, table: str) -> None:
        self._fields = fields_of(table)

    def begin(self) -> bytes:
        return csv_lines.line(self._fields).encode()

    def encode(self, lines: Sequence[bytes]) -> bytes:
        rows = map(orjson.loads, lines)
        return "".join(csv_lines.line(_cell(row.get(name)) for name in self._fields) for row in rows).encode()


class _CloudEvents(_Ndjson):
    """An event in its structured form on each line."""

    def __init__(self, table: str, source: str) -> None:
        self._table = table
        self._source = source
        self._key = tuple(name for name in order_of(table) if name != "xact_id")

    def encode(self, lines: Sequence[bytes]) -> bytes:
        return b"".join(map(self._event, lines))

    def _event(self, line: bytes) -> bytes:
        row = orjson.loads(line)
        event: dict[str, Any] = {
            "specversion": "1.0",
            "id": "/".join([self._table, *(str(row[name]) for name in self._key)]),
            "source": self._source,
            "type": f"rollcall.{self._table}",
            "datacontenttype": "application/json",
        }
        if row.get("submission_id"):
            vm_no = row.get("vm_no")
            event["subject"] = row["submission_id"] if vm_no is None else f"{row['submission_id']}.{vm_no}"
        if self._table in TIMES:
            event["time"] = row[TIMES[self._table]]
        return orjson.dumps(event | {"data": orjson.Fragment(line.rstrip(b"\n"))}) + b"\n"


class _Parquet:
    def __init__(self, table: str) -> None:
        try:
            import pyarrow as pa  # noqa: PLC0415  an extra, and large
            from pyarrow.parquet import ParquetWriter  # noqa: PLC0415  as above
        except ImportError:
            raise Invalid([
                FieldError("format", "parquet needs the extra `parquet`: pip install 'rollcall-fleet[parquet]'")
            ]) from None  # fmt: skip
        self._pa = pa
        self._times = {name for name in fields_of(table) if _kind(table, name) == "time"}
        types = {
            "time": pa.timestamp("us", tz="UTC"), "int": pa.int64(), "bool": pa.bool_(),
            "float": pa.float64(), "text": pa.string(),
        }  # fmt: skip
        self._schema = pa.schema([(name, types[_kind(table, name)]) for name in fields_of(table)])
        self._texts = {name for name in fields_of(table) if _kind(table, name) == "text"}
        self._sink = io.BytesIO()
        self._writer = ParquetWriter(pa.PythonFile(_Tail(self._sink), mode="w"), self._schema)
        self._rows: list[dict[str, Any]] = []

    def begin(self) -> bytes:
        return self._taken()

    def encode(self, lines: Sequence[bytes]) -> bytes:
        self._rows += [self._row(orjson.loads(line)) for line in lines]
        if len(self._rows) < _GROUP:
            return b""
        self._write()
        return self._taken()

    def end(self) -> bytes:
        if self._rows:
            self._write()
        self._writer.close()
        return self._taken()

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        for name, value in row.items():
            if name in self._times and value is not None:
                row[name] = datetime.fromisoformat(value)
            elif name in self._texts and value is not None:
                row[name] = _cell(value)
        return row

    def _write(self) -> None:
        self._writer.write_table(self._pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def _taken(self) -> bytes:
        data = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return data


class _Tail(io.RawIOBase):
    """A file of which only what was written last is held: its position goes on."""

    def __init__(self, held: io.BytesIO) -> None:
        self._held = held
        self._at = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        written = self._held.write(data)
        self._at += written
        return written


def _kind(table: str, name: str) -> str:
    """What a column of a Parquet file is. Exact numbers, ids and JSON are text."""
    if table == COSTS:
        return "int" if name == "vms" else "text"
    column = metadata.tables[table].c.get(name)
    if column is None:
        return "text"
    kinds = ((TIMESTAMP, "time"), ((Integer, BigInteger), "int"), (Boolean, "bool"), (Float, "float"))
    return next((kind for types, kind in kinds if isinstance(column.type, types)), "text")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else orjson.dumps(value).decode()

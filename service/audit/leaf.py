"""How a row of the record is written as a leaf of the log, from values (docs/reference/proof.md, "A leaf").

`storage/leaf_sql.py` has Postgres write the same bytes. Pure.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from msgspec.structs import asdict

from service.storage.leaf_sql import FORMAT, LEFT_OUT, LeafSql
from service.storage.seals import Seal, unpacked

_SEAL: Final = "seals"
_LOG: Final = "logs"


def leaf_of(table: str, row: Mapping[str, Any]) -> bytes:
    """The leaf of a row. Values are as the driver gives them, or as JSON has them; a jsonb may be its text (`Raw`)."""
    members = [
        f'"{name}":{_text(row[name])}'
        for name in sorted(row)
        if row[name] is not None and (table, name) not in LEFT_OUT
    ]
    return f"{FORMAT} {table}\n{{{','.join(members)}}}".encode()


def key_of(sql: LeafSql, row: Mapping[str, Any]) -> str:
    """A row's key as the log stores it: a JSON list of its values."""
    return f"[{','.join(_text(row[name]) for name in sql.key)}]"


def seal_leaf(seal: Seal) -> bytes:
    """The leaf behind the rows that were sealed together, which says so. It holds the digest of their keys."""
    row = asdict(seal) | {"row_keys": sha256(unpacked(seal.row_keys).encode()).digest()}
    del row["log_id"]
    return leaf_of(_SEAL, row)


def log_leaf(*, log_id: UUID, origin: str, begun_at: datetime, reason: str) -> bytes:
    """The first leaf of a log: what it is, and why it was begun."""
    return leaf_of(_LOG, {"log_id": log_id, "origin": origin, "begun_at": begun_at, "reason": reason})


class Raw(str):
    """JSON as Postgres wrote it."""

    __slots__ = ()


def _text(value: Any) -> str:
    write = _FOUND.get(type(value)) or _find(type(value))
    return write(value)


def _find(kind: type) -> Callable[[Any], str]:
    write = next((write for known, write in _WRITE if issubclass(kind, known)), jsonb_text)
    _FOUND[kind] = write
    return write


def jsonb_text(value: Any) -> str:
    """JSON as Postgres writes a jsonb: shorter names first, then by bytes; a space after each colon and comma."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    if not isinstance(value, Mapping):
        raise TypeError(f"no leaf holds a {type(value).__name__}")
    names = sorted(value, key=lambda name: (len(name.encode()), name.encode()))
    return "{" + ", ".join(f"{_text(name)}: {_text(value[name])}" for name in names) + "}"


_WRITE: Final[tuple[tuple[type, Callable[[Any], str]], ...]] = (
    (Raw, str),
    (str, lambda text: json.dumps(text, ensure_ascii=False)),
    (bool, lambda value: "true" if value else "false"),
    (int, str),
    (UUID, lambda id_: f'"{id_}"'),
    (datetime, lambda at: f'"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")}Z"'),
    (bytes, lambda data: f'"{data.hex()}"'),
    (Decimal, lambda number: f"{number:f}"),
)
_FOUND: dict[type, Callable[[Any], str]] = {}

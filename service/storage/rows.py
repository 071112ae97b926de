"""Reads rows as frozen records, and writes many records in one statement.

The records of a statement travel as one JSON parameter, which Postgres turns into typed rows (`json_populate_recordset`).
So hundreds cost one round trip, and a new column needs no new statement.
"""

import asyncio
import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from operator import itemgetter
from typing import Any, TypeVar
from uuid import UUID

import orjson
from msgspec import Struct, structs
from sqlalchemy import Result, RowMapping, Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

#: A record is a frozen `Struct` whose fields are columns.
Kind = TypeVar("Kind", bound=Struct)

#: Records made without a pause: callbacks wait no longer than for these.
_AT_ONCE = 200


def from_row(kind: type[Kind], row: RowMapping | Mapping[str, Any]) -> Kind:
    """The record of a row. Columns that are no fields are ignored."""
    return row_factory(kind)([row[name] for name in columns_of(kind)])


async def from_rows(kind: type[Kind], rows: Result[Any]) -> list[Kind]:
    """The records of all rows, made without blocking the event loop for long."""
    names = list(rows.keys())
    values_of, make = itemgetter(*map(names.index, columns_of(kind))), row_factory(kind)
    records = []
    for part in rows.partitions(_AT_ONCE):
        records += [make(values_of(row)) for row in part]
        if len(part) == _AT_ONCE:
            await asyncio.sleep(0)
    return records


def columns_of(kind: type[Struct]) -> tuple[str, ...]:
    """The columns of a record, in the order of its fields."""
    return kind.__struct_fields__


def row_factory(kind: type[Kind]) -> Callable[[Iterable[Any]], Kind]:
    """A function that makes a record from the values of `columns_of`."""
    known = _MAKERS.get(kind)
    if known is None:
        known = _MAKERS[kind] = _factory(kind)
    return known


#: By kind. mypy takes a class for unhashable, hence the dictionary where `cache` would do.
_MAKERS: dict[type[Any], Callable[[Iterable[Any]], Any]] = {}


def _factory(kind: type[Kind]) -> Callable[[Iterable[Any]], Kind]:
    # Only enums need a conversion; the driver returns the right type for everything else.
    enums = [
        (place, field.type, {member.value: member for member in field.type})
        for place, field in enumerate(structs.fields(kind))
        if isinstance(field.type, type) and issubclass(field.type, Enum)
    ]

    def make(values: Iterable[Any]) -> Kind:
        row = list(values)
        for place, enum, members in enums:
            value = row[place]
            row[place] = members.get(value) or enum(value)
        return kind(*row)

    return make


async def insert_many(
    conn: AsyncConnection, table: Table, records: Iterable[Struct], *, or_ignore: bool = False
) -> int:
    """Insert records in one statement. Returns how many. `or_ignore` skips those that exist."""
    rows = [_plain(record) for record in records]
    if not rows:
        return 0
    columns = ", ".join(rows[0])
    ignore = " ON CONFLICT DO NOTHING" if or_ignore else ""
    statement = (
        f"INSERT INTO {table.name} ({columns}) SELECT {columns} "  # noqa: S608  names of our own tables
        f"FROM json_populate_recordset(NULL::{table.name}, CAST(:rows AS json)){ignore}"
    )
    return (await conn.execute(text(statement), {"rows": _json(rows)})).rowcount


async def update_many(conn: AsyncConnection, table: Table, key: Sequence[str], records: Iterable[Struct]) -> int:
    """Update the rows with the same `key`, in one statement. The caller holds their locks."""
    rows = [_plain(record) for record in records]
    if not rows:
        return 0
    columns = [name for name in rows[0] if name not in key]
    assigned = ", ".join(f"{name} = new.{name}" for name in columns)
    matched = " AND ".join(f"old.{name} = new.{name}" for name in key)
    statement = (
        f"UPDATE {table.name} AS old SET {assigned} "  # noqa: S608  names of our own tables
        f"FROM json_populate_recordset(NULL::{table.name}, CAST(:rows AS json)) AS new WHERE {matched}"
    )
    return (await conn.execute(text(statement), {"rows": _json(rows)})).rowcount


def _plain(record: Struct) -> dict[str, Any]:
    return structs.asdict(record)


def _json(rows: Sequence[dict[str, Any]]) -> str:
    return orjson.dumps(rows, default=_default).decode()


def _default(value: object) -> object:
    if isinstance(value, Decimal):
        return str(value)  # as text, which Postgres reads without a float in between
    if isinstance(value, UUID):
        return str(value)  # asyncpg's own subclass, which orjson does not know
    if isinstance(value, bytes):
        return "\\x" + base64.b16encode(value).decode()
    raise TypeError(f"no column takes a {type(value).__name__}")

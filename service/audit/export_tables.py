"""What an export holds: its tables, the columns of each, in which order, and which rows are of a period or a submission."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.types import Float, Integer, Numeric, Uuid

from service.errors import FieldError, Invalid
from service.storage import leaf_sql
from service.storage.leaf_sql import SEALED, TIMES
from service.storage.seals import XactSnapshot
from service.storage.tables import metadata

_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's own
#: Tables whose rows change. An export holds them as they are when it reads them.
CURRENT: Final = ("submissions", "creations", "vms", "dead_letters", "orphans")
#: Tables of the log, with which an export is verified.
LOG: Final = ("seals", "checkpoints", "log_tiles")
#: What VMs cost in the period, computed from the tables.
COSTS: Final = "costs"
RECORD: Final = (*CURRENT, *SEALED, COSTS)
TABLES: Final = (*RECORD, *LOG)

_ALIVE: Final = "{vm}created_at < {until} AND ({vm}ended_at IS NULL OR {vm}ended_at >= {since})"
_WITH_VMS: Final = (
    "created_at < {until} AND (created_at >= {since} OR EXISTS (SELECT FROM vms WHERE"
    " vms.submission_id = {table}.submission_id AND " + _ALIVE.replace("{vm}", "vms.") + "))"
)
_BEFORE: Final = "read_at < {until}"
#: Which rows are of a period, if it is not those whose time is in it.
_OF_PERIOD: Final = {
    "vms": _ALIVE.replace("{vm}", ""), "submissions": _WITH_VMS, "creations": _WITH_VMS,
    "prices": _BEFORE, "contract_discounts": _BEFORE, "log_keys": "true", "dropped_months": "true",
}  # fmt: skip
_TIMES: Final = {**TIMES, "dead_letters": "received_at", "orphans": "found_at"}
_VM: Final = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[0-9]{1,9}"
#: Columns that are only of use to a running daemon, or hold a secret.
_LEFT_OUT: Final = frozenset({"lease_token", "lease_until", "notify"})
#: The secrets of a spec: `user_data` is shown by its size and digest, as the API does.
_SPEC: Final = (
    "(CASE WHEN spec ? 'user_data' THEN jsonb_set(spec, '{user_data}', coalesce(spec #> '{user_data,summary}', 'null'))"
    " ELSE spec END)::text"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows to export, and how much of the record they may see. `since` is included, `until` is not.

    Rows of the append-only tables are those that `xmax` and `in_progress` show: a Postgres snapshot, which outlasts the
    connection; of dropped months, all. Without one, all rows. `log_id` and `log_size` say how much of the log.
    """

    submission_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    xmax: int | None = None
    in_progress: Sequence[int] = ()
    seen: XactSnapshot | None = None  #: leaves out the rows of append-only tables that this shows
    log_id: UUID | None = None
    log_size: int | None = None


@dataclass(slots=True)
class Statement:
    """SQL, and the values of its parameters."""

    text: str = ""
    values: list[Any] = field(default_factory=list)

    def parameter(self, value: Any, kind: str) -> str:
        self.values.append(value)
        return f"${len(self.values)}::{kind}"


def order_of(table: str) -> tuple[str, ...]:
    """The columns that rows are in the order of: for the append-only tables their transaction and key."""
    if table == COSTS:
        return ("key",)
    key = tuple(column.name for column in metadata.tables[table].primary_key.columns)
    return ("xact_id", *key) if table in SEALED else key


@cache
def columns_of(table: str) -> tuple[str, ...]:
    """The columns of a table that are exported."""
    return tuple(column.name for column in metadata.tables[table].columns if column.name not in _LEFT_OUT)


def cursor_of(table: str, row: Mapping[str, Any]) -> str:
    """The place of a row that was exported: what `after` takes."""
    return f"{table}:{orjson.dumps([row[name] for name in order_of(table)], option=orjson.OPT_UTC_Z).decode()}"


def read_cursor(table: str, cursor: str) -> list[Any]:
    """The values of a cursor. Raises `Invalid` if it is of another table, or none."""
    name, _, listed = cursor.partition(":")
    order = order_of(table)
    try:
        values = orjson.loads(listed)
        if name == table == COSTS and len(values) == 1 and re.fullmatch(_VM, values[0]):
            return [values[0]]
        if name == table and isinstance(values, list) and len(values) == len(order):
            return [_value(metadata.tables[table], column, value) for column, value in zip(order, values, strict=True)]
    except (ValueError, TypeError):
        pass
    raise Invalid([FieldError("after", f"is not the place of a row of {table}")])


def _value(table: Table, column: str, value: Any) -> Any:
    kind = table.c[column].type
    if isinstance(kind, Integer):
        if type(value) is int and 0 <= value < 2**63:
            return value
    elif isinstance(value, str) and "\0" not in value:
        if isinstance(kind, Uuid):
            return UUID(value)
        if not isinstance(kind, TIMESTAMP):
            return value
        if (at := datetime.fromisoformat(value)).tzinfo is not None:
            return at
    raise ValueError(column)


def statement(table: str, which: Selection, after: Sequence[Any] | None, relations: Sequence[str] = ()) -> Statement:
    """The query of a table's rows, each as the members of a JSON object in UTF-8, and an event's body beside them.

    `relations` are what is read instead of the table itself.
    """
    made = Statement()
    where = " AND ".join(_conditions(made, table, which, after)) or "true"
    names = (name for name in columns_of(table) if name != "body")
    members = leaf_sql.joined(" || ',' || ".join(_member(metadata.tables[table], name) for name in names))
    chosen = f"convert_to({members}, 'UTF8')" + (", events.body" if table == "events" else "")
    order = ", ".join(f"{table}.{name}" for name in order_of(table))
    if len(relations) > 1:
        parts = " UNION ALL ".join(f"SELECT * FROM {one}" for one in relations)  # noqa: S608  our own names
        source = f"({parts}) AS {table}"
    else:
        source = table
    made.text = f"SELECT {chosen} FROM {source} WHERE {where} ORDER BY {order}"  # noqa: S608  our own names
    return made


def _conditions(made: Statement, table: str, which: Selection, after: Sequence[Any] | None) -> list[str]:
    columns = metadata.tables[table].c
    found = []
    if table in LOG:
        found.append(f"log_id = {made.parameter(which.log_id, 'uuid')}")
        if table != "log_tiles":
            operator = "<=" if table == "checkpoints" else "<"
            column = "size" if table == "checkpoints" else "first_leaf"
            found.append(f"{column} {operator} {made.parameter(which.log_size, 'bigint')}")
    else:
        if which.submission_id is not None and "submission_id" in columns:
            found.append(f"submission_id = {made.parameter(which.submission_id, 'uuid')}")
        if which.since is not None or which.until is not None:
            found.append(_of_period(made, table, which))
    # A month that was dropped since is not among the events any more, which are read before.
    if table in SEALED and table != "dropped_months" and which.xmax is not None:
        found.append(f"xact_id < {made.parameter(which.xmax, 'bigint')}")
        found.append(f"xact_id <> ALL ({made.parameter(list(which.in_progress), 'bigint[]')})")
    if table in SEALED and which.seen is not None:
        xmin, xmax = (made.parameter(one, "bigint") for one in (which.seen.xmin, which.seen.xmax))
        unseen = made.parameter(list(which.seen.in_progress), "bigint[]")
        found.append(f"xact_id >= {xmin} AND (xact_id >= {xmax} OR xact_id = ANY ({unseen}))")
    if after is not None:
        order = order_of(table)
        values = [made.parameter(value, _type(columns[name])) for name, value in zip(order, after, strict=True)]
        found.append(f"{order[0]} >= {values[0]}")  # for the index; the next one breaks ties
        found.append(f"({', '.join(order)}) > ({', '.join(values)})")
    return found


def _of_period(made: Statement, table: str, which: Selection) -> str:
    form = _OF_PERIOD.get(table) or f"{_TIMES[table]} >= {{since}} AND {_TIMES[table]} < {{until}}"
    since, until = "'-infinity'::timestamptz", "'infinity'::timestamptz"
    if which.since and "{since}" in form:
        since = made.parameter(which.since, "timestamptz")
    if which.until and "{until}" in form:
        until = made.parameter(which.until, "timestamptz")
    return f"({form.format(since=since, until=until, table=table)})"


def _type(column: Any) -> str:
    return str(column.type.compile(dialect=_DIALECT))


def _member(table: Table, name: str) -> str:
    """A column as a member of a JSON object. It is written as in a leaf, but an exact number as text: JSON would round it."""
    kind = table.c[name].type
    if (table.name, name) == ("submissions", "spec"):
        text = _SPEC
    elif isinstance(kind, Float):  # no leaf has one
        text = f"{name}::text"
    elif isinstance(kind, Numeric):
        text = f"'\"' || {leaf_sql.value(table, name)} || '\"'"
    else:
        text = leaf_sql.value(table, name)
    if table.c[name].nullable:
        text = f"coalesce({text}, 'null')"
    return f"'\"{name}\":' || {text}"

"""How Postgres writes a row of the record as a leaf of the log, and its key (docs/reference/proof.md, "A leaf").

`audit/leaf.py` writes the same bytes from values, and a test compares the two: sealing is as fast as Postgres, and what
verifies does not share its code.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, UUID
from sqlalchemy.types import BigInteger, Boolean, Integer, LargeBinary, Numeric, Text

from service.storage.tables import APPEND_ONLY, metadata

_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's own
#: What a leaf begins with, before the name of its table.
FORMAT: Final = "rollcall/1"
#: Large values whose digest is in a column of its own.
LEFT_OUT: Final = frozenset({("events", "body")})
#: The tables in the order in which they are sealed.
SEALED: Final = APPEND_ONLY
#: When a row says that it came to be.
TIMES: Final = {
    "events": "received_at", "transitions": "at", "calls": "begun_at", "call_ends": "ended_at", "assignments": "at",
    "actions": "at", "log_keys": "added_at", "dropped_months": "dropped_at",
    "prices": "read_at", "contract_discounts": "read_at",
}  # fmt: skip

_TYPES: Final = (
    (UUID, "'\"' || {} || '\"'"),
    (TIMESTAMP, """'"' || to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') || '"'"""),
    (LargeBinary, "'\"' || encode({}, 'hex') || '\"'"),
    (JSONB, "{}::text"),
    (Text, "to_json({})::text"),
    ((Integer, BigInteger, Boolean, Numeric), "{}::text"),
)


@dataclass(frozen=True, slots=True)
class LeafSql:
    """The expressions for one table: its columns in the leaf, those of its key, the leaf's text, and the key's text."""

    table: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    leaf: str
    key_text: str

    @property
    def hash(self) -> str:
        """The hash of the leaf (RFC 6962: a zero byte goes before it)."""
        return f"sha256('\\x00'::bytea || convert_to({self.leaf}, 'UTF8'))"

    def key_values(self, parameter: str) -> str:
        """A key's values, from a parameter that is its text as JSON."""
        types = metadata.tables[self.table].c
        return ", ".join(
            f"({parameter}::jsonb ->> {place})::{types[name].type.compile(dialect=_DIALECT)}"
            for place, name in enumerate(self.key)
        )


@cache
def of(name: str) -> LeafSql:
    table = metadata.tables[name]
    columns = tuple(sorted(column.name for column in table.columns if (name, column.name) not in LEFT_OUT))
    key = tuple(column.name for column in table.primary_key.columns)
    members = joined(", ".join(f"'\"{column}\":' || {value(table, column)}" for column in columns))
    leaf = f"'{FORMAT} {name}' || chr(10) || '{{' || concat_ws(',', {members}) || '}}'"
    return LeafSql(
        name, columns, key, leaf, f"'[' || concat_ws(',', {', '.join(value(table, one) for one in key)}) || ']'"
    )


def value(table: Table, column: str) -> str:
    """An expression of the column's value as JSON text; null if the column is."""
    kind = table.c[column].type
    return next(text.format(column) for types, text in _TYPES if isinstance(kind, types))


def joined(expression: str) -> str:
    """The same with one literal in place of several that are concatenated: Postgres would concatenate them for each row."""
    return expression.replace("' || '", "")

"""Conditions on many values at once, each column as one array parameter: the driver takes 32,767 parameters at most."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, any_, func, literal, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY


def is_any(column: ColumnElement[Any], values: Iterable[Any]) -> ColumnElement[bool]:
    """The column has one of these values."""
    return column == any_(_array(column, list(values)))


def are_any(columns: Sequence[ColumnElement[Any]], keys: Collection[Sequence[Any]]) -> ColumnElement[bool]:
    """The columns together are one of these keys."""
    return in_arrays(columns, [_array(one, [key[place] for key in keys]) for place, one in enumerate(columns)])


def in_arrays(columns: Sequence[ColumnElement[Any]], arrays: Sequence[ColumnElement[Any]]) -> ColumnElement[bool]:
    """The columns together are at one place of the arrays."""
    given = (
        func.unnest(*arrays)
        .table_valued(*(f"k{place}" for place in range(len(columns))), name="given")
        .render_derived()
    )
    return tuple_(*columns).in_(select(*given.c))


def _array(column: ColumnElement[Any], values: list[Any]) -> ColumnElement[Any]:
    return literal(values, ARRAY(column.type))

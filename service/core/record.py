"""Frozen records, made and altered at a quarter of the usual cost.

A storm of callbacks is as many copies of a wide record, and `dataclasses.replace` takes longer over each than all that
is decided about it, since a frozen dataclass sets its fields one call after another. What is here fills a twin that is
not frozen, in one call, and then declares it to be the record. It is for frozen dataclasses with slots that have nothing
to do after `__init__`; where speed does not matter, `replace` is the plainer word.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, make_dataclass
from operator import attrgetter
from typing import Any, TypeVar

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class _Shape:
    """Of a kind of record: its twin, what reads all of its fields, and where each of them stands."""

    twin: Callable[..., Any]
    values_of: Callable[[Any], Iterable[Any]]
    places: Mapping[str, int]


def construct(kind: type[Record], values: Iterable[Any]) -> Record:
    """A record of all its fields' values, in the order of the fields."""
    return _declared(kind, _shape_of(kind).twin(*values))


def replace_fields(record: Record, changes: Mapping[str, Any]) -> Record:
    """The record with `changes`, as `replace` makes it. Raises AttributeError for what is no field of it."""
    kind = type(record)
    shape = _shape_of(kind)
    values = list(shape.values_of(record))
    try:
        for name, value in changes.items():
            values[shape.places[name]] = value
    except KeyError as error:
        raise AttributeError(f"{kind.__name__} has no field {error}") from None
    return _declared(kind, shape.twin(*values))


def _declared(kind: type[Record], new: Any) -> Record:
    new.__class__ = kind  # Python makes sure that the two have the same slots
    record: Record = new
    return record


def _shape(kind: type[Any]) -> _Shape:
    names = [field.name for field in fields(kind)]
    twin = make_dataclass(f"{kind.__name__}Twin", [(name, Any) for name in names], slots=True)
    # Of a single name it would return the value alone.
    values_of = attrgetter(*names) if len(names) > 1 else lambda record: (getattr(record, names[0]),)
    return _Shape(twin, values_of, {name: place for place, name in enumerate(names)})


# mypy takes a class for unhashable, hence the dictionary where `cache` would do.
_SHAPES: dict[type[Any], _Shape] = {}


def _shape_of(kind: type[Any]) -> _Shape:
    shape = _SHAPES.get(kind)
    if shape is None:
        shape = _SHAPES[kind] = _shape(kind)
    return shape

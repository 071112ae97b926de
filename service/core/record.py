"""Frozen records, made and altered at a third of the usual cost.

A storm of callbacks is as many copies of a wide record, and `dataclasses.replace` takes longer over each than all that
is decided about it. What is here does the same by the slots themselves. It is for frozen dataclasses with slots that
have nothing to do after `__init__`; where speed does not matter, `replace` is the plainer word.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from itertools import repeat
from operator import attrgetter, call
from typing import Any, TypeAlias, TypeVar

Record = TypeVar("Record")
#: What sets each slot, and what reads all of them, in the order of the fields.
_Shape: TypeAlias = tuple[tuple[Callable[..., None], ...], Callable[[Any], Iterable[Any]]]


def made(kind: type[Record], values: Iterable[Any]) -> Record:
    """A record of all its fields' values, in the order of the fields."""
    return _filled(kind, _shape_of(kind)[0], values)


def altered(record: Record, changes: Mapping[str, Any]) -> Record:
    """The record with `changes`, as `replace` makes it. Raises AttributeError for what is no field of it."""
    kind = type(record)
    setters, values_of = _shape_of(kind)
    new = _filled(kind, setters, values_of(record))
    for name, value in changes.items():
        object.__setattr__(new, name, value)
    return new


def _filled(kind: type[Record], setters: Iterable[Callable[..., None]], values: Iterable[Any]) -> Record:
    new = object.__new__(kind)
    deque(map(call, setters, repeat(new), values), maxlen=0)  # a loop that Python's own bytecode has no part in
    return new


def _shape(kind: type[Any]) -> _Shape:
    names = [field.name for field in fields(kind)]
    return tuple(getattr(kind, name).__set__ for name in names), attrgetter(*names)


# mypy takes a class for unhashable, hence the dictionary where `cache` would do.
_SHAPES: dict[type[Any], _Shape] = {}


def _shape_of(kind: type[Any]) -> _Shape:
    shape = _SHAPES.get(kind)
    if shape is None:
        shape = _SHAPES[kind] = _shape(kind)
    return shape

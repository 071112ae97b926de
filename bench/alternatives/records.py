"""Ways of making, changing and reading the record of a VM.

    .venv/bin/python bench/alternatives/records.py

"Class swap" is what `core/record.py` did until decision 0019: it filled a twin that is not frozen and then assigned to
its `__class__`. Prints Markdown, in nanoseconds.
"""

import sys
import timeit
from collections.abc import Callable, Sequence
from dataclasses import make_dataclass, replace
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from msgspec import structs

from service.core.vm import Vm

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
VM = Vm(
    submission_id=UUID(int=7), vm_no=1, creation_no=1, state_since=NOON, flavor="f", environment="e", created_at=NOON
)
NAMES = Vm.__struct_fields__
ROW = tuple(getattr(VM, name) for name in NAMES)
CHANGES: dict[str, Any] = {"state": VM.state, "state_since": NOON, "seq": 2, "ready_at": NOON, "ready": True}


def best(work: Callable[[], object]) -> float:
    """Nanoseconds, of the quickest of seven rounds."""
    number = 20_000
    return min(timeit.repeat(work, number=number, repeat=7)) / number * 1e9


def show(name: str, make: Callable[[Sequence[Any]], Any], change: Callable[[Any], Any]) -> None:
    one = make(ROW)
    assert change(one).seq == 2
    reads = best(lambda: (one.state, one.seq, one.flavor, one.provider_id, one.created_at))
    print(f"| {name} | {best(lambda: make(ROW)):,.0f} | {best(lambda: change(one)):,.0f} | {reads:,.0f} |")


def dataclass_of(*, frozen: bool) -> Any:
    return make_dataclass("Record", [(name, Any) for name in NAMES], frozen=frozen, slots=True)


def swapped(kind: Any, twin: Any, values: Sequence[Any]) -> Any:
    new = twin(*values)
    new.__class__ = kind
    return new


def replace_fields(kind: Any, twin: Any, one: Any) -> Any:
    values = list(values_of(one))
    for name, value in CHANGES.items():
        values[PLACES[name]] = value
    return swapped(kind, twin, values)


values_of = attrgetter(*NAMES)
PLACES = {name: place for place, name in enumerate(NAMES)}


def main() -> None:
    print(
        f"Python {sys.version.split()[0]}, msgspec {msgspec.__version__}, {len(NAMES)} fields, {len(CHANGES)} changed\n"
    )
    print("| way | make of a row | change some fields | read five fields |\n|---|---|---|---|")
    frozen, twin = dataclass_of(frozen=True), dataclass_of(frozen=False)
    show("frozen dataclass", lambda row: frozen(*row), lambda one: replace(one, **CHANGES))
    show("class swap", lambda row: swapped(frozen, twin, row), lambda one: replace_fields(frozen, twin, one))
    show("dataclass that is not frozen", lambda row: twin(*row), lambda one: replace(one, **CHANGES))
    tupled: Any = NamedTuple("tupled", [(name, Any) for name in NAMES])  # type: ignore[misc]  made of a list
    show("`NamedTuple`", tupled._make, lambda one: one._replace(**CHANGES))
    show("`msgspec.Struct`", lambda row: Vm(*row), lambda one: structs.replace(one, **CHANGES))
    named = msgspec.defstruct("Named", [(name, Any) for name in NAMES], frozen=True, kw_only=True)
    show(
        "the same, `kw_only`",
        lambda row: named(**dict(zip(NAMES, row, strict=True))),
        lambda one: structs.replace(one, **CHANGES),
    )


if __name__ == "__main__":
    main()

"""How answers are shown: JSON for programs, tables for people. What is in a column is decided by the commands."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

Column = tuple[str, Callable[[Any], object]]

#: Wide enough for every column where no terminal says how wide it is: a pipe must lose nothing.
_UNBOUNDED: Final = 400
#: Columns whose values are copied and pasted: they are not folded.
_WHOLE: Final = frozenset({"ref", "submission", "event"})
_STATES: Final = {
    "ACTIVE": "green",
    "ready": "green",
    "ERROR": "red",
    "LOST": "red",
    "REFUSED": "red",
    "failed": "red",
    "CANCELLED": "dim",
    "DELETED": "dim",
    "cancelled": "dim",
}


def as_json(value: object) -> None:
    """Print JSON, indented, in the order in which it came."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def table(rows: Sequence[Any], columns: Sequence[Column], *, nothing: str) -> None:
    """Print a table, or `nothing` where there are no rows."""
    from rich.console import Console  # noqa: PLC0415  not needed where JSON is asked for
    from rich.table import Table  # noqa: PLC0415  as above

    if not rows:
        sys.stdout.write(nothing + "\n")
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name, _ in columns:
        shown.add_column(name, overflow="fold", no_wrap=name in _WHOLE)
    for row in rows:
        shown.add_row(*(_cell(read(row)) for _, read in columns))
    Console(width=None if sys.stdout.isatty() else _UNBOUNDED, highlight=False).print(shown)


def facts(title: str, known: Mapping[str, object]) -> None:
    """Print a thing's facts, one a line; what is not known is left out."""
    from rich.console import Console  # noqa: PLC0415  as in table
    from rich.text import Text  # noqa: PLC0415  as in table

    console = Console(width=None if sys.stdout.isatty() else _UNBOUNDED, highlight=False)
    console.print(Text(title, style="bold"))
    wide = max(map(len, known), default=0)
    for name, value in known.items():
        if value not in {None, ""}:
            console.print(Text(f"  {name:<{wide}}  ").append_text(_cell(value)))


def answer(text: str) -> None:
    """A line that was asked for, on standard output, at once: who reads it may not wait for the end."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A line for people, on standard error, so that it never gets into what a program reads."""
    sys.stderr.write(text + "\n")


def counts(by_state: Mapping[str, int]) -> str:
    """Counts in a line: `12 ACTIVE, 8 BUILD`."""
    return ", ".join(f"{number} {state}" for state, number in by_state.items()) or "none"


def time_of(text: str | None) -> str:
    """A time of the API, to the second and still in UTC."""
    return text[:19].replace("T", " ") + "Z" if text else ""


def age_of(text: str | None, now: datetime | None = None) -> str:
    """How long ago a time of the API was, in its largest unit."""
    if not text:
        return ""
    seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(text)).total_seconds()
    return span(max(seconds, 0.0))


def span(seconds: float) -> str:
    """A length of time, in its largest unit: `45s`, `12m`, `3.4h`, `2.1d`."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    if seconds < 3600:
        return f"{seconds / 60:.0f}m"
    if seconds < 86400:
        return f"{seconds / 3600:.1f}h"
    return f"{seconds / 86400:.1f}d"


def lines(texts: Iterable[object]) -> str:
    return "\n".join(map(str, texts))


def _cell(value: object) -> Any:
    from rich.text import Text  # noqa: PLC0415  as in table

    # As text and not as markup: names may hold square brackets.
    text = "" if value is None else "yes" if value is True else "no" if value is False else str(value)
    return Text(text, style=_STATES.get(text, ""))

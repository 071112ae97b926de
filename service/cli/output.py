"""How commands print: JSON for programs, tables and facts for people. The columns are in `views.py`.

Nothing from outside reaches a terminal unescaped: names, messages and bodies may hold control characters.
"""

import json
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from service.cli.exits import CliError, Exit
from service.core.printable import escape


class Column(NamedTuple):
    """A column of a table.

    On a terminal, `short` replaces `read`, `wide` columns need --wide, a column that `wraps` continues on the next
    line between words, and one that `clips` may lose its end.
    """

    name: str
    read: Callable[[Any], object]
    short: Callable[[Any], object] | None = None
    wide: bool = False
    wraps: bool = False
    clips: bool = False


class Layout(NamedTuple):
    """Which columns to print. A pipe gets all of them, whole, and one line for each row."""

    wide: bool = False
    columns: str | None = None  #: names, separated by commas


_GAP: Final = "  "
#: Widths that columns are not squeezed below; the table is wider than the terminal instead.
_NARROWEST_WRAPPED: Final = 20
_NARROWEST_CLIPPED: Final = 10
_COLORS: Final = {
    "ACTIVE": "32",
    "ready": "32",
    "ok": "32",
    "ERROR": "31",
    "LOST": "31",
    "REFUSED": "31",
    "failed": "31",
    "CANCELLED": "2",
    "DELETED": "2",
    "cancelled": "2",
    "skipped": "2",
}
_NOT_IN_JSON: Final = re.compile(r"[^\x20-\x7e\n]")


def as_json(value: object) -> None:
    """Print JSON, indented. Letters are printed as they are; control characters as JSON escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    sys.stdout.write(_NOT_IN_JSON.sub(_json_escape, text) + "\n")


def _json_escape(found: re.Match[str]) -> str:
    character = found.group()
    return character if character.isprintable() else json.dumps(character)[1:-1]


def table(rows: Sequence[Any], columns: Sequence[Column], *, nothing: str, layout: Layout = Layout()) -> None:
    """Print a table, or `nothing` if there are no rows. On a terminal it fits the width if it can."""
    terminal = sys.stdout.isatty()
    whole = layout.wide or not terminal
    chosen = _choose(columns, layout, whole=whole)
    if not rows:
        sys.stdout.write(nothing + "\n")
        return
    readers = [column.read if whole else column.short or column.read for column in chosen]
    cells = [[_text(read(row)) for read in readers] for row in rows]
    widths = [max(map(_width, texts)) for texts in zip([one.name for one in chosen], *cells, strict=True)]
    if not whole:
        widths = _fit(chosen, widths, shutil.get_terminal_size().columns)
    heading = _GAP.join(_pad(column.name, width) for column, width in zip(chosen, widths, strict=True)).rstrip()
    lines = [_style(heading, "1")]
    for row in cells:
        lines += _lines(chosen, row, widths, whole=whole)
    sys.stdout.write("\n".join(lines) + "\n")


def _choose(columns: Sequence[Column], layout: Layout, *, whole: bool) -> list[Column]:
    if layout.columns is None:
        return [one for one in columns if whole or not one.wide]
    known = {one.name: one for one in columns}
    names = [name.strip().lower() for name in layout.columns.split(",")]
    by_lower = {name.lower(): name for name in known}
    if unknown := [name for name in names if name not in by_lower]:
        texts = [f"--columns: there is no column {escape(name)!r}; use {', '.join(known)}" for name in unknown]
        raise CliError(Exit.USAGE, texts)
    return [known[by_lower[name]] for name in names]


def _fit(columns: Sequence[Column], widths: Sequence[int], available: int) -> list[int]:
    """Widths that fit the terminal: clipped columns give way first, then wrapped ones, down to their narrowest."""
    fitted = list(widths)
    wrapped = [number for number, one in enumerate(columns) if one.wraps]
    clipped = [number for number, one in enumerate(columns) if one.clips]
    over = sum(fitted) + len(_GAP) * (len(fitted) - 1) - available
    # What wrapped columns can give up is counted first: a wrapped text is still whole, a clipped one is not.
    spare = sum(max(0, fitted[number] - _NARROWEST_WRAPPED) for number in wrapped)
    for number in clipped:
        cut = min(max(0, over - spare), max(0, fitted[number] - max(_NARROWEST_CLIPPED, len(columns[number].name))))
        fitted[number] -= cut
        over -= cut
    for number in sorted(wrapped, key=lambda one: -fitted[one]):
        cut = min(max(0, over), max(0, fitted[number] - _NARROWEST_WRAPPED))
        fitted[number] -= cut
        over -= cut
    return fitted


def _lines(columns: Sequence[Column], row: Sequence[str], widths: Sequence[int], *, whole: bool) -> list[str]:
    if whole or all(_width(text) <= width for text, width in zip(row, widths, strict=True)):
        return [_line(row, widths)]
    parts = [
        _wrap(text, width) if column.wraps else [_clip(text, width)]
        for column, text, width in zip(columns, row, widths, strict=True)
    ]
    height = max(map(len, parts))
    return [_line([part[number] if number < len(part) else "" for part in parts], widths) for number in range(height)]


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    last = len(texts) - 1
    padded = (text if number == last else _pad(text, widths[number]) for number, text in enumerate(texts))
    colored = (_style(shown, _COLORS.get(text, "")) for shown, text in zip(padded, texts, strict=True))
    return _GAP.join(colored).rstrip()


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _clip(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while _width(text) >= width:
        text = text[:-1]
    return text + "…"


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """How many columns of a terminal a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


def _style(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if code and _colored and sys.stdout.isatty() else text


_colored = True


def without_color() -> None:
    """Print no colours, as NO_COLOR asks."""
    global _colored  # noqa: PLW0603  set once, before anything is printed
    _colored = False


def facts(title: str, known: Mapping[str, object]) -> None:
    """Print the facts of a thing, one a line. Unknown ones are left out; long ones continue on the next line."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    names = max(map(len, known), default=0)
    lines = [_style(escape(title), "1")]
    for name, value in known.items():
        if value is None or value == "":
            continue
        begin = f"  {escape(name):<{names}}  "
        text = _text(value)
        parts = [text] if width is None else _wrap(text, max(_NARROWEST_WRAPPED, width - len(begin)))
        lines += [
            (begin if number == 0 else " " * len(begin)) + _style(part, _COLORS.get(part, ""))
            for number, part in enumerate(parts)
        ]
    sys.stdout.write("\n".join(lines) + "\n")


def answer(text: str) -> None:
    """Print a result on standard output, at once: the reader may not wait for the end."""
    sys.stdout.write(escape(text) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Print a line for people on standard error, which programs do not read."""
    sys.stderr.write(escape(text) + "\n")


def counts(by_state: Mapping[str, int]) -> str:
    """Counts in a line: `12 ACTIVE, 8 BUILD`."""
    return ", ".join(f"{number} {state}" for state, number in by_state.items()) or "none"


def price_of(one: Mapping[str, Any]) -> str:
    """The price of something per hour, with its currency."""
    return f"{one['price_per_hour']} {one['currency']}" if one["price_per_hour"] else "not known"


def time_of(text: str | None) -> str:
    """A time of the API, to the second and in UTC."""
    return text[:19].replace("T", " ") + "Z" if text else ""


def minute_of(text: str | None) -> str:
    """A time of the API without its year, to the minute, in UTC: `03-02 12:00`."""
    return text[5:16].replace("T", " ") if text else ""


def age_of(text: str | None, now: datetime | None = None) -> str:
    """How long ago a time of the API was, in its largest unit."""
    if not text:
        return ""
    seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(text)).total_seconds()
    return span(max(seconds, 0.0))


def span(seconds: float) -> str:
    """A duration in its largest unit: `45s`, `12m`, `3.4h`, `2.1d`."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    if seconds < 3600:
        return f"{seconds / 60:.0f}m"
    if seconds < 86400:
        return f"{seconds / 3600:.1f}h"
    return f"{seconds / 86400:.1f}d"


def _text(value: object) -> str:
    return "" if value is None else "yes" if value is True else "no" if value is False else escape(str(value))

"""From values to HTML and CSV. Everything that others wrote is escaped, for HTML and against control characters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import jinja2
from aiohttp import web
from markupsafe import Markup

from service import __version__
from service.api.context import COUNTED_AT, LAG
from service.core import csv_lines
from service.core.printable import escape
from service.web.sessions import Session

SESSION: Final = web.RequestKey("session", Session)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageColumn:
    """A column of a table: its heading, what it shows of a row, and where its cell leads."""

    name: str
    read: Callable[[Any], object]
    link: Callable[[Any], str | None] = lambda _: None
    kind: str = ""  #: "state", "time", "number", "money" or "span": how it looks


def html(request: web.Request, template: str, *, status: int = 200, **values: Any) -> web.Response:
    """A page."""
    session = request.get(SESSION)
    text = _TEMPLATES.get_template(template).render(
        session=session,
        lag=request.get(LAG),
        counted=request.get(COUNTED_AT),
        path=request.path,
        here=request.rel_url,
        version=__version__,
        **values,
    )
    return web.Response(text=text, status=status, content_type="text/html", headers={"Cache-Control": "no-store"})


def as_csv(columns: Sequence[PageColumn], rows: Sequence[Any], *, heading: bool) -> str:
    """Rows as CSV, each cell as the page shows it."""
    lines = [[column.name for column in columns]] if heading else []
    lines += [[escape(_plain(column.read(row))) for column in columns] for row in rows]
    return "".join(map(csv_lines.line, lines))


def csv_file(name: str, text: str) -> web.Response:
    """CSV to save under a name."""
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return web.Response(text=text, content_type="text/csv", charset="utf-8", headers=headers)


def static(name: str) -> tuple[str, str]:
    """A file of the dashboard's own, and its content type. Raises KeyError if there is none."""
    return _STATIC[name]


def _plain(value: object) -> str:
    return "" if value is None else {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _safe(value: object) -> object:
    # Jinja escapes for HTML afterwards.
    if isinstance(value, Markup) or callable(value):
        return value
    return escape(_plain(value)) if value is None or isinstance(value, str | bool) else value


def _time(value: str | datetime | None) -> Markup:
    """A time as people read it, with the exact one behind it."""
    if value is None:
        return Markup("")
    exact = value if isinstance(value, str) else value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return Markup('<time datetime="{0}" title="{0}">{1}</time>').format(exact, exact[:19].replace("T", " "))


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in found.items())


def _span(seconds: float | None) -> str:
    """A number of seconds, to two units."""
    if seconds is None:
        return "unknown"
    whole = int(seconds)
    for size, unit, smaller, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{whole} s"


def _money(amount: str | float) -> str:
    """An amount with two decimal places; the exact one is in the CSV."""
    return f"{Decimal(str(amount)):,.2f}"


def _load() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("service.web"),
        autoescape=True,
        finalize=_safe,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"time": _time, "counts": _counts, "span": _span, "money": _money}
    return made


def _read_static() -> dict[str, tuple[str, str]]:
    loader = jinja2.PackageLoader("service.web", "static")
    types = {"dashboard.css": "text/css", "dashboard.js": "text/javascript", "icon.svg": "image/svg+xml"}
    return {name: (loader.get_source(_TEMPLATES, name)[0], kind) for name, kind in types.items()}


_TEMPLATES: Final = _load()
_STATIC: Final = _read_static()

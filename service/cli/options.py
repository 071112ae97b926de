"""Options that several commands share, and the printing of a list."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final

import typer

from service.cli.output import Column, Layout, as_json, say, table

Json = Annotated[bool, typer.Option("--json", help="print JSON; without --limit, all items")]
OneJson = Annotated[bool, typer.Option("--json", help="print JSON")]
TotalJson = Annotated[
    bool, typer.Option("--json", help="print a JSON object with `total` and `items`; without --limit, all items")
]
Limit = Annotated[int | None, typer.Option(min=1, help="how many at most; 100 in a table, all in JSON")]
All = Annotated[bool, typer.Option("--all", help="all of them, also in a table")]
Wide = Annotated[bool, typer.Option("--wide", help="all columns and whole ids; a pipe always gets them")]
Columns = Annotated[str | None, typer.Option("--columns", metavar="A,B", help="only these columns, in this order")]
OfSubmission = Annotated[
    str | None, typer.Option("--submission", help="only of this submission: its id, a unique prefix, or its name")
]
PeriodSince = Annotated[
    str | None, typer.Option(metavar="TIME", help="when the period begins; 30 days before its end if left out")
]
PeriodUntil = Annotated[str | None, typer.Option(metavar="TIME", help="when it ends, not included; now if left out")]

_TABLE_LIMIT: Final = 100


def limit_of(limit: int | None, *, all_: bool, json_: bool) -> int | None:
    """How many items to read; None means all."""
    return None if all_ or (json_ and limit is None) else limit or _TABLE_LIMIT


def print_list(
    rows: Iterable[Any],
    columns: Sequence[Column],
    *,
    limit: int | None,
    json_: bool,
    nothing: str,
    layout: Layout = Layout(),
) -> None:
    """Print a list. If `limit` may have cut it off, say so on standard error."""
    items = list(rows)
    if json_:
        as_json(items)
    else:
        table(items, columns, nothing=nothing, layout=layout)
    note_cut(len(items), limit)


def note_cut(count: int, limit: int | None) -> None:
    # Also with JSON: a script that deletes what is listed would leave the rest running.
    if limit is not None and count == limit:
        say(f"the first {limit}; --all shows all of them")

"""`rollcall check`: whether a daemon could work here, part by part, and how to fix what is wrong."""

import asyncio

import typer

from service.cli.exits import Exit
from service.cli.options import OneJson
from service.cli.output import Column, as_json, table

_COLUMNS: tuple[Column, ...] = (
    Column("result", lambda one: one["state"]),
    Column("part", lambda one: one["what"]),
    Column("found", lambda one: one["found"], wraps=True),
    Column("what to do", lambda one: one["advice"], wraps=True),
)


def check(json_: OneJson = False) -> None:
    """Check whether a daemon could work here. It makes no files and no database, and says what `serve` would make.

    Settings, data directory, database, clock, shared settings, provider key, callback URL, and the health issues of the daemon
    that runs here; exit code 1 if any failed.
    """
    from service.app.checks import every  # noqa: PLC0415  slow to import

    found = asyncio.run(every())
    rows = [{"state": one.state, "what": one.what, "found": one.found, "advice": one.advice} for one in found]
    if json_:
        as_json(rows)
    else:
        table(rows, _COLUMNS, nothing="nothing was checked")
    if any(one.state == "failed" for one in found):
        raise typer.Exit(Exit.FAILED)

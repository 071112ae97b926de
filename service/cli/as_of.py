"""What commands share about the past (`--at`), and the command for what ran off contract."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

import typer

from service.cli import audit_views, views
from service.cli.api_client import api_client, submission_id
from service.cli.exits import CliError, Exit
from service.cli.options import All, Columns, Limit, OfSubmission, PeriodUntil, TotalJson, Wide, limit_of, note_cut
from service.cli.output import Layout, as_json, facts, table

At = Annotated[
    str | None,
    typer.Option("--at", metavar="TIME", help="as of then: 2026-03-01 (its start, in UTC), or 2026-03-01T12:00Z"),
]
KnownAt = Annotated[
    str | None,
    typer.Option(
        "--known-at", metavar="TIME", help="with --at: as it happened, as far as it was on record at this time"
    ),
]
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def refuse_present_filters(filters: Mapping[str, object]) -> None:
    """Raise `CliError` for each filter that is set, although the record has no history of it."""
    given = [f"--{name}" for name, value in filters.items() if value is not None]
    if given:
        raise CliError(Exit.USAGE, [f"{name} cannot go with --at: the record has no history of it" for name in given])


def known(at: str | None, known_at: str | None) -> str | None:
    """The time of --known-at. Raises `CliError` if it is wrong, or without --at."""
    if known_at is not None and at is None:
        raise CliError(Exit.USAGE, "--known-at goes only with --at")
    return moment("--known-at", known_at)


def diff(
    ctx: typer.Context,
    from_: Annotated[str, typer.Option("--from", metavar="TIME", help="the earlier moment")],
    to: Annotated[str | None, typer.Option(metavar="TIME", help="the later moment; now if left out")] = None,
    submission: OfSubmission = None,
    limit: Limit = None,
    all_: All = False,
    wide: Wide = False,
    columns: Columns = None,
    json_: TotalJson = False,
) -> None:
    """Show what is different between two moments: VMs that appeared, that are gone, and that changed."""
    client = api_client(ctx)
    of = submission_id(client, submission)
    # Without a later moment, that of the first answer: every page has to be of the same.
    later = moment("--to", to) or client.fleet()["fleet"]["at"]
    wanted = limit_of(limit, all_=all_, json_=json_)
    found = client.diff(from_=moment("--from", from_) or "", to=later, submission_id=of, limit=wanted)
    head, rows = found.head, list(found)
    if json_:
        as_json({**head, "items": rows})
    else:
        table(rows, audit_views.DIFFERENCES, nothing="nothing is different", layout=Layout(wide, columns))
        facts("all of it", head["total"])
    note_cut(len(rows), wanted)


def off_contract(
    ctx: typer.Context,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="when the period begins; the beginning if left out")
    ] = None,
    until: PeriodUntil = None,
    submission: OfSubmission = None,
    limit: Limit = None,
    all_: All = False,
    wide: Wide = False,
    columns: Columns = None,
    json_: TotalJson = False,
) -> None:
    """Show which VMs ran on demand although a contract was requested, and for how long.

    The total is of the whole period, however many rows are shown.
    """
    client = api_client(ctx)
    wanted = limit_of(limit, all_=all_, json_=json_)
    found = client.off_contract(
        since=moment("--since", since),
        until=moment("--until", until),
        submission_id=submission_id(client, submission),
        limit=wanted,
    )
    period, rows = found.head, list(found)
    if json_:
        as_json({**period, "items": rows})
    else:
        table(rows, views.OFF_CONTRACT, nothing="nothing ran off contract", layout=Layout(wide, columns))
        facts("the whole period", views.off_contract(period))
    note_cut(len(rows), wanted)


def moment(option: str, given: str | None) -> str | None:
    """A typed time in the form of the API. Raises `CliError` if it is not a time, or has no zone."""
    if given is None:
        return None
    try:
        found = datetime.fromisoformat(given.strip().upper())
        if _DAY.fullmatch(given.strip()):
            found = found.replace(tzinfo=UTC)
        if found.tzinfo is not None:
            return found.astimezone(UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError):
        raise CliError(
            Exit.USAGE, f"{option}: {given!r} is not a time; write 2026-03-01 or 2026-03-01T12:00Z"
        ) from None
    raise CliError(Exit.USAGE, f"{option}: {given!r} has no time zone; add Z for UTC, or +01:00")

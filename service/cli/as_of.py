"""Commands about the past: the fleet and its VMs as they were (`--at`), and what ran off contract."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from service.cli import views
from service.cli.api_client import daemon
from service.cli.exits import CliError, Exit
from service.cli.output import as_json, facts, say, table
from service.client.http import ApiClient

At = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="TIME", help="as the record had it then: 2026-03-01 (its start, in UTC), or 2026-03-01T12:00Z"
    ),
]
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def fleet(there: ApiClient, at: str, submission: str | None) -> Any:
    """The fleet as it was, as the daemon answers it."""
    return there.get("v1", "fleet", "at", time=moment("--at", at), submission_id=submission)


def vms(
    there: ApiClient, at: str, *, limit: int | None, others: Mapping[str, object], **narrow: str | None
) -> list[Any]:
    """The VMs as they were. `others` are options that say something only of the present, by name."""
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise CliError(Exit.USAGE, [f"{name} cannot go with --at: the record keeps no history of it" for name in given])
    return list(there.items("v1", "vms", "at", limit=limit, time=moment("--at", at), **narrow))


def off_contract(
    ctx: typer.Context,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="when the period begins; the beginning if left out")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="when it ends, not included; now if left out")
    ] = None,
    submission: Annotated[str | None, typer.Option("--submission", help="only of this submission")] = None,
    limit: Annotated[int, typer.Option(min=1, help="how many at most; see --all")] = 100,
    all_: Annotated[bool, typer.Option("--all", help="all of them")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show which VMs ran on demand though a contract was wanted, and for how long.

    The total is of the whole period, however many rows are shown.
    """
    there = daemon(ctx)
    asked = {"since": moment("--since", since), "until": moment("--until", until), "submission_id": submission}
    period = there.get("v1", "off-contract", limit=1, **asked)
    # Every page has to end at the same moment, also where that is now.
    asked["until"] = period["until"]
    wanted = None if all_ else limit
    rows = list(there.items("v1", "off-contract", limit=wanted, **asked))
    if json_:
        as_json({name: period[name] for name in ("since", "until", "total")} | {"items": rows})
    else:
        table(rows, views.OFF_CONTRACT, nothing="nothing ran off contract")
        facts("the whole period", views.off_contract(period))
    if wanted is not None and len(rows) == wanted:
        say(f"the first {wanted}; --all shows all of them")


def moment(option: str, given: str | None) -> str | None:
    """A time that somebody typed, as the API takes it. Raises `CliError` where it is none, or could be anywhere."""
    if given is None:
        return None
    try:
        found = datetime.fromisoformat(given.strip().upper())
        if _DAY.fullmatch(given.strip()):
            found = found.replace(tzinfo=UTC)
        if found.tzinfo is not None:
            return found.astimezone(UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError):
        raise CliError(Exit.USAGE, f"{option}: {given!r} is no time; write 2026-03-01 or 2026-03-01T12:00Z") from None
    raise CliError(Exit.USAGE, f"{option}: {given!r} does not say where; add Z for UTC, or +01:00")

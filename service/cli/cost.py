"""The command `cost`: what VMs cost in a period, as a table, JSON or CSV."""

import sys
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from service.cli.api_client import daemon
from service.cli.as_of import moment
from service.cli.exits import CliError, Exit
from service.cli.output import Column, as_json, facts, say, span, table, time_of


class By(StrEnum):
    """What costs can be added up by."""

    VM = "vm"
    SUBMISSION = "submission"
    CONTRACT = "contract"
    LABEL = "label"
    CALLER = "caller"
    FLAVOR = "flavor"
    REGION = "region"
    DAY = "day"


def cost(
    ctx: typer.Context,
    by: Annotated[By, typer.Option(help="what to add up by")] = By.SUBMISSION,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="when the period begins; 30 days before its end if left out")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="when it ends, not included; now if left out")
    ] = None,
    submission: Annotated[str | None, typer.Option("--submission", help="only of this submission")] = None,
    limit: Annotated[int, typer.Option(min=1, help="how many rows at most; see --all")] = 100,
    all_: Annotated[bool, typer.Option("--all", help="all rows")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="print CSV, for a spreadsheet")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Estimate what VMs cost in a period, and how much of it ran off contract.

    From list prices, contract discounts and the record's states; not an invoice. The total is of the whole period.
    """
    if csv and json_:
        raise CliError(Exit.USAGE, "--csv and --json exclude each other")
    there = daemon(ctx)
    asked = {"by": by.value, "since": moment("--since", since), "until": moment("--until", until)}
    asked["submission_id"] = submission
    report = there.get("v1", "cost", limit=1, **asked)
    # Every page has to be of the same period, also if it ends now.
    asked |= {"since": report["since"], "until": report["until"]}
    wanted = None if all_ else limit
    rows = list(there.items("v1", "cost", limit=wanted, **asked))
    if json_:
        as_json({**report, "items": rows, "next": None})
    elif csv:
        from service.core.cost_csv import to_csv  # noqa: PLC0415  needed for this form alone

        sys.stdout.write(to_csv(by.value, report["currency"], rows))
    else:
        _print(by.value, report, rows)
    if wanted is not None and len(rows) == wanted:
        say(f"the first {wanted}; --all shows all of them")


def _print(by: str, report: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    columns: tuple[Column, ...] = (("ref" if by == "vm" else by, lambda row: row["key"]), *_COLUMNS)
    table(rows, columns, nothing="no VM was there in this period")
    facts(f"estimate for the whole period, in {report['currency']}", total_facts(report))


def total_facts(report: dict[str, Any]) -> dict[str, object]:
    """The total of a report, for people."""
    total = report["total"]
    unknown = float(total["unknown_seconds"])
    return {
        "since": time_of(report["since"]),
        "until": time_of(report["until"]),
        "VMs": total["vms"],
        "estimate": money(total["estimate"]),
        "off contract": f"{money(total['off_contract_estimate'])} of it",
        "price unknown": f"{span(unknown)} of VM time, in no estimate" if unknown else None,
    }


def money(amount: str) -> str:
    """An amount of the API in hundredths: `1,234.50`."""
    return f"{Decimal(amount):,.2f}"


# Narrow, so that a row with the 39 characters of a VM's reference fits 80 columns.
_COLUMNS: Final[tuple[Column, ...]] = (
    ("VMs", lambda row: row["vms"]),
    ("estimate", lambda row: money(row["estimate"])),
    ("off", lambda row: money(row["off_contract_estimate"])),
    ("unknown", lambda row: span(float(row["unknown_seconds"])) if float(row["unknown_seconds"]) else None),
)

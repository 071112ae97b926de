"""The command `cost`: what VMs cost in a period, as a table, JSON or CSV."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from service.cli import cost_views
from service.cli.api_client import api_client, submission_id
from service.cli.as_of import moment
from service.cli.exits import CliError, Exit
from service.cli.options import (
    All,
    Columns,
    Limit,
    OfSubmission,
    PeriodSince,
    PeriodUntil,
    TotalJson,
    Wide,
    limit_of,
    note_cut,
)
from service.cli.output import Layout, as_json, facts, table


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
    since: PeriodSince = None,
    until: PeriodUntil = None,
    submission: OfSubmission = None,
    limit: Limit = None,
    all_: All = False,
    wide: Wide = False,
    columns: Columns = None,
    csv: Annotated[bool, typer.Option("--csv", help="print CSV, for a spreadsheet; without --limit, all rows")] = False,
    json_: TotalJson = False,
) -> None:
    """Estimate what VMs cost in a period, and how much of it ran off contract.

    From list prices, contract discounts and the record's states; not an invoice. The total is of the whole period.
    """
    if csv and json_:
        raise CliError(Exit.USAGE, "--csv and --json exclude each other")
    client = api_client(ctx)
    wanted = limit_of(limit, all_=all_, json_=json_ or csv)
    found = client.cost(
        by=by.value,
        since=moment("--since", since),
        until=moment("--until", until),
        submission_id=submission_id(client, submission),
        limit=wanted,
    )
    report, rows = found.head, list(found)
    if json_:
        as_json({**report, "items": rows, "next": None})
    elif csv:
        from service.core.cost_csv import to_csv  # noqa: PLC0415  needed for this form alone

        sys.stdout.write(to_csv(by.value, report["currency"], rows))
    else:
        layout = Layout(wide, columns)
        table(rows, cost_views.columns(by.value), nothing="no VM existed in this period", layout=layout)
        facts(f"estimate for the whole period, in {report['currency']}", cost_views.total(report))
    note_cut(len(rows), wanted)

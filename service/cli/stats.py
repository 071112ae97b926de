"""The command `stats`: how long VMs took, what failed, callbacks and availability, as tables with bars, JSON, CSV or an SVG file."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.cli import stats_views
from service.cli.api_client import api_client, submission_id
from service.cli.as_of import moment
from service.cli.exits import CliError, Exit
from service.cli.options import All, Columns, Limit, OfSubmission, PeriodSince, PeriodUntil, Wide, limit_of, note_cut
from service.cli.output import Layout, as_json, facts, say, table


class TimesBy(StrEnum):
    """What times can be shown by."""

    FLAVOR = "flavor"
    REGION = "region"
    ENVIRONMENT = "environment"
    HOUR = "hour"
    DAY = "day"


class Plot(StrEnum):
    """What an SVG file can show."""

    TIMES = "times"
    FAILURES = "failures"
    CALLBACKS = "callbacks"
    AVAILABILITY = "availability"


def stats(
    ctx: typer.Context,
    by: Annotated[
        TimesBy, typer.Option(help="what to show times by; an hour is one of the day, in UTC")
    ] = TimesBy.FLAVOR,
    since: PeriodSince = None,
    until: PeriodUntil = None,
    submission: OfSubmission = None,
    limit: Limit = None,
    all_: All = False,
    wide: Wide = False,
    columns: Columns = None,
    csv: Annotated[bool, typer.Option("--csv", help="print CSV, one number a line, with all fleets")] = False,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="also write a plot; needs the extra `plots`")
    ] = None,
    plot: Annotated[Plot, typer.Option(help="what the SVG file shows")] = Plot.TIMES,
    json_: Annotated[
        bool, typer.Option("--json", help="print a JSON object; without --limit, with all fleets")
    ] = False,
) -> None:
    """Show how long VMs took, what failed, which callbacks were lost, and how available fleets were.

    `--columns` and `--wide` are for the table of times; `--limit` is for the table of fleets.
    """
    if csv and json_:
        raise CliError(Exit.USAGE, "--csv and --json exclude each other")
    client = api_client(ctx)
    of = submission_id(client, submission)
    report = client.statistics(since=moment("--since", since), until=moment("--until", until), submission_id=of)
    wanted = limit_of(limit, all_=all_, json_=json_ or csv)
    period = {"since": report["since"], "until": report["until"]}
    fleets = list(client.availability(**period, submission_id=of, limit=wanted))
    if svg is not None:
        from service.cli.stats_svg import draw  # noqa: PLC0415  imports an extra

        _write(svg, draw(plot.value, by.value, report, fleets))
    if json_:
        as_json({**report, "fleets": fleets})
    elif csv:
        from service.core.statistics_csv import to_csv  # noqa: PLC0415  needed for this form alone

        sys.stdout.write(to_csv(report, fleets))
    else:
        times = [one for one in report["times"] if one["by"] == by.value]
        table(times, stats_views.times(by.value, times), nothing="no VM was asked for", layout=Layout(wide, columns))
        table(report["failures"], stats_views.failures(report["failures"]), nothing="nothing failed")
        facts("callbacks", stats_views.callbacks(report["callbacks"]))
        table(fleets, stats_views.FLEETS, nothing="there was no fleet")
        facts("all of it", stats_views.total(report))
    note_cut(len(fleets), wanted)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CliError(Exit.FAILED, f"{path} cannot be written: {error.strerror}") from error
    say(f"{path} was written")

"""The page of statistics: how long VMs took, what failed, callbacks and availability, drawn and as tables, or as CSV."""

from typing import Any, Final

from aiohttp import web

from service.api import statistics
from service.api.context import LAG
from service.core.statistics_csv import to_csv
from service.errors import Overloaded
from service.web import plots
from service.web.columns import AVAILABILITY, FAILURES, TIMES
from service.web.reading import api, as_options, asking, pages, parameters
from service.web.rendering import csv_file, html
from service.web.reports import REPORTS, SharedReport
from service.web.shared import TIMEOUT

_BY: Final = ("flavor", "region", "environment", "hour", "day")
_FLEETS: Final = "50"
#: Seconds that CSV waits for a report: a little less than a page may take.
_CSV_PATIENCE: Final = TIMEOUT - 1
#: The statistics, the availability of the first fleets, and `LAG`.
Statistics = tuple[dict[str, Any], list[dict[str, Any]], float | None]
_CHANGES: Final = {"in time": "in_time", "late": "late", "lost": "lost"}


async def show(request: web.Request) -> web.Response:
    """The statistics of a period, the last 30 days if the form names none."""
    asked_by = request.query.get("by", "")
    by = asked_by if asked_by in _BY else "flavor"
    given = {name: value for name, value in parameters(request).items() if name != "by"}
    await statistics.check(asking(request, given))  # a wrong request is told so at once, whatever is being counted
    is_csv = request.query.get("format") == "csv"
    made = await request.app[REPORTS].get(
        tuple(sorted(given.items())), lambda: _report(request, given), patience=_CSV_PATIENCE if is_csv else None
    )
    if is_csv and (made is None or made.is_replaced or made.failure):
        raise Overloaded((made and made.failure) or "This is being counted. Try again in a while.")
    if made is None:
        return _refreshing(html(request, "counting.html", title="Statistics"))
    report, _, lag = made.value
    if lag is not None:
        request[LAG] = lag
    if is_csv:
        return await _as_csv(request, report, _period(given, report))
    page = _page(request, made, by, given)
    return _refreshing(page) if made.is_replaced else page


def _page(request: web.Request, made: SharedReport[Statistics], by: str, given: dict[str, str]) -> web.Response:
    report, fleets, _ = made.value
    times = [row for row in report["times"] if row["by"] == by]
    callbacks = report["callbacks"]
    return html(
        request,
        "statistics.html",
        report=report,
        counted_at=made.began_at,
        is_replaced=made.is_replaced,
        failure=made.failure,
        everything=next((row for row in report["times"] if row["by"] == "all"), None),
        by=by,
        bys=_BY,
        given=given,
        times=times,
        times_columns=TIMES,
        times_bars=plots.bars([(row["key"], _percentiles(row["ready"])) for row in times]),
        changes=plots.bars([(name, [("vms", callbacks[key])]) for name, key in _CHANGES.items()]),
        failures=report["failures"],
        failures_columns=FAILURES,
        failures_bars=plots.bars(
            [(f"{row['kind']} {row['what']}", [("failed", row["count"])]) for row in report["failures"]]
        ),
        fleets=fleets,
        fleets_columns=AVAILABILITY,
        fleets_bars=plots.bars([(row["name"], [("running", row["share"])]) for row in fleets], top=1.0),
        width=plots.BARS_WIDTH,
        as_csv=request.rel_url.update_query(format="csv"),
        same_by=str(request.rel_url.with_path("/v1/statistics").with_query(given)),
        cli=f"rollcall stats{as_options(given)}",
    )


async def _report(request: web.Request, given: dict[str, str]) -> Statistics:
    report = await api(request, statistics.show, given)
    fleets = await api(request, statistics.fleets, {**_period(given, report), "limit": _FLEETS})
    return report, fleets["items"], request.get(LAG)


def _period(given: dict[str, str], report: dict[str, Any]) -> dict[str, str]:
    """Both answers have to be of the same period, also if it ends now."""
    return {**given, "since": report["since"], "until": report["until"]}


def _refreshing(page: web.Response) -> web.Response:
    page.headers["Refresh"] = "5"  # also without JavaScript
    return page


def _percentiles(found: dict[str, Any]) -> list[tuple[str, float | None]]:
    """The widest first, so that the others lie upon it."""
    return [(name, found[name]) for name in ("p99", "p90", "p50")]


async def _as_csv(request: web.Request, report: dict[str, Any], period: dict[str, str]) -> web.Response:
    fleets = [one async for some in pages(request, statistics.fleets, {**period, "limit": "1000"}) for one in some]
    return csv_file("statistics", to_csv(report, fleets))

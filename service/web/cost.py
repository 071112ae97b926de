"""The page of costs: what VMs cost in a period, by what one likes, and of it what ran off contract; or as CSV."""

from typing import Any, Final

from aiohttp import web

from service.api import cost
from service.core.cost_csv import to_csv
from service.web import plots
from service.web.columns import cost_columns
from service.web.reading import api, as_options, pages, parameters
from service.web.rendering import csv_file, html

_BY: Final = ("submission", "contract", "flavor", "day", "region", "caller", "label")
_PAGE: Final = "50"


async def show(request: web.Request) -> web.Response:
    """The cost of a period by a key, the last 30 days if the form names none."""
    given = parameters(request, limit=_PAGE)
    by = given.setdefault("by", "submission")
    report = await api(request, cost.show, given)
    # Every page has to be of the same period, also if it ends now.
    period = {**given, "since": report["since"], "until": report["until"]}
    if request.query.get("format") == "csv":
        return await _as_csv(request, report, period)
    following = None if report["next"] is None else request.rel_url.with_query({**period, "cursor": report["next"]})
    asked = {name: value for name, value in given.items() if (name, value) != ("limit", _PAGE)}
    return html(
        request,
        "cost.html",
        report=report,
        by=by,
        bys=_BY,
        given=given,
        bars=plots.bars([(row["key"], _parts(row)) for row in report["items"]]),
        width=plots.BARS_WIDTH,
        columns=cost_columns(by),
        following=following,
        as_csv=request.rel_url.without_query_params("cursor").update_query(format="csv"),
        same_by=str(request.rel_url.with_path("/v1/cost").with_query(asked)),
        cli=f"rollcall cost{as_options(asked)}",
    )


def _parts(row: dict[str, Any]) -> list[tuple[str, float | None]]:
    """All of it, and upon it what ran off contract."""
    return [("cost", float(row["estimate"])), ("off", float(row["off_contract_estimate"]))]


async def _as_csv(request: web.Request, report: dict[str, Any], period: dict[str, str]) -> web.Response:
    wanted = {name: value for name, value in period.items() if name != "cursor"} | {"limit": "1000"}
    rows = [one async for some in pages(request, cost.show, wanted) for one in some]
    return csv_file("cost", to_csv(report["by"], report["currency"], rows))

"""The first page: the fleet now, what is wrong with it, and how it came to be."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from service.api import fleet, submissions
from service.api.context import LAG, reading, runtime
from service.queries import state_history
from service.queries.state_history import StateCounts
from service.runtime.runtime import Runtime
from service.storage import rate_limit
from service.storage.engine import begin
from service.web import plots
from service.web.columns import SUBMISSIONS
from service.web.reading import api
from service.web.rendering import html
from service.web.shared import SHARED

#: How far back the drawing goes, in minutes, and what that is called.
_SPANS: Final = {15: "15 min", 60: "1 h", 360: "6 h", 1440: "24 h", 10080: "7 days"}
_STEPS: Final = 120


async def show(request: web.Request) -> web.Response:
    """The fleet now. `minutes` says how far back the drawing goes."""
    rt = runtime(request)
    given = request.query.get("minutes", "")
    minutes = int(given) if given in map(str, _SPANS) else 60
    counts = await request.app[SHARED].get(("overview", minutes), lambda: _counts(request, minutes))
    history = counts.history
    if counts.lag is not None:
        request[LAG] = counts.lag
    async with begin(rt.engine) as conn:
        used = await rate_limit.usage(conn, rt.settings.rate_limit_scope, rt.clock.now())
    areas, top = plots.areas(history)
    latest = await api(request, submissions.index, {"limit": "8"})
    return html(
        request,
        "overview.html",
        fleet=counts.fleet,
        issues=rt.health.open(),
        ready=rt.health.ready,
        used=sum(used.values()),
        limit=rt.limits.calls,
        areas=areas,
        top=top,
        size=(plots.WIDTH, plots.HEIGHT),
        since=history[0].at,
        until=history[-1].at,
        minutes=minutes,
        spans=_SPANS,
        items=latest["items"],
        columns=SUBMISSIONS,
        same_by="/v1/fleet",
        cli="rollcall fleet",
    )


@dataclass(frozen=True, slots=True)
class OverviewCounts:
    """What costs the most on the page, and is the same for everybody; `lag` as in `LAG`."""

    history: list[StateCounts]
    fleet: dict[str, Any]
    lag: float | None


async def _counts(request: web.Request, minutes: int) -> OverviewCounts:
    async with reading(request) as conn:
        history = await _history(runtime(request), conn, minutes)
    counted = (await api(request, fleet.show))["fleet"]
    return OverviewCounts(history, counted, request.get(LAG))


async def _history(rt: Runtime, conn: AsyncConnection, minutes: int) -> list[StateCounts]:
    now = rt.clock.now()
    return await state_history.over_time(conn, since=now - timedelta(minutes=minutes), until=now, steps=_STEPS)

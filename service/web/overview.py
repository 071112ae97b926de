"""The first page: the fleet now, what is wrong with it, and how it came to be."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from aiohttp import web
from msgspec import to_builtins

from service.api import fleet, submissions
from service.api.context import SAMPLED, reading, runtime
from service.queries import cost, fleet_samples, state_history
from service.queries.state_history import StateCounts
from service.storage import rate_limit
from service.storage.engine import begin
from service.web import plots
from service.web.columns import SUBMISSIONS
from service.web.reading import api
from service.web.rendering import html

#: How far back the drawing goes, in minutes, and what that is called.
_SPANS: Final = {15: "15 min", 60: "1 h", 360: "6 h", 1440: "24 h", 10080: "7 days"}
_STEPS: Final = 120


async def show(request: web.Request) -> web.Response:
    """The fleet now. `minutes` says how far back the drawing goes."""
    rt = runtime(request)
    given = request.query.get("minutes", "")
    minutes = int(given) if given in map(str, _SPANS) else 60
    counts = await _counts(request, minutes)
    history = counts.history
    async with begin(rt.engine) as conn:
        used = await rate_limit.usage(conn, rt.settings.rate_limit_scope, rt.clock.now())
    areas, top = plots.areas(history)
    request[SAMPLED] = True
    latest = await api(request, submissions.index, {"limit": "8"})
    return html(
        request,
        "overview.html",
        fleet=counts.fleet,
        per_hour=counts.per_hour,
        counted_at=counts.counted_at,
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
    """The numbers of the page, and how they came to be; `counted_at` is None if they are of now."""

    history: list[StateCounts]
    fleet: dict[str, Any]
    per_hour: dict[str, Any]
    counted_at: datetime | None


async def _counts(request: web.Request, minutes: int) -> OverviewCounts:
    """Of a large record, what was counted last: to count it anew would read every VM."""
    now = runtime(request).clock.now()
    since = now - timedelta(minutes=minutes)
    async with reading(request) as conn:
        sample = await fleet_samples.instead_of_counting(conn, now=now)
        if sample is not None:
            history = await fleet_samples.over_time(conn, since=since, until=now, steps=_STEPS)
            return OverviewCounts(history, sample.numbers["fleet"], sample.numbers["per_hour"], sample.counted_at)
        history = await state_history.over_time(conn, since=since, until=now, steps=_STEPS)
        per_hour = await cost.per_hour(conn, now=now)
    counted = (await api(request, fleet.show))["fleet"]
    return OverviewCounts(history, counted, to_builtins(per_hour), None)

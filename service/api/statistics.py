"""Handlers of the statistics of a period, and their queries."""

from typing import Literal
from uuid import UUID

from aiohttp import web
from msgspec import to_builtins
from pydantic import Field

from service.api import past, query
from service.api.context import answer, page, reading, runtime
from service.core.duration import Moment
from service.core.statistics_csv import to_csv
from service.queries import availability, statistics
from service.queries.callback_statistics import callbacks
from service.queries.statistics import StatisticsPeriod


class PeriodQuery(query.Query):
    since: Moment | None = Field(default=None, description="when the period begins; 30 days before its end if left out")
    until: Moment | None = Field(default=None, description="when it ends, not in the future; now if left out")


class StatisticsQuery(PeriodQuery):
    submission_id: UUID | None = Field(default=None, description="only of this submission")
    format: Literal["json", "csv"] | None = Field(
        default=None, description="json or csv; if left out, CSV if the header Accept names text/csv"
    )


class AvailabilityQuery(PeriodQuery, query.PageQuery):
    submission_id: UUID | None = Field(default=None, description="only this submission")
    cursor: UUID | None = Field(default=None, description="`next` of the page before; give its `since` and `until` too")


async def show(request: web.Request) -> web.Response:
    """The statistics of a period: times, failures, callbacks, and the availability of all fleets together."""
    wanted = query.read(StatisticsQuery, request)
    period = _period(request, wanted)
    async with reading(request) as conn:
        await past.require_submission(conn, wanted.submission_id)
        found = {
            "times": await statistics.times(conn, period),
            "failures": await statistics.failures(conn, period),
            "callbacks": await callbacks(conn, period),
            "availability": await availability.total(conn, period),
        }
    report = {"since": period.since, "until": period.until, **to_builtins(found)}
    if query.wants_csv(request, wanted.format):
        return web.Response(text=to_csv(report), content_type="text/csv", charset="utf-8")
    return answer(report)


async def check(request: web.Request) -> None:
    """Raise what `show` raises for a request that is wrong. Reads nothing that takes long."""
    wanted = query.read(StatisticsQuery, request)
    _period(request, wanted)
    if wanted.submission_id is not None:
        async with reading(request) as conn:
            await past.require_submission(conn, wanted.submission_id)


async def fleets(request: web.Request) -> web.Response:
    """A page of the availability of each fleet, oldest submission first."""
    wanted = query.read(AvailabilityQuery, request)
    period = _period(request, wanted)
    async with reading(request) as conn:
        await past.require_submission(conn, wanted.submission_id)
        found, following = await availability.page(conn, period, after=wanted.cursor, limit=wanted.limit)
    return page(to_builtins(found), None if following is None else str(following))


def _period(request: web.Request, wanted: StatisticsQuery | AvailabilityQuery) -> StatisticsPeriod:
    now = runtime(request).clock.now()
    return StatisticsPeriod(*past.period_of(now, since=wanted.since, until=wanted.until), wanted.submission_id)

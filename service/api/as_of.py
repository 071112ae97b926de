"""Handlers of the past: the fleet as of a moment, and what ran off contract in a period."""

from datetime import datetime
from uuid import UUID

from aiohttp import web
from msgspec.structs import asdict

from service.api import past, query, refs, serializers
from service.api.context import answer, first, page, reading, runtime
from service.api.cursors import micros, moment
from service.queries import as_of as as_of_queries
from service.queries import corroboration, diff


async def fleet(request: web.Request) -> web.Response:
    """The fleet in numbers, as it was on record at a moment."""
    rt = runtime(request)
    wanted = query.read(query.FleetAtQuery, request)
    past.check_times(rt.clock.now(), time=wanted.time, known_at=wanted.known_at)
    async with reading(request) as conn:
        await past.require_submission(conn, wanted.submission_id)
        counted = await as_of_queries.count(
            conn, at=wanted.time, known_at=wanted.known_at, submission_id=wanted.submission_id
        )
    return answer({"fleet": counted})


async def vms(request: web.Request) -> web.Response:
    """A page of the VMs behind those numbers, oldest submission first."""
    rt = runtime(request)
    wanted = query.read(query.VmsAtQuery, request)
    past.check_times(rt.clock.now(), time=wanted.time, known_at=wanted.known_at)
    async with reading(request) as conn:
        found = await as_of_queries.page(
            conn,
            at=wanted.time,
            known_at=wanted.known_at,
            submission_id=wanted.submission_id,
            state=wanted.state,
            after=refs.cursor(wanted.cursor),
            limit=wanted.limit + 1,
        )
        some, following = first(found, wanted.limit, serializers.ref)
        known = await corroboration.of_vms(conn, some, at=wanted.time, known_at=wanted.known_at)
    items = [{**serializers.vm_as_of(one), "corroboration": known[one.submission_id, one.vm_no]} for one in some]
    return page(items, following)


async def difference(request: web.Request) -> web.Response:
    """A page of the VMs that differ between two moments, and how many do in each way."""
    rt = runtime(request)
    wanted = query.read(query.DiffQuery, request)
    past.check_times(rt.clock.now(), **{"from": wanted.from_, "to": wanted.to})
    async with reading(request) as conn:
        await past.require_submission(conn, wanted.submission_id)
        period = diff.Moments(wanted.from_, wanted.to, wanted.submission_id)
        total = await diff.total(conn, period)
        found = await diff.page(conn, period, after=refs.cursor(wanted.cursor), limit=wanted.limit + 1)
    some, following = first(found, wanted.limit, serializers.ref)
    items = [{**asdict(one), "ref": serializers.ref(one)} for one in some]
    return answer({"from": wanted.from_, "to": wanted.to, "total": total, "items": items, "next": following})


async def off_contract(request: web.Request) -> web.Response:
    """A page of the times off contract in a period, and the total of the period."""
    rt = runtime(request)
    wanted = query.read(query.OffContractQuery, request)
    now = rt.clock.now()
    until = wanted.until or now
    past.check_period(now, since=wanted.since, until=wanted.until, end=until)
    async with reading(request) as conn:
        await past.require_submission(conn, wanted.submission_id)
        total = await as_of_queries.off_contract_total(
            conn, since=wanted.since, until=until, submission_id=wanted.submission_id
        )
        found = await as_of_queries.off_contract(
            conn,
            since=wanted.since,
            until=until,
            submission_id=wanted.submission_id,
            after=_after(wanted.cursor),
            limit=wanted.limit + 1,
        )
    some, following = first(found, wanted.limit, _cursor)
    return answer({
        "since": wanted.since,
        "until": until,
        "total": total,
        "items": list(map(serializers.off_contract, some)),
        "next": following,
    })  # fmt: skip


def _cursor(last: as_of_queries.OffContract) -> str:
    return f"{serializers.ref(last)}.{micros(last.since)}"


def _after(cursor: str | None) -> tuple[UUID, int, datetime] | None:
    ref, _, microseconds = (cursor or "").rpartition(".")
    key = refs.cursor(ref)
    return (*key, moment(microseconds)) if key else None

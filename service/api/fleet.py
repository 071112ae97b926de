"""Handlers of the fleet in numbers, the metrics, and the health checks."""

import asyncio
import math

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.api import cost, past, query
from service.api.context import answer, has_token, reading, runtime
from service.errors import StorageError
from service.queries import cost as cost_queries
from service.queries import fleet as fleet_queries
from service.queries.fleet import Fleet
from service.runtime.runtime import Runtime
from service.storage import rate_limit
from service.storage.engine import begin

#: Seconds. Health probes time out sooner than a database connection does.
_TIMEOUT = 3.0


async def show(request: web.Request) -> web.Response:
    """The fleet in numbers; for one submission also its evidence counts."""
    rt = runtime(request)
    wanted = query.read(query.FleetQuery, request)
    async with reading(request) as conn:
        await past.require_submission(conn, wanted.submission_id)
        counted = await fleet_queries.count(conn, now=rt.clock.now(), submission_id=wanted.submission_id)
        evidence = await fleet_queries.evidence_counts(conn, wanted.submission_id) if wanted.submission_id else None
    return answer({"fleet": counted, "evidence_counts": evidence})


async def metrics(request: web.Request) -> web.Response:
    """Metrics in Prometheus's text format. Without the database, the gauges that need it are NaN."""
    rt = runtime(request)
    try:
        async with asyncio.timeout(_TIMEOUT), begin(rt.engine) as conn:
            counted = await fleet_queries.count(conn, now=rt.clock.now(), times=False)
            used = await rate_limit.usage(conn, rt.settings.rate_limit_scope, rt.clock.now())
            per_hour = await cost_queries.per_hour(conn, now=rt.clock.now())
    except (StorageError, TimeoutError):
        _unknown(rt)
        cost.set_gauges(rt.metrics, None)
    else:
        _refresh(rt, counted, used)
        cost.set_gauges(rt.metrics, per_hour)
    return web.Response(body=generate_latest(rt.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _refresh(rt: Runtime, counted: Fleet, used: dict[str, int]) -> None:
    gauges = rt.metrics
    for gauge, counts in (
        (gauges.vms, counted.by_state),
        (gauges.submissions, counted.submissions),
        (gauges.rate_limit_used, used),
    ):
        gauge.clear()  # a state that no VM is in any more must not keep its last number
        for label, number in counts.items():
            gauge.labels(label).set(number)
    gauges.off_contract.set(counted.off_contract)
    gauges.stuck.set(counted.stuck)
    gauges.inbox.set(counted.events_waiting)
    gauges.inbox_age.set(counted.oldest_waiting_seconds)
    gauges.rate_limit_calls.set(rt.limits.calls)


def _unknown(rt: Runtime) -> None:
    gauges = rt.metrics
    for labelled in (gauges.vms, gauges.submissions, gauges.rate_limit_used):
        labelled.clear()
    for plain in (gauges.off_contract, gauges.stuck, gauges.inbox, gauges.inbox_age):
        plain.set(math.nan)


async def livez(_request: web.Request) -> web.Response:
    """200 while the event loop turns."""
    return answer({"alive": True})


async def readyz(request: web.Request) -> web.Response:
    """200 if the daemon can do all of its work, else 503. Only callers with a token see the health issues."""
    rt = runtime(request)
    issues, ready = dict(rt.health.issues), rt.health.ready
    try:
        async with asyncio.timeout(_TIMEOUT), begin(rt.engine) as conn:
            await fleet_queries.answers(conn)
    except (StorageError, TimeoutError):
        issues["database"] = "the database does not answer: callbacks are spooled, and no job can run"
        ready = False
    seen = {"ready": ready, "issues": issues} if has_token(request) else {"ready": ready}
    return answer(seen, status=200 if ready else 503)

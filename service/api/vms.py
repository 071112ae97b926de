"""Handlers of VMs and orphans: list them, show their timelines, delete them."""

from datetime import datetime
from functools import partial

from aiohttp import web

from service.api import query, refs, serializers
from service.api.context import answer, caller, first, page, reading, runtime
from service.api.cursors import micros, moment
from service.core.contract import Assignment
from service.operations import deletion
from service.queries import corroboration, timeline
from service.queries import fleet as fleet_queries
from service.queries.timeline import TimelineEntry
from service.runtime.logs import logger
from service.storage import vms
from service.storage.engine import begin
from service.storage.orphans import Orphan

_LOG = logger(room="api")


async def index(request: web.Request) -> web.Response:
    """A page of VMs, in the order of their submission."""
    wanted = query.read(query.VmQuery, request)
    filter_ = _filter(wanted)
    if filter_ is None:
        return page([], None)
    async with begin(runtime(request).engine) as conn:
        found = await vms.page(conn, filter_, after=refs.cursor(wanted.cursor), limit=wanted.limit + 1)
        some, following = first(found, wanted.limit, serializers.ref)
        known = await corroboration.of_vms(conn, some)
    now = runtime(request).clock.now()
    return page([{**serializers.vm(one, now), "corroboration": known[one.ref]} for one in some], following)


def _filter(wanted: query.VmQuery) -> vms.VmFilter | None:
    """The filter, or None if nothing can match it."""
    narrow = partial(
        vms.VmFilter,
        submission_id=wanted.submission_id,
        state=wanted.state,
        ready=wanted.ready,
        stuck=wanted.stuck,
        region=wanted.region,
        flavor=wanted.flavor,
        name=wanted.name,
        alive=wanted.alive,
    )
    if wanted.contract_id is None:
        return narrow(assignment=wanted.assignment, contract_id=wanted.contract_requested)
    # A VM on a contract is one that is assigned to the contract it requested: it is never on another one.
    if wanted.contract_requested not in {None, wanted.contract_id} or wanted.assignment not in {
        None,
        Assignment.ASSIGNED,
    }:
        return None
    return narrow(assignment=Assignment.ASSIGNED, contract_id=wanted.contract_id)


async def show(request: web.Request) -> web.Response:
    """A VM, and how well its state is known."""
    rt = runtime(request)
    async with begin(rt.engine) as conn:
        found = await refs.find(conn, request.match_info["ref"])
        known = await corroboration.of_vm(conn, found)
    return answer({**serializers.vm(found, rt.clock.now()), "corroboration": known})


async def vm_timeline(request: web.Request) -> web.Response:
    """A VM's timeline, oldest first."""
    wanted = query.read(query.TimelineQuery, request)
    async with reading(request) as conn:
        items = await timeline.of_vm(conn, await refs.find(conn, request.match_info["ref"]))
    if wanted.cursor is not None:
        items = [item for item in items if item.key > wanted.cursor]
    some, following = first(items, wanted.limit, lambda item: item.key)
    return page(list(map(_item, some)), following)


def _item(item: TimelineEntry) -> dict[str, object]:
    return {"at": item.at, "kind": item.kind, "text": item.text, "evidence": item.evidence}


async def delete(request: web.Request) -> web.Response:
    """Delete a VM: 202 with its record, or 200 if it is already deleted."""
    rt = runtime(request)
    async with begin(rt.engine) as conn:
        found = await refs.find(conn, request.match_info["ref"])
    deleted = await deletion.delete(rt, found, caller=caller(request))
    _LOG.info("deletion requested", action="delete", vm=serializers.ref(deleted), caller=caller(request))
    return answer(serializers.vm(deleted, rt.clock.now()), status=200 if deleted.ended_at else 202)


async def orphans(request: web.Request) -> web.Response:
    """A page of orphans, newest first."""
    wanted = query.read(query.OrphanQuery, request)
    async with begin(runtime(request).engine) as conn:
        found = await fleet_queries.orphans_page(
            conn, submission_id=wanted.submission_id, before=_moment(wanted.cursor), limit=wanted.limit + 1
        )
    some, following = first(found, wanted.limit, _cursor)
    return page(list(map(serializers.orphan, some)), following)


def _cursor(orphan: Orphan) -> str:
    return f"{micros(orphan.found_at)}.{orphan.provider_id}"


def _moment(cursor: str | None) -> tuple[datetime, int] | None:
    if cursor is None:
        return None
    microseconds, _, provider_id = cursor.partition(".")
    return moment(microseconds), int(provider_id)

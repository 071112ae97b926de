"""Handlers of the evidence: events received, calls to the provider, and the replay of dead letters."""

from dataclasses import replace
from uuid import UUID

from aiohttp import web

from service.api import query, refs
from service.api.context import answer, caller, first, page, reading, runtime
from service.api.cursors import micros, moment
from service.errors import NotFound
from service.operations import replay as replaying
from service.queries import calls as call_queries
from service.queries import events as event_queries
from service.queries import vm_events
from service.queries.calls import CallSummary
from service.queries.event_keys import Key as EventKey
from service.queries.events import EventSummary
from service.runtime.logs import logger
from service.storage.engine import begin

_LOG = logger(room="api")


async def events(request: web.Request) -> web.Response:
    """A page of events, newest first."""
    wanted = query.read(query.EventQuery, request)
    which = event_queries.EventFilter(
        submission_id=wanted.submission_id,
        creation_no=wanted.creation_no,
        dead_letter=wanted.dead_letter,
        source=wanted.source,
        since=wanted.since,
        until=wanted.until,
    )
    before, limit = _key_of_event(wanted.cursor), wanted.limit + 1
    async with reading(request) as conn:
        if wanted.vm is None:
            found = await event_queries.page(conn, which, before=before, limit=limit)
        else:
            vm = await refs.find_by_parameter(conn, wanted.vm)
            about = vm_events.VmIds(vm.submission_id, vm.creation_no, vm.provider_id)
            found = await vm_events.page(conn, which, [about], before=before, limit=limit)
    return page(*first(found, wanted.limit, _cursor_of_event))


async def event(request: web.Request) -> web.Response:
    """One event, with what the listing leaves out: its headers and its body."""
    event_id = refs.event_id(request.match_info["event_id"])
    async with reading(request) as conn:
        found = await event_queries.find(conn, event_id)
    if found is None:
        raise NotFound(
            f"there is no event {event_id} in the database; events are dropped with their month if retention is set"
        )
    return answer(found)


async def replay(request: web.Request) -> web.Response:
    """Queue a dead letter again: 202 with the event, since applying it takes a moment."""
    rt = runtime(request)
    event_id = refs.event_id(request.match_info["event_id"])
    await replaying.replay(rt, event_id, caller=caller(request))
    _LOG.info("dead letter replayed", action="replay", event_id=str(event_id), caller=caller(request))
    async with begin(rt.engine) as conn:
        return answer(await event_queries.find(conn, event_id), status=202)


async def calls(request: web.Request) -> web.Response:
    """A page of calls to the provider, newest first."""
    wanted = query.read(query.CallQuery, request)
    which = call_queries.CallFilter(
        submission_id=wanted.submission_id,
        operation=wanted.operation,
        outcome=wanted.outcome,
        since=wanted.since,
        until=wanted.until,
    )
    async with reading(request) as conn:
        if wanted.vm is not None:
            vm = await refs.find_by_parameter(conn, wanted.vm)
            which = replace(which, vm=(vm.submission_id, vm.vm_no, vm.creation_no, vm.provider_id))
        found = await call_queries.page(conn, which, before=_key_of_call(wanted.cursor), limit=wanted.limit + 1)
    return page(*first(found, wanted.limit, _cursor_of_call))


def _cursor_of_event(one: EventSummary) -> str:
    return f"{micros(one.received_at)}.{one.submission_id}.{one.event_id}"


def _key_of_event(cursor: str | None) -> EventKey | None:
    if cursor is None:
        return None
    microseconds, submission_id, event_id = cursor.split(".")
    return moment(microseconds), UUID(submission_id), UUID(event_id)


def _cursor_of_call(one: CallSummary) -> str:
    return f"{micros(one.begun_at)}.{one.call_id}"


def _key_of_call(cursor: str | None) -> call_queries.Key | None:
    if cursor is None:
        return None
    microseconds, call_id = cursor.split(".")
    return moment(microseconds), UUID(call_id)

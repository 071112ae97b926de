"""Handlers of the evidence itself: what was heard, and what was asked of the provider. They only look."""

from uuid import UUID

from aiohttp import web

from service.api import query, refs
from service.api.context import answer, first, page, runtime
from service.api.cursors import micros, moment
from service.audit import called, heard
from service.audit.called import Called
from service.audit.heard import Heard
from service.errors import NotFound
from service.storage.engine import begin


async def events(request: web.Request) -> web.Response:
    """A page of events, newest first."""
    wanted = query.read(query.EventQuery, request)
    which = heard.Which(
        submission_id=wanted.submission_id,
        creation_no=wanted.creation_no,
        aside=wanted.aside,
        source=wanted.source,
        since=wanted.since,
        until=wanted.until,
    )
    async with begin(runtime(request).engine) as conn:
        found = await heard.page(conn, which, before=_key_of_event(wanted.cursor), limit=wanted.limit + 1)
    return page(*first(found, wanted.limit, _cursor_of_event))


async def event(request: web.Request) -> web.Response:
    """One event, with what the listing leaves out: its headers and its body."""
    event_id = refs.event_id(request.match_info["event_id"])
    async with begin(runtime(request).engine) as conn:
        found = await heard.find(conn, event_id)
    if found is None:
        raise NotFound(f"there is no event {event_id} in the database; if there was one, it left with its month")
    return answer(found)


async def calls(request: web.Request) -> web.Response:
    """A page of calls to the provider, newest first."""
    wanted = query.read(query.CallQuery, request)
    which = called.Which(
        submission_id=wanted.submission_id,
        operation=wanted.operation,
        outcome=wanted.outcome,
        since=wanted.since,
        until=wanted.until,
    )
    async with begin(runtime(request).engine) as conn:
        found = await called.page(conn, which, before=_key_of_call(wanted.cursor), limit=wanted.limit + 1)
    return page(*first(found, wanted.limit, _cursor_of_call))


def _cursor_of_event(one: Heard) -> str:
    return f"{micros(one.received_at)}.{one.submission_id}.{one.event_id}"


def _key_of_event(cursor: str | None) -> heard.Key | None:
    if cursor is None:
        return None
    microseconds, submission_id, event_id = cursor.split(".")
    return moment(microseconds), UUID(submission_id), UUID(event_id)


def _cursor_of_call(one: Called) -> str:
    return f"{micros(one.begun_at)}.{one.call_id}"


def _key_of_call(cursor: str | None) -> called.Key | None:
    if cursor is None:
        return None
    microseconds, call_id = cursor.split(".")
    return moment(microseconds), UUID(call_id)

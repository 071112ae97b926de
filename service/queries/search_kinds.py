"""What each kind of row has of a search, newest first, as much as a page needs."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, any_, literal, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.ids import FLEET
from service.core.token import redact
from service.queries import calls as call_queries
from service.queries import descriptions, vm_events
from service.queries import events as event_queries
from service.queries.event_keys import Key
from service.queries.events import EventFilter, EventSummary
from service.queries.recent import newest
from service.queries.search_scope import MOST, Kind, Scope, SearchFilter, SearchPlace, SearchResult, too_many
from service.queries.vm_events import VmIds
from service.storage.arrays import are_any, is_any
from service.storage.tables import actions, call_ends, calls, submissions, transitions, vms


async def _vms(
    conn: AsyncConnection, which: SearchFilter, scope: Scope, after: SearchPlace | None, limit: int
) -> list[SearchResult]:
    key = (vms.c.submission_id, vms.c.vm_no)
    query = select(
        *key, *(vms.c[name] for name in ("provider_id", "state", "name", "flavor", "floating_ip", "created_at"))
    )
    query = _narrowed(query, "vm", vms.c.created_at, key, which, after, limit)
    if scope.vms is not None:
        query = query.where(are_any(key, [(one.submission_id, one.vm_no) for one in scope.vms]))
    if scope.submissions is not None:
        query = query.where(is_any(vms.c.submission_id, scope.submissions))
    if which.caller is not None:
        query = query.where(vms.c.submission_id == any_(_of_caller(which.caller).scalar_subquery()))
    if which.state is not None:
        query = query.where(vms.c.state == which.state)
    return [
        SearchResult(
            kind="vm",
            at=row.created_at,
            submission_id=row.submission_id,
            vm_no=row.vm_no,
            provider_id=row.provider_id,
            id=f"{row.submission_id}.{row.vm_no}",
            text=" ".join(filter(None, (row.state, row.flavor, row.name, row.floating_ip))),
            key=(row.submission_id, row.vm_no),
        )
        for row in await conn.execute(query)
    ]


async def _submissions(
    conn: AsyncConnection, which: SearchFilter, scope: Scope, after: SearchPlace | None, limit: int
) -> list[SearchResult]:
    key = (submissions.c.submission_id,)
    query = select(
        *(submissions.c[name] for name in ("submission_id", "name", "state", "count", "requested_by", "created_at"))
    )
    query = _narrowed(query, "submission", submissions.c.created_at, key, which, after, limit)
    if (ids := _ids(scope)) is not None:
        query = query.where(is_any(submissions.c.submission_id, ids))
    if which.caller is not None:
        query = query.where(submissions.c.requested_by == which.caller)
    if which.state is not None:
        query = query.where(submissions.c.state == which.state)
    return [
        SearchResult(
            kind="submission",
            at=row.created_at,
            submission_id=row.submission_id,
            vm_no=None,
            provider_id=None,
            id=str(row.submission_id),
            text=f"{row.name}: {row.state}, {row.count} VMs requested by {row.requested_by}",
            key=(row.submission_id,),
        )
        for row in await conn.execute(query)
    ]


async def _transitions(
    conn: AsyncConnection, which: SearchFilter, scope: Scope, after: SearchPlace | None, limit: int
) -> list[SearchResult]:
    key = (transitions.c.submission_id, transitions.c.vm_no, transitions.c.seq)
    query = _narrowed(select(transitions), "transition", transitions.c.at, key, which, after, limit)
    if which.caller is not None:
        query = query.where(transitions.c.submission_id == any_(_of_caller(which.caller).scalar_subquery()))
    if which.state is not None:
        query = query.where(transitions.c.to_state == which.state)
    if scope.vms is not None:
        query = query.where(are_any(key[:2], [(one.submission_id, one.vm_no) for one in scope.vms]))
    if scope.submissions is not None:
        query = query.where(is_any(transitions.c.submission_id, scope.submissions))
    if scope.vms is None and scope.submissions is None:
        until = after.at if after else which.until
        rows: Iterable[Any] = await newest(conn, query, transitions.c.at, since=which.since, until=until, limit=limit)
    else:
        rows = await conn.execute(query)
    return [
        SearchResult(
            kind="transition",
            at=row.at,
            submission_id=row.submission_id,
            vm_no=row.vm_no,
            provider_id=None,
            id=f"{row.submission_id}.{row.vm_no}/{row.seq}",
            text=redact(descriptions.of_transition(row)),
            key=(row.submission_id, row.vm_no, row.seq),
        )
        for row in rows
    ]


async def _calls(
    conn: AsyncConnection, which: SearchFilter, scope: Scope, after: SearchPlace | None, limit: int
) -> list[SearchResult]:
    key = (calls.c.submission_id, calls.c.call_id)
    query = call_queries.with_ends(literal(None).label("answer"))
    query = _narrowed(query, "call", calls.c.begun_at, key, which, after, limit)
    if which.operation is not None:
        query = query.where(calls.c.operation == which.operation)
    if which.status_code is not None:
        query = query.where(call_ends.c.status_code == which.status_code)
    if which.caller is not None:
        query = query.where(calls.c.submission_id == any_(_of_caller(which.caller).scalar_subquery()))
    if scope.vms is not None:
        about = [(one.submission_id, one.vm_no, one.creation_no, one.provider_id) for one in scope.vms]
        query = query.where(call_queries.about(about))
    if scope.submissions is not None:
        query = query.where(is_any(calls.c.submission_id, scope.submissions))
    return [
        SearchResult(
            kind="call",
            at=row.begun_at,
            submission_id=None if row.submission_id == FLEET else row.submission_id,
            vm_no=row.vm_no,
            provider_id=row.provider_id,
            id=str(row.call_id),
            text=descriptions.of_call(row) + (f" (status {row.status_code})" if row.status_code else ""),
            key=(row.submission_id, row.call_id),
        )
        for row in await conn.execute(query)
    ]


async def _actions(
    conn: AsyncConnection, which: SearchFilter, scope: Scope, after: SearchPlace | None, limit: int
) -> list[SearchResult]:
    key = (actions.c.submission_id, actions.c.action_id)
    query = _narrowed(select(actions), "action", actions.c.at, key, which, after, limit)
    if which.caller is not None:
        query = query.where(actions.c.caller == which.caller)
    if which.operation is not None:
        query = query.where(actions.c.kind == which.operation)
    if scope.vms is not None:
        keys = [(one.submission_id, one.vm_no) for one in scope.vms]
        whole = and_(actions.c.vm_no.is_(None), is_any(actions.c.submission_id, _ids(scope) or ()))
        query = query.where(or_(are_any((actions.c.submission_id, actions.c.vm_no), keys), whole))
    if scope.submissions is not None:
        query = query.where(is_any(actions.c.submission_id, scope.submissions))
    return [
        SearchResult(
            kind="action",
            at=row.at,
            submission_id=row.submission_id,
            vm_no=row.vm_no,
            provider_id=None,
            id=str(row.action_id),
            text=f"{row.kind} by {row.caller}" + (f": {redact(row.detail)}" if row.detail else ""),
            key=(row.submission_id, row.action_id),
        )
        for row in await conn.execute(query)
    ]


async def _events(
    conn: AsyncConnection, which: SearchFilter, scope: Scope, after: SearchPlace | None, limit: int
) -> list[SearchResult]:
    """Events of the creations of the VMs, and of these only those about one of the VMs."""
    ids = scope.submissions
    if which.caller is not None:
        of_caller = (await conn.execute(_of_caller(which.caller).limit(MOST + 1))).scalars().all()
        ids = of_caller if ids is None else [one for one in of_caller if one in ids]
        if len(ids) > MOST:
            raise too_many("caller", "submissions")
    wanted = EventFilter(
        since=which.since, until=which.until, dead_letter=which.dead_letter, text=which.text, submissions=ids
    )
    before, at_or_before = _event_bound(after)
    if scope.vms is None:
        found = await event_queries.page(conn, wanted, before=before, limit=limit, at_or_before=at_or_before)
    else:
        about = [
            VmIds(one.submission_id, one.creation_no, one.provider_id)
            for one in scope.vms
            if ids is None or one.submission_id in ids
        ]
        found = await vm_events.page(conn, wanted, about, before=before, limit=limit, at_or_before=at_or_before)
    return [_event(one) for one in found]


def _event_bound(after: SearchPlace | None) -> tuple[Key | None, datetime | None]:
    if after is None:
        return None, None
    at, key, included = after.bound("event")
    if key is not None:
        return (at, *key), None
    return (None, at) if included else ((at, UUID(int=0), UUID(int=0)), None)


def _event(one: EventSummary) -> SearchResult:
    said = " ".join(filter(None, (one.source, one.operation, one.status)))
    why = f"; dead letter ({one.dead_letter.kind}): {one.dead_letter.reason}" if one.dead_letter else ""
    return SearchResult(
        kind="event",
        at=one.received_at,
        submission_id=one.submission_id,
        vm_no=None,
        provider_id=one.provider_id,
        id=str(one.event_id),
        text=(said or "an event that was dropped") + why,
        key=(one.submission_id, one.event_id),
    )


def _narrowed(
    query: Select[Any],
    kind: Kind,
    at: ColumnElement[Any],
    key: Sequence[ColumnElement[Any]],
    which: SearchFilter,
    after: SearchPlace | None,
    limit: int,
) -> Select[Any]:
    """Newest first, behind the place, within the period."""
    if which.since is not None:
        query = query.where(at >= which.since)
    if which.until is not None:
        query = query.where(at < which.until)
    if after is not None:
        moment, behind, included = after.bound(kind)
        query = query.where(at <= moment if included or behind else at < moment)
        if behind:
            query = query.where(tuple_(at, *key) < tuple_(literal(moment), *map(literal, behind)))
    return query.order_by(at.desc(), *(one.desc() for one in key)).limit(limit)


def _of_caller(caller: str) -> Select[Any]:
    return select(submissions.c.submission_id).where(submissions.c.requested_by == caller)


def _ids(scope: Scope) -> Sequence[UUID] | None:
    if scope.vms is None:
        return scope.submissions
    return sorted({one.submission_id for one in scope.vms})


_Search = Callable[[AsyncConnection, SearchFilter, Scope, SearchPlace | None, int], Awaitable[list[SearchResult]]]
SEARCHES: Final[Mapping[Kind, _Search]] = {
    "vm": _vms,
    "submission": _submissions,
    "transition": _transitions,
    "event": _events,
    "call": _calls,
    "action": _actions,
}

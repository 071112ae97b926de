"""What each kind of row has of a search, newest first, as much as a page needs.

Of a search only the values differ from one to the next, so its statement is made once: making it takes longer than
Postgres takes to answer it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    CompoundSelect,
    FromClause,
    Integer,
    Row,
    Select,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    cast,
    func,
    literal_column,
    null,
    or_,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.ids import FLEET
from service.core.token import redact
from service.queries import calls as call_queries
from service.queries import descriptions, vm_events
from service.queries import events as event_queries
from service.queries.calls import VmArrays
from service.queries.event_keys import Key
from service.queries.events import EventFilter, EventSummary
from service.queries.recent import newest
from service.queries.search_scope import MOST, Kind, Scope, SearchFilter, SearchPlace, SearchResult, too_many
from service.queries.vm_events import VmIds
from service.storage.arrays import in_arrays
from service.storage.tables import actions, call_ends, calls, submissions, transitions, vms


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """How a kind of row is read: where from, its time, and what else it is ordered by."""

    source: FromClause
    at: ColumnElement[datetime]
    key: Mapping[str, ColumnElement[Any]]
    shown: Mapping[str, ColumnElement[Any]]
    said: Mapping[str, ColumnElement[Any]]  #: what its text is made of
    text: Callable[[Any], str]
    id: Callable[[Any], str]
    filters: Mapping[str, ColumnElement[Any]]  #: what is compared with filters of the same name
    of_vms: ColumnElement[bool]


class _Form(NamedTuple):
    """All of a search that its statement depends on."""

    kind: Kind
    given: frozenset[str]
    scope: Literal["vms", "submissions"] | None
    behind: int  #: how many values the key of the last row has, if it is of this kind
    included: bool | None  #: whether rows of that row's moment are wanted; None without such a row


def _bound(name: str, kind: Any) -> Any:
    return bindparam(name, type_=kind)


_IDS: Final = _bound("of_submissions", ARRAY(Uuid))
_VMS: Final = VmArrays(
    _bound("vm_submissions", ARRAY(Uuid)),
    _bound("vm_nos", ARRAY(Integer)),
    _bound("creation_nos", ARRAY(Integer)),
    _bound("provider_ids", ARRAY(BigInteger)),
)
_OF_CALLER: Final = select(submissions.c.submission_id).where(submissions.c.requested_by == _bound("caller", Text))
_MOMENT: Final = TIMESTAMP(timezone=True)
_NOTHING: Final[ColumnElement[Any]] = null()


def _named(table: FromClause, names: str) -> dict[str, ColumnElement[Any]]:
    return {name: table.c[name] for name in names.split()}


def _about(table: FromClause) -> ColumnElement[bool]:
    return in_arrays((table.c.submission_id, table.c.vm_no), (_VMS.submissions, _VMS.numbers))


def _in_words(*parts: str | None) -> str:
    return " ".join(filter(None, parts))


_SOURCES: Final[Mapping[Kind, _Source]] = {
    "vm": _Source(
        source=vms,
        at=vms.c.created_at,
        key=_named(vms, "submission_id vm_no"),
        shown=_named(vms, "provider_id"),
        said=_named(vms, "state flavor name floating_ip"),
        text=lambda row: _in_words(row.state, row.flavor, row.name, row.floating_ip),
        id=lambda row: f"{row.submission_id}.{row.vm_no}",
        filters=_named(vms, "state"),
        of_vms=_about(vms),
    ),
    "submission": _Source(
        source=submissions,
        at=submissions.c.created_at,
        key=_named(submissions, "submission_id"),
        shown={},
        said=_named(submissions, "name state count requested_by"),
        text=lambda row: f"{row.name}: {row.state}, {row.count} VMs requested by {row.requested_by}",
        id=lambda row: str(row.submission_id),
        filters={"state": submissions.c.state, "caller": submissions.c.requested_by},
        of_vms=submissions.c.submission_id == any_(_VMS.submissions),
    ),
    "transition": _Source(
        source=transitions,
        at=transitions.c.at,
        key=_named(transitions, "submission_id vm_no seq"),
        shown={},
        said=_named(transitions, "evidence verdict from_state to_state claimed"),
        text=lambda row: redact(descriptions.of_transition(row)),
        id=lambda row: f"{row.submission_id}.{row.vm_no}/{row.seq}",
        filters={"state": transitions.c.to_state},
        of_vms=_about(transitions),
    ),
    "call": _Source(
        source=call_queries.ENDED,
        at=calls.c.begun_at,
        key={"submission_id": calls.c.submission_id, "id": calls.c.call_id},
        shown=_named(calls, "vm_no provider_id"),
        said={**_named(calls, "operation attempt"), **_named(call_ends, "outcome ms status_code error")},
        text=lambda row: descriptions.of_call(row) + (f" (status {row.status_code})" if row.status_code else ""),
        id=lambda row: str(row.id),
        filters={"operation": calls.c.operation, "status_code": call_ends.c.status_code},
        of_vms=call_queries.about(_VMS),
    ),
    "action": _Source(
        source=actions,
        at=actions.c.at,
        key={"submission_id": actions.c.submission_id, "id": actions.c.action_id},
        shown=_named(actions, "vm_no"),
        said=_named(actions, "kind caller detail"),
        text=lambda row: f"{row.kind} by {row.caller}" + (f": {redact(row.detail)}" if row.detail else ""),
        id=lambda row: str(row.id),
        filters={"operation": actions.c.kind, "caller": actions.c.caller},
        of_vms=or_(_about(actions), and_(actions.c.vm_no.is_(None), actions.c.submission_id == any_(_VMS.submissions))),
    ),
}
_FILTERS: Final = {"state": Text, "operation": Text, "status_code": Integer, "caller": Text}
_NARROWING: Final = frozenset({*_FILTERS, "since", "until"})
#: What every kind shows of a row.
_SHOWN: Final[Mapping[str, Any]] = {
    "submission_id": Uuid(),
    "vm_no": Integer(),
    "seq": Integer(),
    "provider_id": BigInteger(),
    "id": Uuid(),
}


async def read(
    conn: AsyncConnection,
    kinds: Sequence[Kind],
    which: SearchFilter,
    scope: Scope,
    after: SearchPlace | None,
    limit: int,
) -> list[list[SearchResult]]:
    """What each kind has, newest first."""
    given = {one.name: value for one in fields(which) if (value := getattr(which, one.name)) is not None}
    params, of = _of_scope(scope)
    params |= given | {"limit": limit}
    forms: list[_Form] = []
    found: list[list[SearchResult]] = []
    for kind in kinds:
        if kind == "event":
            found.append(await _events(conn, which, scope, after, limit))
            continue
        form = _Form(kind, _NARROWING.intersection(given), of, 0, None)
        if after is not None:
            params["moment"], behind, included = after.bound(kind)
            params |= {f"behind_{number}": value for number, value in enumerate(behind or ())}
            form = form._replace(behind=len(behind or ()), included=included or behind is not None)
        if kind == "transition" and of is None:
            until = after.at if after else which.until
            query, at = _select(form).params(params), transitions.c.at
            found.append(_results(await newest(conn, query, at, since=which.since, until=until, limit=limit)))
        else:
            forms.append(form)
    if forms:
        rows = (await conn.execute(_statement(tuple(forms)), params)).all()
        found += [_results(row for row in rows if row.found == form.kind) for form in forms]
    return found


def _of_scope(scope: Scope) -> tuple[dict[str, Any], Literal["vms", "submissions"] | None]:
    if scope.vms is not None:
        of = [(one.submission_id, one.vm_no, one.creation_no, one.provider_id) for one in scope.vms]
        arrays = zip(*of, strict=True) if of else ((), (), (), ())
        return {str(one.key): list(values) for one, values in zip(_VMS, arrays, strict=True)}, "vms"
    if scope.submissions is not None:
        return {str(_IDS.key): list(scope.submissions)}, "submissions"
    return {}, None


@lru_cache(maxsize=256)
def _statement(forms: tuple[_Form, ...]) -> CompoundSelect[Any]:
    return union_all(*(select(_select(form).subquery()) for form in forms))


@lru_cache(maxsize=256)
def _select(form: _Form) -> Select[Any]:
    """The rows of a kind, newest first."""
    of = _SOURCES[form.kind]
    shown = {**of.key, **of.shown}
    columns: list[ColumnElement[Any]] = [
        literal_column(f"'{form.kind}'", Text).label("found"),
        of.at.label("at"),
        *(cast(shown.get(name, _NOTHING), kind).label(name) for name, kind in _SHOWN.items()),
        func.jsonb_build_array(*of.said.values(), type_=JSONB).label("said"),
    ]
    order = [of.at.desc(), *(one.desc() for one in of.key.values())]
    wanted = [*_filtered(form, of), *_placed(form, of)]
    return select(*columns).select_from(of.source).where(*wanted).order_by(*order).limit(_bound("limit", Integer))


def _filtered(form: _Form, of: _Source) -> Iterator[ColumnElement[bool]]:
    for name, kind in _FILTERS.items():
        if name in form.given and name in of.filters:
            yield of.filters[name] == _bound(name, kind())
    if "caller" in form.given and "caller" not in of.filters:
        yield of.key["submission_id"] == any_(_OF_CALLER.scalar_subquery())
    if form.scope == "vms":
        yield of.of_vms
    elif form.scope == "submissions":
        yield of.key["submission_id"] == any_(_IDS)


def _placed(form: _Form, of: _Source) -> Iterator[ColumnElement[bool]]:
    """Behind the place, within the period."""
    if "since" in form.given:
        yield of.at >= _bound("since", _MOMENT)
    if "until" in form.given:
        yield of.at < _bound("until", _MOMENT)
    moment = _bound("moment", _MOMENT)
    if form.included is not None:
        yield of.at <= moment if form.included else of.at < moment
    if form.behind:
        last = (bindparam(f"behind_{number}", type_=one.type) for number, one in enumerate(of.key.values()))
        yield tuple_(of.at, *of.key.values()) < tuple_(moment, *last)


def _results(rows: Iterable[Row[Any]]) -> list[SearchResult]:
    return sorted(map(_result, rows), key=lambda one: (one.at, one.key), reverse=True)


def _result(row: Row[Any]) -> SearchResult:
    of = _SOURCES[row.found]
    said = dict(zip(of.said, row.said, strict=True))
    return SearchResult(
        kind=row.found,
        at=row.at,
        submission_id=None if row.submission_id == FLEET else row.submission_id,
        vm_no=row.vm_no,
        provider_id=row.provider_id,
        id=of.id(row),
        text=of.text(SimpleNamespace(answer=None, **said)),
        key=tuple(getattr(row, name) for name in of.key),
    )


async def _events(
    conn: AsyncConnection, which: SearchFilter, scope: Scope, after: SearchPlace | None, limit: int
) -> list[SearchResult]:
    """Events of the creations of the VMs, and of these only those about one of the VMs."""
    ids = scope.submissions
    if which.caller is not None:
        of_caller = (await conn.execute(_OF_CALLER.limit(MOST + 1), {"caller": which.caller})).scalars().all()
        ids = of_caller if ids is None else [one for one in of_caller if one in ids]
        if len(ids) > MOST:
            raise too_many("caller", "submissions")
    wanted = EventFilter(
        since=which.since, until=which.until, dead_letter=which.dead_letter, text=which.text, submissions=ids
    )
    before = _event_bound(after)
    if scope.vms is None:
        found = await event_queries.page(conn, wanted, before=before, limit=limit)
    else:
        about = [
            VmIds(one.submission_id, one.creation_no, one.provider_id)
            for one in scope.vms
            if ids is None or one.submission_id in ids
        ]
        found = await vm_events.page(conn, wanted, about, before=before, limit=limit)
    return [_event(one) for one in found]


def _event_bound(after: SearchPlace | None) -> Key | None:
    """The key that events come behind. Those of the place's moment are all behind its highest, and none behind its lowest."""
    if after is None:
        return None
    at, key, included = after.bound("event")
    if key is not None:
        return (at, *key)
    end = UUID(int=2**128 - 1 if included else 0)
    return at, end, end


def _event(one: EventSummary) -> SearchResult:
    said = _in_words(one.source, one.operation, one.status)
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

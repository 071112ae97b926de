"""Events (callbacks and history entries), newest first, or one in full. Bodies are parsed again by this release.

No index has the events of the whole fleet by time, since every callback would pay for it. So a page of the whole fleet is
merged from the newest events of each submission, a month at a time (decision 0015).
"""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final, Literal
from uuid import UUID

import orjson
from sqlalchemy import ColumnElement, FromClause, Row, Select, and_, select, text, true, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.event import Unreadable, parse
from service.core.ids import uuid7_time
from service.core.planning import batched
from service.core.token import redact
from service.provider.answers import history_entry
from service.storage import partitions
from service.storage.events import vm_of_history
from service.storage.partitions import Month
from service.storage.tables import dead_letters, events

#: received_at, submission_id, event_id: lists are in descending order of this, and cursors hold it.
Key = tuple[datetime, UUID, UUID]
#: From when, until when; None is unbounded.
Span = tuple[datetime | None, datetime | None]

#: Events whose bodies are in memory at once.
_SET: Final = 100
#: How far `received_at` may be from the time in the id. A history entry gets its id a moment later, and the clock may
#: be set in between: that is rare, and the search takes longer.
_REACHES: Final = (timedelta(seconds=1), timedelta(minutes=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events to list. `since` is included, `until` is not. `dead_letter` is a kind, or any."""

    submission_id: UUID | None = None
    creation_no: int | None = None
    dead_letter: str | None = None
    source: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterInfo:
    """Why an event is a dead letter. `kind` is unreadable, unknown_vm or failed."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSummary:
    """An event, and what it says. If retention dropped it, the fields from its body are None."""

    event_id: UUID
    submission_id: UUID
    creation_no: int | None
    received_at: datetime
    source: str | None
    peer: str | None
    size: int | None  #: of the body, in bytes
    digest: str | None  #: SHA-256 of the body, in hex
    provider_id: int | None
    operation: str | None
    status: str | None
    dead_letter: DeadLetterInfo | None
    waiting: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBody:
    """A body as received, without the MACs of callback tokens. If `redacted`, `content` has another digest."""

    encoding: Literal["utf-8", "base64"]
    content: str
    redacted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EventDetail:
    """An event in full."""

    event: EventSummary
    headers: Mapping[str, str] | None
    body: EventBody | None


async def page(conn: AsyncConnection, which: EventFilter, *, before: Key | None, limit: int) -> list[EventSummary]:
    """A page of events, newest first; `before` is the key of the previous page's last one."""
    keys = await _keys(conn, which, before, limit)
    return [_summary(row) for some in batched(keys, _SET) for row in await _rows(conn, some)]


async def find(conn: AsyncConnection, event_id: UUID) -> EventDetail | None:
    """The event with this id, searched near the time in the id; None if there is none."""
    at = uuid7_time(event_id)
    if at is None:
        return None
    for reach in _REACHES:
        keys = await _near(conn, event_id, at, reach)
        if keys:
            (row,) = await _rows(conn, keys)
            return _detail(row)
    return None


async def _near(conn: AsyncConnection, event_id: UUID, at: datetime, reach: timedelta) -> Sequence[Key]:
    first, last = at - reach, at + reach
    near = [events.c.event_id == event_id, *_inside(events, (first, last))]
    found = await conn.execute(of_fleet((Month.of(first).first, Month.of(last).following.first), near, 1))
    if keys := _as_keys(found):
        return keys
    dead_letter = [dead_letters.c.event_id == event_id, *_inside(dead_letters, (first, last))]
    return _as_keys(await conn.execute(select(*_key(dead_letters)).where(*dead_letter).limit(1)))


async def _keys(conn: AsyncConnection, which: EventFilter, before: Key | None, limit: int) -> Sequence[Key]:
    if which.dead_letter is not None:
        return _as_keys(await conn.execute(_dead_letters(which, before, limit)))
    wanted = [*_bounds(events, which, before), *_narrowed(which)]
    if which.submission_id is not None:
        return _as_keys(await conn.execute(of_submission(which.submission_id, wanted, limit)))
    found: list[Key] = []
    for span in _spans(await partitions.known(conn), which, before):
        if len(found) < limit:
            found += _as_keys(await conn.execute(of_fleet(span, wanted, limit - len(found))))
    return found


def of_submission(submission_id: UUID, wanted: Iterable[ColumnElement[bool]], limit: int) -> Select[Any]:
    """The keys of a submission's events, newest first, by the primary key backwards."""
    mine = events.c.submission_id == submission_id
    return select(*_key(events)).where(mine, *wanted).order_by(*_newest_first(events)).limit(limit)


def of_fleet(span: Span, wanted: Iterable[ColumnElement[bool]], limit: int) -> Select[Any]:
    """The keys of the events of a span of whole months, newest first; `wanted` filters them further.

    A loose index scan of the primary key finds the submissions of the span, and the newest events of each. So the cost
    grows with the number of submissions, not of events.
    """
    inside = list(_inside(events, span))
    latest = select(events.c.submission_id).where(*inside).order_by(events.c.submission_id.desc()).limit(1)
    first = latest.subquery("latest")
    submissions_with_events = select(first.c.submission_id).cte("submissions_with_events", recursive=True)
    earlier = (
        latest.where(events.c.submission_id < submissions_with_events.c.submission_id)
        .correlate(submissions_with_events)
        .scalar_subquery()
    )
    submissions_with_events = submissions_with_events.union_all(
        select(earlier)
        .select_from(submissions_with_events)
        .where(submissions_with_events.c.submission_id.is_not(None))  # None after the last
    )
    theirs = of_submission_in(submissions_with_events, [*inside, *wanted], limit)
    together = submissions_with_events.join(theirs, true())
    return select(*_key(theirs)).select_from(together).order_by(*_newest_first(theirs)).limit(limit)


def of_submission_in(
    submissions_with_events: FromClause, wanted: Iterable[ColumnElement[bool]], limit: int
) -> FromClause:
    """The same as `of_submission`, for each of `submissions_with_events`."""
    mine = events.c.submission_id == submissions_with_events.c.submission_id
    return select(*_key(events)).where(mine, *wanted).order_by(*_newest_first(events)).limit(limit).lateral("theirs")


def _dead_letters(which: EventFilter, before: Key | None, limit: int) -> Select[Any]:
    """The keys of dead letters: few rows, so those of the whole fleet are sorted."""
    query = select(*_key(dead_letters)).where(*_bounds(dead_letters, which, before))
    if which.submission_id is not None:
        query = query.where(dead_letters.c.submission_id == which.submission_id)
    if which.dead_letter != "any":
        query = query.where(dead_letters.c.kind == which.dead_letter)
    if narrowed := list(_narrowed(which)):
        same = (one == other for one, other in zip(_key(dead_letters), _key(events), strict=True))
        query = query.join(events, and_(*same)).where(*narrowed)
    return query.order_by(*_newest_first(dead_letters)).limit(limit)


def _spans(known: Sequence[Month], which: EventFilter, before: Key | None) -> Iterator[Span]:
    """The months to read, newest first. The outermost spans are unbounded, for events that fit no month."""
    edges = (None, *(month.first for month in known), None)
    for first, end in reversed(list(pairwise(edges))):
        too_late = first is not None and (
            (which.until is not None and first >= which.until) or (before is not None and first > before[0])
        )
        too_early = end is not None and which.since is not None and end <= which.since
        if not too_late and not too_early:
            yield first, end


def _bounds(table: FromClause, which: EventFilter, before: Key | None) -> Iterator[ColumnElement[bool]]:
    yield from _inside(table, (which.since, which.until))
    if before is not None:
        yield table.c.received_at <= before[0]  # selects index range and months; the next line breaks ties
        yield tuple_(*_key(table)) < before


def _inside(table: FromClause, span: Span) -> Iterator[ColumnElement[bool]]:
    first, end = span
    if first is not None:
        yield table.c.received_at >= first
    if end is not None:
        yield table.c.received_at < end


def _narrowed(which: EventFilter) -> Iterator[ColumnElement[bool]]:
    """Conditions on columns that only `events` has."""
    if which.creation_no is not None:
        yield events.c.creation_no == which.creation_no
    if which.source is not None:
        yield events.c.source == which.source


def _key(table: FromClause) -> tuple[ColumnElement[Any], ...]:
    return table.c.received_at, table.c.submission_id, table.c.event_id


def _newest_first(table: FromClause) -> list[ColumnElement[Any]]:
    return [column.desc() for column in _key(table)]


def _as_keys(rows: Iterable[Row[Any]]) -> list[Key]:
    return [(row.received_at, row.submission_id, row.event_id) for row in rows]


# The time bounds are parameters, so Postgres does not open other months.
_ROWS: Final = text(
    """
    SELECT key.received_at, key.submission_id, key.event_id, events.creation_no, events.source, events.peer,
           events.body, events.headers, events.digest, dead_letters.kind, dead_letters.reason,
           dead_letters.provider_id AS dead_letter_vm, inbox.event_id IS NOT NULL AS waiting
    FROM unnest(CAST(:times AS timestamptz[]), CAST(:submissions AS uuid[]), CAST(:ids AS uuid[]))
         AS key (received_at, submission_id, event_id)
    LEFT JOIN events ON events.submission_id = key.submission_id AND events.received_at = key.received_at
         AND events.event_id = key.event_id
         AND events.received_at >= CAST(:first AS timestamptz) AND events.received_at <= CAST(:last AS timestamptz)
    LEFT JOIN dead_letters ON dead_letters.submission_id = key.submission_id AND dead_letters.received_at = key.received_at
         AND dead_letters.event_id = key.event_id
    LEFT JOIN inbox ON inbox.submission_id = key.submission_id
         AND inbox.received_at = key.received_at AND inbox.event_id = key.event_id
    ORDER BY key.received_at DESC, key.submission_id DESC, key.event_id DESC
    """
)


async def _rows(conn: AsyncConnection, keys: Sequence[Key]) -> Sequence[Row[Any]]:
    times = [received_at for received_at, _, _ in keys]
    known = {
        "times": times,
        "submissions": [submission_id for _, submission_id, _ in keys],
        "ids": [event_id for _, _, event_id in keys],
        "first": min(times),
        "last": max(times),
    }
    return (await conn.execute(_ROWS, known)).all()


def _summary(row: Row[Any]) -> EventSummary:
    provider_id, operation, status = _content(row)
    return EventSummary(
        event_id=row.event_id,
        submission_id=row.submission_id,
        creation_no=row.creation_no,
        received_at=row.received_at,
        source=row.source,
        peer=row.peer,
        size=None if row.body is None else len(row.body),
        digest=None if row.digest is None else row.digest.hex(),
        provider_id=provider_id,
        operation=operation and redact(operation),
        status=status and redact(status),
        dead_letter=DeadLetterInfo(kind=row.kind, reason=redact(row.reason)) if row.kind else None,
        waiting=row.waiting,
    )


def _content(row: Row[Any]) -> tuple[int | None, str | None, str | None]:
    """The VM's provider id, the operation and the status; for a history entry its reason and message."""
    if row.body is None:
        return row.dead_letter_vm, None, None
    if row.source == "history":
        entry = history_entry(orjson.loads(row.body))
        return vm_of_history(row.peer or ""), entry.reason or None, entry.message or None
    read = parse(row.body)
    if isinstance(read, Unreadable):
        return row.dead_letter_vm, None, None
    return read.provider_id, read.operation, read.status


def _detail(row: Row[Any]) -> EventDetail:
    headers = None if row.headers is None else {name: redact(value) for name, value in row.headers.items()}
    return EventDetail(event=_summary(row), headers=headers, body=None if row.body is None else shown_body(row.body))


def shown_body(body: bytes) -> EventBody:
    """A body for people: text if it is UTF-8, base64 otherwise, without callback tokens."""
    try:
        text_ = body.decode()
    except UnicodeDecodeError:
        # Latin-1 maps each byte to a character, so tokens are found and all other bytes survive.
        redacted = redact(body.decode("latin-1")).replace("…", "...").encode("latin-1")
        return EventBody(encoding="base64", content=base64.b64encode(redacted).decode(), redacted=redacted != body)
    return EventBody(encoding="utf-8", content=redact(text_), redacted=redact(text_) != text_)

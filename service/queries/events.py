"""Events (callbacks and history entries), newest first, or one in full. Bodies are parsed again by this release.

No index orders the events of the whole fleet by time, since every callback would pay for it: see `recent`.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

import orjson
from sqlalchemy import (
    ColumnElement,
    FromClause,
    Row,
    Select,
    and_,
    func,
    select,
    text,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.event import Unreadable, parse
from service.core.ids import uuid7_time
from service.core.planning import batched
from service.core.token import redact, redact_bytes
from service.provider.answers import history_entry
from service.queries.event_keys import (
    Key,
    inside,
    key_of,
    newest_first,
    of_creations,
    of_fleet,
    of_submission,
    of_submissions,
)
from service.queries.recent import newest
from service.storage.arrays import are_any, is_any
from service.storage.events import vm_of_history
from service.storage.tables import dead_letters, events

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
    submissions: Sequence[UUID] | None = None
    creations: Sequence[tuple[UUID, int]] | None = None
    text: str | None = None  #: somewhere in the body, as it was received


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
    return [summary_of(row) for some in batched(keys, _SET) for row in await _rows(conn, some)]


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
    near = [events.c.event_id == event_id, *inside(events, (first, last))]
    if keys := _as_keys(await conn.execute(of_fleet(near).limit(1))):
        return keys
    dead_letter = [dead_letters.c.event_id == event_id, *inside(dead_letters, (first, last))]
    return _as_keys(await conn.execute(select(*key_of(dead_letters)).where(*dead_letter).limit(1)))


async def _keys(conn: AsyncConnection, which: EventFilter, before: Key | None, limit: int) -> Sequence[Key]:
    if which.dead_letter is not None:
        return _as_keys(await conn.execute(_dead_letters(which, before, limit)))
    wanted = [*_bounds(events, which, before), *_narrowed(which)]
    if which.creations is not None:
        return _as_keys(await conn.execute(of_creations(which.creations, wanted, limit)))
    if which.submission_id is not None:
        return _as_keys(await conn.execute(of_submission(which.submission_id, wanted, limit)))
    if which.submissions is not None:
        return _as_keys(await conn.execute(of_submissions(which.submissions, wanted, limit)))
    until = before[0] if before else which.until
    return _as_keys(
        await newest(conn, of_fleet(wanted), events.c.received_at, since=which.since, until=until, limit=limit)
    )


def _dead_letters(which: EventFilter, before: Key | None, limit: int) -> Select[Any]:
    """The keys of dead letters: few rows, so those of the whole fleet are sorted."""
    query = select(*key_of(dead_letters)).where(*_bounds(dead_letters, which, before))
    if which.submission_id is not None:
        query = query.where(dead_letters.c.submission_id == which.submission_id)
    if which.submissions is not None:
        query = query.where(is_any(dead_letters.c.submission_id, which.submissions))
    if which.dead_letter != "any":
        query = query.where(dead_letters.c.kind == which.dead_letter)
    if narrowed := list(_narrowed(which)):
        same = (one == other for one, other in zip(key_of(dead_letters), key_of(events), strict=True))
        query = query.join(events, and_(*same)).where(*narrowed)
    return query.order_by(*newest_first(dead_letters)).limit(limit)


def _bounds(table: FromClause, which: EventFilter, before: Key | None) -> Iterator[ColumnElement[bool]]:
    yield from inside(table, (which.since, which.until))
    if before is not None:
        yield table.c.received_at <= before[0]  # selects index range and months; the next line breaks ties
        yield tuple_(*key_of(table)) < before


def _narrowed(which: EventFilter) -> Iterator[ColumnElement[bool]]:
    """Conditions on columns that only `events` has."""
    if which.creation_no is not None:
        yield events.c.creation_no == which.creation_no
    if which.text is not None:
        yield func.position(func.convert_to(which.text, "UTF8").op("IN")(events.c.body)) > 0
    if which.dead_letter is not None and which.creations is not None:
        yield are_any((events.c.submission_id, events.c.creation_no), which.creations)
    if which.source is not None:
        yield events.c.source == which.source


def _as_keys(rows: Iterable[Row[Any]]) -> list[Key]:
    return [(row.received_at, row.submission_id, row.event_id) for row in rows]


#: What a summary is made of: columns of an `event` with that `key`, and of what stands beside it in other tables, newest first.
COLUMNS: Final = """
    key.received_at, key.submission_id, key.event_id, {event}.creation_no, {event}.source, {event}.peer, {event}.body, {event}.digest,
    dead_letters.kind, dead_letters.reason, dead_letters.provider_id AS dead_letter_vm, inbox.event_id IS NOT NULL AS waiting
"""
BESIDE: Final = """
    LEFT JOIN dead_letters ON dead_letters.submission_id = key.submission_id AND dead_letters.received_at = key.received_at
         AND dead_letters.event_id = key.event_id
    LEFT JOIN inbox ON inbox.submission_id = key.submission_id
         AND inbox.received_at = key.received_at AND inbox.event_id = key.event_id
    ORDER BY key.received_at DESC, key.submission_id DESC, key.event_id DESC
"""
# The time bounds are parameters, so Postgres does not open other months.
_ROWS: Final = text(
    f"""
    SELECT {COLUMNS.format(event="event")}, event.headers
    FROM unnest(CAST(:times AS timestamptz[]), CAST(:submissions AS uuid[]), CAST(:ids AS uuid[]))
         AS key (received_at, submission_id, event_id)
    LEFT JOIN events AS event ON event.submission_id = key.submission_id AND event.received_at = key.received_at
         AND event.event_id = key.event_id
         AND event.received_at >= CAST(:first AS timestamptz) AND event.received_at <= CAST(:last AS timestamptz)
    {BESIDE}
    """  # noqa: S608  our own names
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


def summary_of(row: Row[Any]) -> EventSummary:
    """From a row of `events` with what stands beside it."""
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
    return EventDetail(event=summary_of(row), headers=headers, body=None if row.body is None else shown_body(row.body))


def shown_body(body: bytes) -> EventBody:
    """A body for people: text if it is UTF-8, base64 otherwise, without callback tokens."""
    shown = redact_bytes(body)
    try:
        return EventBody(encoding="utf-8", content=shown.decode(), redacted=shown != body)
    except UnicodeDecodeError:
        return EventBody(encoding="base64", content=base64.b64encode(shown).decode(), redacted=shown != body)

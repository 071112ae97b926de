"""The keys of events, newest first: of a submission, of creations, or of the whole fleet, each by an index (decisions 0015, 0108)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Uuid,
    and_,
    func,
    literal,
    select,
    true,
)

from service.storage.tables import events, hides_id

#: received_at, submission_id, event_id: lists are in descending order of this, and cursors hold it.
Key = tuple[datetime, UUID, UUID]
#: From when, until when; None is unbounded.
Span = tuple[datetime | None, datetime | None]


def of_submission(submission_id: UUID, wanted: Iterable[ColumnElement[bool]], limit: int) -> Select[Any]:
    """The keys of a submission's events, newest first, by the primary key backwards."""
    mine = events.c.submission_id == submission_id
    return select(*key_of(events)).where(mine, *wanted).order_by(*newest_first(events)).limit(limit)


def of_fleet(wanted: Iterable[ColumnElement[bool]]) -> Select[Any]:
    """The keys of events of the whole fleet, newest first; a BRIN finds those of a stretch of time."""
    return select(*key_of(events)).where(*wanted).order_by(*newest_first(events))


def of_submissions(ids: Sequence[UUID], wanted: Iterable[ColumnElement[bool]], limit: int) -> Select[Any]:
    """The keys of the events of some submissions, newest first."""
    given = select(func.unnest(literal(list(ids), ARRAY(Uuid))).label("submission_id")).subquery("given")
    return _merged(given, _of_their_submission, list(wanted), limit)


def of_creations(
    creations: Sequence[tuple[UUID, int]], wanted: Iterable[ColumnElement[bool]], limit: int
) -> Select[Any]:
    """The same of some creations, by their index."""
    arrays = literal([one[0] for one in creations], ARRAY(Uuid)), literal([one[1] for one in creations], ARRAY(Integer))
    given = func.unnest(*arrays).table_valued("submission_id", "creation_no", name="given").render_derived()
    return _merged(given, _of_their_creation, list(wanted), limit)


def _merged(
    sources: FromClause,
    theirs: Callable[[FromClause], ColumnElement[bool]],
    wanted: Sequence[ColumnElement[bool]],
    limit: int,
) -> Select[Any]:
    """The newest keys of all sources. Only those with the newest events are read further: no other can fill a page."""

    def newest_of(some: FromClause, count: int) -> FromClause:
        query = select(*key_of(events)).where(theirs(some), *wanted).order_by(*newest_first(events))
        return query.limit(count).lateral()

    newest = newest_of(sources, 1)
    chosen = select(*sources.c).select_from(sources.join(newest, true())).order_by(*newest_first(newest))
    few = chosen.limit(limit).subquery("few")
    found = newest_of(few, limit)
    return select(*key_of(found)).select_from(few.join(found, true())).order_by(*newest_first(found)).limit(limit)


def _of_their_submission(some: FromClause) -> ColumnElement[bool]:
    return events.c.submission_id == some.c.submission_id


def _of_their_creation(some: FromClause) -> ColumnElement[bool]:
    return and_(_of_their_submission(some), events.c.creation_no == some.c.creation_no)


def event_may_name(event: str, vm: str) -> str:
    """A condition, as text, that holds of every event of a creation which names a VM, and of few others. Only the parser knows.

    `event` is the alias of its row; `vm` that of one with `submission_id`, `creation_no`, `digits` (the VM's id as
    bytes) and `history` (the name of its history).
    """
    of_history = f"{event}.source = 'history' AND {event}.peer = {vm}.history"
    return f"({callback_may_name(event, f'{vm}.digits', vm)} OR {of_history})"


def callback_may_name(callback: str, digits: str, creation: str) -> str:
    """The same as text, of one callback: `callback` is the alias of its row, `creation` of one with `submission_id` and
    `creation_no`, `digits` an expression with the id as bytes.
    """
    hidden = f"""SELECT hidden.event_id FROM events hidden WHERE hidden.submission_id = {creation}.submission_id
                 AND hidden.creation_no = {creation}.creation_no AND ({hides_id("hidden.body")})"""  # noqa: S608  our own names
    return f"({callback_in_digits(callback, digits)} OR {callback}.event_id = ANY (ARRAY({hidden})))"


def callback_in_digits(callback: str, digits: str) -> str:
    """Leaves out those with the id in another form."""
    return f"position({digits} IN {callback}.body) > 0"


def inside(table: FromClause, span: Span) -> Iterator[ColumnElement[bool]]:
    first, end = span
    if first is not None:
        yield table.c.received_at >= first
    if end is not None:
        yield table.c.received_at < end


def key_of(table: FromClause) -> tuple[ColumnElement[Any], ...]:
    return table.c.received_at, table.c.submission_id, table.c.event_id


def newest_first(table: FromClause) -> list[ColumnElement[Any]]:
    return [column.desc() for column in key_of(table)]

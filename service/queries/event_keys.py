"""The keys of events, newest first: of a submission, of creations, or of the whole fleet, each by an index (decisions 0015, 0108)."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    FromClause,
    Integer,
    LargeBinary,
    Select,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
)

from service.storage.events import history_of
from service.storage.tables import events

#: received_at, submission_id, event_id: lists are in descending order of this, and cursors hold it.
Key = tuple[datetime, UUID, UUID]
#: From when, until when; None is unbounded.
Span = tuple[datetime | None, datetime | None]
#: An id in a body stands there in digits, unless the body is compressed, or has escapes or numbers with an exponent.
_MAY_HIDE_DIGITS: Final = r"""(
    substring({0}.body FROM 1 FOR 1) <> '\x7b' OR position('\x5c' IN {0}.body) > 0
    OR encode({0}.body, 'escape') ~ '[0-9.][eE][+]?[0-9]')"""


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


def may_name(provider_ids: Collection[int]) -> ColumnElement[bool]:
    """A condition that holds of every event which names one of these VMs, and of few others. Only the parser knows."""
    digits = [literal(str(one).encode(), LargeBinary) for one in provider_ids]
    return _names(digits, literal([history_of(one) for one in provider_ids], ARRAY(Text)))


def _names(digits: Iterable[ColumnElement[bytes]], histories: ColumnElement[Any]) -> ColumnElement[bool]:
    in_digits = (func.position(one.op("IN")(events.c.body)) > 0 for one in digits)
    of_history = and_(events.c.source == "history", events.c.peer == any_(histories))
    return or_(*in_digits, of_history, literal_column(_MAY_HIDE_DIGITS.format("events"), Boolean))


#: The same of one VM, to be part of a statement that is made once. `names_of` gives its parameters.
MAY_NAME_VM: Final = _names([bindparam("digits", type_=LargeBinary())], bindparam("histories", type_=ARRAY(Text)))


def names_of(provider_id: int | None) -> dict[str, Any]:
    """The parameters of `MAY_NAME_VM`."""
    return {"digits": str(provider_id).encode(), "histories": [history_of(provider_id)]}


def callback_may_name(callback: str, digits: str) -> str:
    """The same as text, of one callback: `callback` is the alias of its row, `digits` an expression with the id as bytes."""
    return f"({callback_in_digits(callback, digits)} OR {_MAY_HIDE_DIGITS.format(callback)})"


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

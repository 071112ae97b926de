"""The newest transitions of the whole fleet, without an index that orders them (`transitions_at_idx` is a BRIN)."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.engine import server_time
from service.storage.tables import submissions, transitions

#: The first stretch of time that is read, and how much longer each further one is.
_FIRST: Final = timedelta(minutes=10)
_LONGER: Final = 6
_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


async def newest_transitions(
    conn: AsyncConnection, query: Select[Any], *, until: datetime | None, limit: int
) -> Sequence[Row[Any]]:
    """The rows of a query on `transitions` in descending order of their times; it has its own limit.

    Reads ever longer stretches of time backwards until there are enough rows: rows are appended as time goes by, so a
    stretch is a few blocks.
    """
    first = await _first(conn)
    end = until or await server_time(conn)
    found: list[Row[Any]] = []
    stretch = _FIRST
    upper: ColumnElement[bool] = true()
    while len(found) < limit:
        begin = max(end - stretch, first)
        rows = await conn.execute(query.where(upper, transitions.c.at >= begin if begin > first else true()))
        found += rows.all()
        if begin <= first:
            break
        upper, end, stretch = transitions.c.at < begin, begin, stretch * _LONGER
    return found[:limit]


async def _first(conn: AsyncConnection) -> datetime:
    """When the first submission was made: no transition is older."""
    query = select(submissions.c.created_at).order_by(submissions.c.submission_id).limit(1)
    return (await conn.execute(query)).scalar_one_or_none() or _NEVER

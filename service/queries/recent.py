"""The newest rows of the whole fleet, without an index that orders them: times of events and transitions have a BRIN (decision 0108)."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Executable, Row, Select, select, true
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement

from service.storage.engine import server_time
from service.storage.tables import submissions

#: The first stretch of time that is read, and how much longer a further one may be.
_FIRST: Final = timedelta(seconds=10)
_LONGER: Final = 20
#: Stretches before it is looked up whether anything is older.
_BLIND: Final = 2
#: Of a longer stretch behind an empty one, in which Postgres expects more rows, a part is read first,
_MANY: Final = 20_000
#: but no less than this share of the time gone back so far: expectations may be wrong.
_LEAST: Final = 1 / 12
_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


async def newest(
    conn: AsyncConnection,
    query: Select[Any],
    at: ColumnElement[datetime],
    *,
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> list[Row[Any]]:
    """The first rows of a query whose order is descending by `at`. It selects no rows outside of `since` and `until`.

    Reads ever longer stretches of time backwards until there are enough rows: rows are appended as time goes by, so a
    stretch is a few blocks.
    """
    first, blind = since or _NEVER, _BLIND if since is None else -1
    start = end = until or await server_time(conn)
    found: list[Row[Any]] = []
    some: Sequence[Row[Any]] = ()
    stretch = _FIRST
    upper: ColumnElement[bool] = true()
    while len(found) < limit:
        if blind == 0:
            first = await _first(conn)
        blind -= 1
        least = max(_FIRST, (start - end) * _LEAST)
        begin = end - min(max(stretch, least), max(end - first, timedelta(0)))
        inside = query.where(upper, at >= begin if begin > first else true())
        if stretch > least and not some and await _expected(conn, inside) > _MANY:
            stretch /= _LONGER
            continue
        some = (await conn.execute(inside.limit(limit - len(found)))).all()
        found += some
        if begin <= first:
            break
        # As long as the page takes at the rate of this one, and half as long again.
        longer = min(_LONGER, 1.5 * (limit - len(found)) / len(some)) if some else _LONGER
        upper, end, stretch = at < begin, begin, max(stretch, least) * longer
    return found


async def _first(conn: AsyncConnection) -> datetime:
    """When the first submission was made: nothing is older."""
    query = select(submissions.c.created_at).order_by(submissions.c.submission_id).limit(1)
    return (await conn.execute(query)).scalar_one_or_none() or _NEVER


async def _expected(conn: AsyncConnection, query: Select[Any]) -> float:
    """How many rows Postgres expects of a query without its limit. It reads none."""
    plan = (await conn.execute(_Explain(query.order_by(None).limit(None)))).scalar_one()
    return float(plan[0]["Plan"]["Plan Rows"])


class _Explain(Executable, ClauseElement):
    inherit_cache = False

    def __init__(self, query: Select[Any]) -> None:
        self.query = query


@compiles(_Explain)
def _explained(one: _Explain, compiler: SQLCompiler, **how: Any) -> str:
    return f"EXPLAIN (FORMAT JSON) {compiler.process(one.query, **how)}"

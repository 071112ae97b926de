"""The rows of the append-only tables that are not sealed yet, found by the transactions that recorded them."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage import leaf_sql
from service.storage.engine import driver
from service.storage.seals import Log, XactSnapshot, newest, unpacked
from service.storage.tables import seals

#: Every row is of a later transaction than this, and of an earlier one than the other.
_FIRST_XACT: Final = 0
_LAST_XACT: Final = 2**62


class Unsealed(NamedTuple):
    """A row that may not be sealed yet: the transaction that recorded it, its key as text, and the hash of its leaf."""

    xact_id: int
    key: str
    hash: bytes


async def snapshot(conn: AsyncConnection) -> XactSnapshot:
    """What is committed now."""
    return XactSnapshot.parse((await conn.execute(text("SELECT pg_current_snapshot()::text"))).scalar_one())


async def server_identifier(conn: AsyncConnection) -> str:
    """Which Postgres this is: one that a dump was restored into is another."""
    return str((await conn.execute(text("SELECT system_identifier FROM pg_control_system()"))).scalar_one())


async def find_unsealed(
    conn: AsyncConnection,
    table: str,
    *,
    sealed: XactSnapshot | None,
    until: XactSnapshot | None,
    after: Sequence[Any] | None,
    limit: int,
    relation: str | None = None,
) -> list[Unsealed]:
    """Rows that `sealed` does not show, by transaction and key, behind `after`; of transactions that `until` may show.

    A row that was committed since `until` is perhaps among them. `relation` is the table to read if it has another name.
    """
    connection = await driver(conn)
    sql = leaf_sql.of(table)
    since = sealed or XactSnapshot(_FIRST_XACT, _FIRST_XACT, ())
    start = f"SELECT xact_id, {sql.key_text}, {sql.hash} FROM {relation or table}"  # noqa: S608  our own names
    order = ", ".join(sql.key)
    found: list[Any] = []
    first = since.xmin
    if after is not None:
        # The rest of a transaction. No other condition, so that the planner sees how many rows it has: of millions it takes
        # the next by the index of the key, and of a few it takes all.
        xact_id, key = after
        rest = f"WHERE xact_id = $1 AND ({order}) > ({sql.key_values('$2')}) ORDER BY {order} LIMIT $3"
        found = await connection.fetch(f"{start} {rest}", xact_id, key, limit)
        first = max(first, xact_id + 1)
    if len(found) < limit:
        which = "WHERE xact_id >= $1 AND xact_id < $2 AND (xact_id >= $3 OR xact_id = ANY ($4::bigint[]))"
        until_xact = until.xmax if until else _LAST_XACT
        values = (first, until_xact, since.xmax, list(since.in_progress), limit - len(found))
        found += await connection.fetch(f"{start} {which} ORDER BY xact_id, {order} LIMIT $5", *values)
    return [Unsealed(*row) for row in found]


async def sealed_keys(
    conn: AsyncConnection, log: Log, table: str, rows: Sequence[Unsealed], *, before: int | None = None
) -> set[str]:
    """Which of these rows are sealed in the log, by leaves below `before`."""
    low, high = min(row.xact_id for row in rows), max(row.xact_id for row in rows)
    query = select(seals.c.row_keys).where(
        seals.c.log_id == log.log_id,
        seals.c.table_name == table,
        seals.c.last_xact >= low,
        seals.c.first_xact <= high,
        seals.c.first_leaf < (log.size if before is None else before),
    )
    wanted = {row.key for row in rows}
    found: set[str] = set()
    for keys in (await conn.execute(query)).scalars():
        found |= wanted.intersection(unpacked(keys).split("\n"))
    return found


async def any_unsealed(conn: AsyncConnection, table: str, relation: str) -> bool:
    """Whether a row of `relation`, which is a part of `table`, is not sealed in the newest log. False without a log."""
    log = await newest(conn)
    if log is None:
        return False
    after = None
    while found := await find_unsealed(
        conn, table, sealed=log.sealed, until=None, after=after, limit=10_000, relation=relation
    ):
        if len(await sealed_keys(conn, log, table, found)) < len(found):
            return True
        after = [found[-1].xact_id, found[-1].key]
    return False

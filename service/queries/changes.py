"""Whether anything was written that a page may show: Postgres's own counters of changed rows, which cost no scan."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_COUNTERS: Final = text(
    """
    SELECT COALESCE(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint FROM pg_stat_user_tables
    WHERE relname IN ('submissions', 'vms', 'transitions', 'inbox', 'dead_letters', 'assignments', 'actions', 'orphans')
    """
)


async def marker(conn: AsyncConnection) -> int:
    """A number that differs from an earlier one if something changed; it may lag by seconds."""
    return int((await conn.execute(_COUNTERS)).scalar_one())

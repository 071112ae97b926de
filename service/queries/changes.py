"""Whether anything was written that a page may show: Postgres's own counters of changed rows, which cost no scan.

A large fleet is shown as it was sampled last (`fleet_samples`): what was sampled counts too, but for what is new each time.
"""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_COUNTERS: Final = text(
    """
    SELECT COALESCE(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint,
           (SELECT (numbers #- '{fleet,at}' #- '{fleet,on_demand_seconds}' #- '{fleet,oldest_waiting_seconds}')::text
            FROM fleet_samples ORDER BY slot DESC LIMIT 1)
    FROM pg_stat_user_tables
    WHERE relname IN ('submissions', 'vms', 'transitions', 'inbox', 'dead_letters', 'assignments', 'actions', 'orphans')
    """
)


async def marker(conn: AsyncConnection) -> tuple[int, str | None]:
    """A value that differs from an earlier one if something changed; it may lag by seconds."""
    changed, sampled = (await conn.execute(_COUNTERS)).one()
    return changed, sampled

"""How far a standby is behind its primary."""

from typing import Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_WRITTEN: Final = text("""
SELECT (SELECT system_identifier FROM pg_control_system()) AS system,
       CASE WHEN NOT pg_is_in_recovery() THEN CAST(pg_current_wal_lsn() AS text) END AS lsn
""")
#: What has replayed all that the primary had written is not behind, however old its last transaction is.
_STATE: Final = text("""
SELECT (SELECT system_identifier FROM pg_control_system()) AS system, pg_is_in_recovery() AS is_standby,
       CASE WHEN pg_last_wal_replay_lsn() >= CAST(CAST(:lsn AS text) AS pg_lsn) THEN 0
            ELSE coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0) END AS lag
""")


class Written(NamedTuple):
    """Which cluster a server belongs to, and how far it has written its log; None on a standby."""

    system: int
    lsn: str | None


class StandbyState(NamedTuple):
    """Which cluster a server belongs to, whether it is a standby, and how many seconds it is behind."""

    system: int
    is_standby: bool
    lag: float


async def written(conn: AsyncConnection) -> Written:
    """How far the primary has written."""
    row = (await conn.execute(_WRITTEN)).one()
    return Written(row.system, row.lsn)


async def state(conn: AsyncConnection, primary: Written | None) -> StandbyState:
    """The state of a standby, compared with what its primary had written before; None if that is not known."""
    row = (await conn.execute(_STATE, {"lsn": primary.lsn if primary else None})).one()
    return StandbyState(row.system, row.is_standby, max(0.0, float(row.lag)))

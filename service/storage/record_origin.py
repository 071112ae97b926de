"""The table `record_origin`: which server's history the record is, to notice that it went back in time."""

from datetime import datetime
from typing import Final

from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.tables import record_origin

#: A restored cluster or a promoted standby has another timeline, a restored dump another database. A standby has no
#: timeline of its own to write on, so it has no history here.
_HISTORY: Final = """
    SELECT concat_ws('/', system_identifier,
        CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END,
        (SELECT oid FROM pg_database WHERE datname = current_database())) AS history
    FROM pg_control_system()
"""
_SAME: Final = text(f"SELECT EXISTS (SELECT FROM record_origin JOIN ({_HISTORY}) AS here USING (history))")  # noqa: S608  a constant of ours
_LOCKED: Final = text("SELECT history FROM record_origin FOR UPDATE")
_NOTE: Final = text(f"""
INSERT INTO record_origin (history) {_HISTORY} ON CONFLICT (origin_no) DO UPDATE SET history = excluded.history RETURNING history
""")
_UNCERTAIN: Final = text("SELECT uncertain_since FROM record_origin")
_FORGET: Final = text("""
INSERT INTO record_origin (history) VALUES ('restored') ON CONFLICT (origin_no) DO UPDATE SET history = excluded.history
""")


async def is_same(conn: AsyncConnection) -> bool:
    """Whether the record is still what this server wrote, as far as the server knows."""
    return bool((await conn.execute(_SAME)).scalar_one())


async def note(conn: AsyncConnection) -> bool:
    """Record the server's history. Returns whether there was another: the record may have gone back in time."""
    before = (await conn.execute(_LOCKED)).scalar_one_or_none()
    now = (await conn.execute(_NOTE)).scalar_one()
    return before is not None and now != before


async def mark_uncertain(conn: AsyncConnection, *, now: datetime) -> None:
    """Record that the record may have gone back in time."""
    await conn.execute(update(record_origin).values(uncertain_since=now))


async def uncertain_since(conn: AsyncConnection) -> datetime | None:
    """When it was noticed last that the record may have gone back in time."""
    found: datetime | None = (await conn.execute(_UNCERTAIN)).scalar_one_or_none()
    return found


async def forget(conn: AsyncConnection) -> None:
    """Have the next daemon take the record for one that went back in time, which a copy of files does not show."""
    await conn.execute(_FORGET)

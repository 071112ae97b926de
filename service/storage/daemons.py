"""The table `daemons`: which daemons use the database, or did last, and with which shared settings."""

from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct, convert, to_builtins
from sqlalchemy import delete, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.shared_settings import SharedSettings
from service.storage.rows import from_rows
from service.storage.tables import daemons

#: Daemons that are compared, the latest first: more than anybody runs.
_MOST = 200


class Daemon(Struct, frozen=True):
    """One row of `daemons`. `settings` are `SharedSettings` as JSON."""

    daemon_id: UUID
    name: str
    settings: dict[str, Any]
    seen_at: datetime
    stopped_at: datetime | None = None

    @property
    def shared(self) -> SharedSettings:
        return convert(self.settings, SharedSettings)


def daemon(daemon_id: UUID, name: str, settings: SharedSettings, now: datetime) -> Daemon:
    """The row of a daemon that runs."""
    return Daemon(daemon_id, name, to_builtins(settings), now)


async def lock(conn: AsyncConnection) -> None:
    """Let one daemon at a time compare itself with the others and join them."""
    await conn.execute(text("LOCK TABLE daemons IN SHARE ROW EXCLUSIVE MODE"))


async def latest(conn: AsyncConnection) -> list[Daemon]:
    """All daemons that are remembered, the one seen last first."""
    return await from_rows(Daemon, await conn.execute(select(daemons).order_by(daemons.c.seen_at.desc()).limit(_MOST)))


async def save(conn: AsyncConnection, one: Daemon) -> None:
    """Insert or replace a daemon's row."""
    row = {name: getattr(one, name) for name in one.__struct_fields__}
    await conn.execute(insert(daemons).values(row).on_conflict_do_update(constraint="daemons_pkey", set_=row))


async def stop(conn: AsyncConnection, daemon_id: UUID, *, now: datetime) -> None:
    """Record that a daemon has stopped."""
    await conn.execute(update(daemons).where(daemons.c.daemon_id == daemon_id).values(stopped_at=now))


async def forget(conn: AsyncConnection, *, before: datetime) -> None:
    """Remove daemons that were not seen since `before`."""
    await conn.execute(delete(daemons).where(daemons.c.seen_at < before))

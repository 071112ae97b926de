"""The version of Postgres, and its clock."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

#: The oldest supported Postgres.
OLDEST: Final = 14


@dataclass(frozen=True, slots=True)
class Server:
    """A Postgres: its version, and how far its clock is ahead of ours."""

    version: str
    major: int
    ahead: timedelta


async def look(conn: AsyncConnection) -> Server:
    """The version and clock of the database."""
    before = datetime.now(UTC)
    row = (
        await conn.execute(
            text(
                "SELECT current_setting('server_version') AS version,"
                " current_setting('server_version_num')::int AS number, clock_timestamp() AS clock"
            )
        )
    ).one()
    middle = before + (datetime.now(UTC) - before) / 2
    return Server(version=row.version, major=row.number // 10_000, ahead=row.clock - middle)

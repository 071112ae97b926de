"""The table `api_tokens`: who may call the API. The token itself is not in it, only its digest."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import ColumnElement, and_, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.api_token import Role
from service.core.limits import Limits
from service.storage.arrays import is_any
from service.storage.rows import from_rows, insert_many
from service.storage.tables import api_tokens

#: For how long a daemon remembers tokens that have ended, to tell their holders why they are refused.
REMEMBERED: Final = timedelta(days=7)
#: Tokens that a daemon holds in memory: all that are valid (operations/tokens.py bounds them) and some that have ended.
_MOST: Final = 2000


class ApiToken(Struct, frozen=True):
    """One row of `api_tokens`. Tokens that follow each other by rotation share `name`, and are numbered by `serial`."""

    token_id: UUID
    name: str
    serial: int
    digest: bytes
    role: Role
    created_at: datetime
    created_by: str
    requests_per_minute: int | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_by: str | None = None
    last_used_at: datetime | None = None
    max_vms: int | None = None
    max_gpus: int | None = None
    max_price_per_hour: Decimal | None = None

    @property
    def limits(self) -> Limits:
        return Limits(vms=self.max_vms, gpus=self.max_gpus, price_per_hour=self.max_price_per_hour)


_EXPIRING: Final = """
SELECT * FROM api_tokens AS one
WHERE revoked_at IS NULL AND expires_at > :now AND last_used_at > CAST(:now AS timestamptz) - interval '7 days'
  AND expires_at - least((expires_at - created_at) / 10, interval '7 days') <= :now
  AND NOT EXISTS (SELECT FROM api_tokens AS later WHERE later.name = one.name AND later.serial > one.serial)
ORDER BY expires_at LIMIT :limit
"""


async def lock(conn: AsyncConnection) -> None:
    """Let one transaction at a time create, rotate or revoke tokens."""
    await conn.execute(text("LOCK TABLE api_tokens IN SHARE ROW EXCLUSIVE MODE"))


async def insert(conn: AsyncConnection, token: ApiToken) -> None:
    await insert_many(conn, api_tokens, [token])


async def current(conn: AsyncConnection, *, now: datetime) -> list[ApiToken]:
    """The tokens that are valid, or ended a short time ago; the newest first."""
    recent = now - REMEMBERED
    rows = select(api_tokens).where(_valid_at(recent)).order_by(api_tokens.c.token_id.desc()).limit(_MOST)
    return await from_rows(ApiToken, await conn.execute(rows))


async def of_name(conn: AsyncConnection, name: str) -> list[ApiToken]:
    """All tokens that ever had a name, oldest first."""
    rows = select(api_tokens).where(api_tokens.c.name == name).order_by(api_tokens.c.serial)
    return await from_rows(ApiToken, await conn.execute(rows))


async def valid(conn: AsyncConnection, *, now: datetime) -> list[ApiToken]:
    """The tokens that are valid."""
    return await from_rows(ApiToken, await conn.execute(select(api_tokens).where(_valid_at(now))))


async def page(conn: AsyncConnection, *, valid_at: datetime | None, before: UUID | None, limit: int) -> list[ApiToken]:
    """Tokens, the newest first: all, or those that are valid at a moment."""
    rows = select(api_tokens).order_by(api_tokens.c.token_id.desc()).limit(limit)
    if valid_at is not None:
        rows = rows.where(_valid_at(valid_at))
    if before is not None:
        rows = rows.where(api_tokens.c.token_id < before)
    return await from_rows(ApiToken, await conn.execute(rows))


async def expiring(conn: AsyncConnection, *, now: datetime, limit: int) -> list[ApiToken]:
    """Tokens in use that expire soon and have no successor, the next first: within a week, or in the last tenth of a shorter life."""
    rows = await conn.execute(text(_EXPIRING), {"now": now, "limit": limit})
    return await from_rows(ApiToken, rows)


async def get(conn: AsyncConnection, token_id: UUID) -> ApiToken | None:
    found = await from_rows(ApiToken, await conn.execute(select(api_tokens).where(api_tokens.c.token_id == token_id)))
    return next(iter(found), None)


async def lock_holdings(conn: AsyncConnection, name: str) -> None:
    """Let one transaction at a time add to what the tokens of a name hold, or change how much that may be."""
    rows = select(api_tokens.c.token_id).where(api_tokens.c.name == name).order_by(api_tokens.c.serial)
    await conn.execute(rows.with_for_update())


async def change(conn: AsyncConnection, ids: Sequence[UUID], values: Mapping[str, Any]) -> None:
    """Set columns of tokens."""
    await conn.execute(update(api_tokens).where(is_any(api_tokens.c.token_id, ids)).values(**values))


async def end_at(conn: AsyncConnection, ids: Sequence[UUID], moment: datetime) -> None:
    """Let tokens expire at a moment, unless they do earlier."""
    c = api_tokens.c
    sooner = or_(c.expires_at.is_(None), c.expires_at > moment)
    await conn.execute(update(api_tokens).where(is_any(c.token_id, ids), sooner).values(expires_at=moment))


async def revoke(conn: AsyncConnection, ids: Sequence[UUID], *, now: datetime, by: str) -> None:
    """Revoke tokens."""
    await conn.execute(
        update(api_tokens).where(is_any(api_tokens.c.token_id, ids)).values(revoked_at=now, revoked_by=by)
    )


async def note_use(conn: AsyncConnection, token_id: UUID, *, now: datetime) -> None:
    """Record that a token was used, unless a later use is on record."""
    c = api_tokens.c
    earlier = or_(c.last_used_at.is_(None), c.last_used_at < now)
    await conn.execute(update(api_tokens).where(c.token_id == token_id, earlier).values(last_used_at=now))


def _valid_at(moment: datetime) -> ColumnElement[bool]:
    c = api_tokens.c
    return and_(or_(c.revoked_at.is_(None), c.revoked_at > moment), or_(c.expires_at.is_(None), c.expires_at > moment))

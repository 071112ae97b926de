"""What `rollcall token --database` does with the database itself, such as for the first token, when no daemon runs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from msgspec import to_builtins

from service.api.tokens import TokenInfo, created, with_holdings
from service.app.database import located
from service.config import Settings
from service.core.validation import validate
from service.errors import StorageError
from service.operations import tokens as operations
from service.operations.tokens import TokenChange, TokenRequest, TokenRotation
from service.runtime.clock import DatabaseClock
from service.runtime.runtime import Runtime, open_runtime
from service.storage import migrate, tokens
from service.storage.engine import begin

#: Who is on record: whoever can write to the database needs no token.
_CALLER: Final = "database"
_MOST: Final = 10_000


async def create(settings: Settings, body: dict[str, Any]) -> dict[str, Any]:
    """Create a token, as `POST /v1/tokens` does."""
    wanted = validate(TokenRequest, body)
    async with _record(settings) as rt:
        made = await operations.create(rt, wanted, caller=_CALLER, taken=list(settings.callers))
        return _json(created(made, rt.clock.now()))


async def rotate(settings: Settings, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Rotate a token, as `POST /v1/tokens/{name}/rotate` does."""
    wanted = validate(TokenRotation, body)
    async with _record(settings) as rt:
        return _json(created(await operations.rotate(rt, name, wanted, caller=_CALLER), rt.clock.now()))


async def change(settings: Settings, name: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Change the limits of the valid tokens of a name, as `PATCH /v1/tokens/{name}` does."""
    wanted = validate(TokenChange, body)
    async with _record(settings) as rt:
        changed = await operations.change(rt, name, wanted, caller=_CALLER)
        return [_json(TokenInfo.of(one, rt.clock.now())) for one in changed]


async def revoke(settings: Settings, name: str) -> list[dict[str, Any]]:
    """Revoke the valid tokens of a name, as `DELETE /v1/tokens/{name}` does."""
    async with _record(settings) as rt:
        return [_json(TokenInfo.of(one, rt.clock.now())) for one in await operations.revoke(rt, name, caller=_CALLER)]


async def listed(settings: Settings, *, ended: bool) -> list[dict[str, Any]]:
    """The tokens of the database, as `GET /v1/tokens` lists them."""
    async with _record(settings) as rt, begin(rt.engine) as conn:
        now = rt.clock.now()
        found = await tokens.page(conn, valid_at=None if ended else now, before=None, limit=_MOST)
        return [_json(one) for one in await with_holdings(conn, found, now)]


@asynccontextmanager
async def _record(settings: Settings) -> AsyncIterator[Runtime]:
    async with located(settings) as (url, _):
        rt = open_runtime(settings, url)
        try:
            if await migrate.current(rt.engine) != migrate.head():
                raise StorageError("it is not migrated to this release; run `rollcall migrate`, or start the daemon")
            if isinstance(rt.clock, DatabaseClock):
                await rt.clock.measure(rt.engine)
            yield rt
        finally:
            await rt.close()


def _json(one: TokenInfo) -> dict[str, Any]:
    found: dict[str, Any] = to_builtins(one)
    return found

"""The database: the one of the settings, or the embedded one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from service.config import Settings
from service.storage.embedded import EmbeddedPostgres
from service.storage.engine import create_engine
from service.storage.pooler import refuse_mixed_statements


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """An engine for the record. An embedded Postgres is started if none runs, and stopped if nobody else uses it.

    Raises `ConfigError` if there is neither or it cannot be used, `StorageUnavailable` if it is away.
    """
    async with located(settings) as (url, _):
        await refuse_mixed_statements(url)
        engine = create_engine(url, pool_size=2)
        try:
            yield engine
        finally:
            await engine.dispose()


@asynccontextmanager
async def located(settings: Settings) -> AsyncIterator[tuple[str, EmbeddedPostgres | None]]:
    """The database's URL, and the embedded Postgres behind it, if no URL is set; it runs at least as long as the block."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value(), None
        return
    server = EmbeddedPostgres(settings.data_dir / "postgres")
    await asyncio.to_thread(server.start)
    try:
        yield server.url, server
    finally:
        await asyncio.to_thread(server.stop)

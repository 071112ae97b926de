"""The database for commands that work on it themselves: the one of the settings, or the embedded one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from service.config import Settings
from service.storage.embedded import EmbeddedPostgres
from service.storage.engine import create_engine


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """An engine for the record. An embedded Postgres is started if none runs, and stopped if nobody else uses it.

    Raises `ConfigError` where neither is there, `StorageUnavailable` where the embedded one does not start.
    """
    async with _url(settings) as url:
        engine = create_engine(url, pool_size=2)
        try:
            yield engine
        finally:
            await engine.dispose()


@asynccontextmanager
async def _url(settings: Settings) -> AsyncIterator[str]:
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    server = EmbeddedPostgres(settings.data_dir / "postgres")
    await asyncio.to_thread(server.start)
    try:
        yield server.url
    finally:
        await asyncio.to_thread(server.stop)

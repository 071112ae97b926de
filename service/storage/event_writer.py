"""A connection of its own for the busiest write there is: storing what was received."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import StorageError
from service.storage.engine import create_engine, translated
from service.storage.events import Event, insert_autocommit


class EventWriter:
    """Keeps groups of events, each in one statement that is its own transaction: one round trip, one commit.

    Not for two tasks at once. It connects when it is first used, and again after any failure.
    """

    def __init__(self, url: URL) -> None:
        # Not a connection of the shared pool: busy workers must not keep a callback waiting.
        self._engine = create_engine(url.render_as_string(hide_password=False), pool_size=1)
        self._held: AsyncConnection | None = None
        self._driver: asyncpg.Connection[Any] | None = None

    async def store(self, group: Sequence[Event], *, within: float) -> None:
        """Keep and queue events; on return they are committed. Keeping one again changes nothing.

        Raises `StorageError`, after about `within` seconds at the latest; then all may have been kept, or none.
        """
        kept = False
        try:
            async with translated(), asyncio.timeout(within):
                await insert_autocommit(self._driver or await self._connect(), group)
            kept = True
        finally:
            # Also when cancelled: what a connection was doing when it was left is not to be guessed.
            if not kept:
                await self._drop()

    async def close(self) -> None:
        """Give the connection back. A later `keep` would open another."""
        await self._drop()
        await self._engine.dispose()

    async def _connect(self) -> "asyncpg.Connection[Any]":
        self._held = await self._engine.connect()
        driver = (await self._held.get_raw_connection()).driver_connection
        if not isinstance(driver, asyncpg.Connection):
            raise StorageError(f"the driver is {type(driver).__name__}, not asyncpg")
        self._driver = driver
        return driver

    async def _drop(self) -> None:
        held, self._held = self._held, None
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.terminate()  # a polite goodbye could wait for a server that has gone silent
        if held is not None:
            await held.invalidate()
            await held.close()

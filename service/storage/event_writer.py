"""Stores received events, on a connection of its own."""

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
    """Stores groups of events, each in one statement that is its own transaction: one round trip, one commit.

    For one task at a time. It connects at first use, and again after any failure.
    """

    def __init__(self, url: URL) -> None:
        # Not a connection of the shared pool: busy workers must not keep a callback waiting.
        self._engine = create_engine(url.render_as_string(hide_password=False), pool_size=1)
        self._held: AsyncConnection | None = None
        self._driver: asyncpg.Connection[Any] | None = None

    async def store(self, group: Sequence[Event], *, within: float) -> None:
        """Store events and put them into the inbox; on return they are committed. Storing one again changes nothing.

        Raises `StorageError` after at most about `within` seconds; then all may be stored, or none.
        """
        kept = False
        try:
            async with translated(), asyncio.timeout(within):
                await insert_autocommit(self._driver or await self._connect(), group)
            kept = True
        finally:
            # Also when cancelled: nobody knows the state of an abandoned connection.
            if not kept:
                await self._drop()

    async def close(self) -> None:
        """Close the connection. A later `store` opens another."""
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
            driver.terminate()  # a graceful close could wait for a silent server
        if held is not None:
            await held.invalidate()
            await held.close()

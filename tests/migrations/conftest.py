"""Fixtures of the migrations' tests: databases without any table, and engines on them."""

from collections.abc import AsyncIterator, Iterator

import pytest
from postgres import Databases
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.storage.engine import create_engine


@pytest.fixture(scope="module")
def shared_database_url(databases: Databases) -> Iterator[str]:
    with databases.fresh() as url:
        yield url


@pytest.fixture
async def conn(shared_database_url: str) -> AsyncIterator[AsyncConnection]:
    """A connection whose transaction is rolled back, on a database that the tests of a file share."""
    engine = create_engine(shared_database_url)
    async with engine.connect() as made:
        yield made
    await engine.dispose()


@pytest.fixture
async def bare_engine(bare_database_url: str) -> AsyncIterator[AsyncEngine]:
    made = create_engine(bare_database_url)
    yield made
    await made.dispose()


@pytest.fixture
async def another_engine(bare_database_url: str) -> AsyncIterator[AsyncEngine]:
    """A second daemon's engine, on the same database as `bare_engine`."""
    made = create_engine(bare_database_url)
    yield made
    await made.dispose()

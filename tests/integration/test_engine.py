"""Connections that die: in the pool they are replaced unnoticed, in a transaction they mean that it is run again."""

import asyncio

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.errors import StorageUnavailable
from service.storage.engine import begin, create_engine, driver, transact


async def pid(conn: AsyncConnection) -> int:
    return (await conn.execute(text("SELECT pg_backend_pid()"))).scalar_one()


async def end(url: str, number: int) -> None:
    """End a backend, and return when it is gone and whoever was connected to it could know."""
    connection = await asyncpg.connect(url)
    await connection.execute("SELECT pg_terminate_backend($1, 5000)", number)
    await connection.close()
    await asyncio.sleep(0.05)


async def test_a_connection_that_was_closed_a_moment_ago_is_replaced_unnoticed(engine: AsyncEngine, database_url: str):
    async with begin(engine) as conn:
        first = await pid(conn)
    await end(database_url, first)
    async with begin(engine) as conn:
        assert await pid(conn) != first


async def test_a_connection_that_has_rested_is_asked_and_one_that_has_not_is_not(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
):
    asked = []
    ping = engine.dialect.do_ping
    monkeypatch.setattr(engine.dialect, "do_ping", lambda connection: asked.append(connection) or ping(connection))
    for _ in range(3):
        async with begin(engine) as conn:
            first = await pid(conn)
    assert not asked
    monkeypatch.setattr("service.storage.engine._RESTS", 0)
    async with begin(engine) as conn:
        assert await pid(conn) == first
    assert len(asked) == 1


async def test_a_rested_connection_that_does_not_answer_is_replaced(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
):
    async with begin(engine) as conn:
        first = await pid(conn)

    def fails(_: object) -> bool:
        raise engine.dialect.loaded_dbapi.InterfaceError("gone", None)

    monkeypatch.setattr("service.storage.engine._RESTS", 0)
    monkeypatch.setattr(engine.dialect, "do_ping", fails)
    async with begin(engine) as conn:
        assert await pid(conn) != first


@pytest.mark.parametrize("by_the_driver", [True, False])
async def test_a_connection_that_dies_in_use_means_unavailable_and_the_work_is_run_again(
    engine: AsyncEngine, database_url: str, by_the_driver: bool
):
    pids = []

    async def work(conn: AsyncConnection) -> int:
        pids.append(await pid(conn))
        if len(pids) == 1:
            await end(database_url, pids[0])
        if by_the_driver:
            return await (await driver(conn)).fetchval("SELECT 7")
        return (await conn.execute(text("SELECT 7"))).scalar_one()

    assert await transact(engine, work) == 7
    assert len(pids) == len(set(pids)) == 2
    pids.clear()
    with pytest.raises(StorageUnavailable):
        await transact(engine, work, tries=1)


async def test_the_whole_pool_dies_at_once_and_nobody_notices(database_url: str):
    engine = create_engine(database_url, pool_size=4)

    async def one() -> int:
        async with begin(engine) as conn:
            found = await pid(conn)
            await asyncio.sleep(0.05)
            return found

    before = set(await asyncio.gather(*(one() for _ in range(4))))
    for number in before:
        await end(database_url, number)
    after = set(await asyncio.gather(*(one() for _ in range(4))))
    assert len(before) == len(after) == 4
    assert not before & after
    await engine.dispose()

"""Connections that die: in the pool they are replaced unnoticed, in a transaction they mean that it is run again."""

import asyncio
from contextlib import AsyncExitStack

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.errors import StorageUnavailable
from service.storage.database_url import parse
from service.storage.engine import begin, check_writable, create_engine, driver, transact


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


async def write(conn: AsyncConnection) -> None:
    await conn.execute(text("INSERT INTO rate_limits (scope) VALUES ('of a test') ON CONFLICT DO NOTHING"))


async def set_read_only(url: str, setting: str) -> None:
    """Make new connections read-only or writable, as a reconnect to another server would find it."""
    connection = await asyncpg.connect(url, server_settings={"default_transaction_read_only": "off"})
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {setting}")
    await connection.close()


async def test_connections_to_a_server_that_became_read_only_are_replaced_and_find_the_new_primary(database_url: str):
    await set_read_only(database_url, "on")
    engine = create_engine(database_url, pool_size=3)
    conns = [await engine.connect() for _ in range(3)]
    for conn in conns:
        await conn.close()
    await set_read_only(database_url, "off")
    with pytest.raises(StorageUnavailable, match="25006"):
        await transact(engine, write, tries=1)
    # Not only the one that failed: whoever reads from the others would read from the old server for ever.
    async with AsyncExitStack() as all_at_once:
        for _ in range(3):
            await check_writable(await all_at_once.enter_async_context(begin(engine)))
    await transact(engine, write, tries=1)
    await engine.dispose()


async def test_a_write_that_finds_a_read_only_connection_is_run_again_on_a_new_one(database_url: str):
    await set_read_only(database_url, "on")
    engine = create_engine(database_url, pool_size=3)
    async with begin(engine) as conn:
        await conn.execute(text("SELECT 1"))
    await set_read_only(database_url, "off")
    await transact(engine, write)
    await engine.dispose()


async def test_a_read_only_database_is_noticed_without_a_write(database_url: str):
    await set_read_only(database_url, "on")
    engine = create_engine(database_url)
    with pytest.raises(StorageUnavailable, match="25006 the database is read-only"):
        async with begin(engine) as conn:
            await check_writable(conn)
    await engine.dispose()


@pytest.mark.parametrize("by_the_driver", [True, False])
@pytest.mark.parametrize("sqlstate", ["25006", "25P01", "57P01", "57P03", "08006", "26000"])
async def test_a_connection_that_broke_is_not_used_again(engine: AsyncEngine, sqlstate: str, by_the_driver: bool):
    statement = f"DO $$ BEGIN RAISE EXCEPTION 'of a test' USING ERRCODE = '{sqlstate}'; END $$"
    pids = []

    async def fails(conn: AsyncConnection) -> None:
        pids.append(await pid(conn))
        if by_the_driver:
            await (await driver(conn)).execute(statement)
        await conn.execute(text(statement))

    with pytest.raises(StorageUnavailable, match=sqlstate):
        await transact(engine, fails, tries=1)
    async with begin(engine) as conn:
        assert await pid(conn) not in pids


async def test_several_hosts_are_tried_in_turn_for_one_that_can_be_written_to(database_url: str):
    folder = parse(database_url).hosts[0]
    several = database_url.replace(f"host={folder}", f"host=/nowhere,{folder}")
    assert several != database_url
    engine = create_engine(several)
    await transact(engine, write)
    await engine.dispose()
    await set_read_only(database_url, "on")
    engine = create_engine(database_url.replace(f"host={folder}", f"host={folder},{folder}"))
    with pytest.raises(StorageUnavailable, match=r"25006 .*no host of the database can be written to"):
        await transact(engine, write)
    await set_read_only(database_url, "off")
    await transact(engine, write)
    await engine.dispose()


@pytest.mark.parametrize(
    ("options", "shown"),
    [("", ("off", "90s", "5min")), ("&options=-c%20statement_timeout%3D7s%20-c%20jit%3Don", ("on", "7s", "5min"))],
)
async def test_each_connection_has_timeouts_of_its_own_unless_the_url_says_otherwise(database_url, options, shown):
    engine = create_engine(f"{database_url}{options}")
    try:
        async with begin(engine) as conn:
            names = ("jit", "statement_timeout", "idle_in_transaction_session_timeout")
            found = [
                (await conn.execute(text("SELECT current_setting(:name)"), {"name": name})).scalar_one()
                for name in names
            ]
    finally:
        await engine.dispose()
    assert tuple(found) == shown

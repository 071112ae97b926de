"""Migrating a database that others use at the same time: one after the other, all or nothing, and no long locks."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from schema import described
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.errors import StorageError, StorageUnavailable, TooNew, TooOld
from service.storage import migrate
from service.storage.engine import begin


@contextmanager
def statements_of(engine: AsyncEngine) -> Iterator[list[str]]:
    """Every statement that goes out over the engine meanwhile."""
    seen: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine.sync_engine, "before_cursor_execute", note)


async def test_daemons_that_start_together_migrate_once(bare_engine: AsyncEngine, another_engine: AsyncEngine) -> None:
    daemons = [bare_engine, another_engine] * 2
    with statements_of(bare_engine) as first, statements_of(another_engine) as second:
        await asyncio.gather(*map(migrate.upgrade, daemons))
    assert await migrate.current(bare_engine) == migrate.head()
    assert sum("CREATE TABLE vms" in statement for statement in first + second) == 1


async def test_a_daemon_that_starts_later_changes_nothing(bare_engine: AsyncEngine) -> None:
    await migrate.upgrade(bare_engine)
    before = await described(bare_engine)
    with statements_of(bare_engine) as seen:
        await migrate.upgrade(bare_engine)
    assert not [statement for statement in seen if statement.split()[0] in {"CREATE", "ALTER", "DROP", "UPDATE"}]
    assert await described(bare_engine) == before


async def test_a_migration_that_fails_leaves_nothing_behind(bare_engine: AsyncEngine) -> None:
    async with begin(bare_engine) as conn:
        await conn.execute(text("CREATE TABLE vms ()"))  # in the way of the first migration, after it made others
    before = await described(bare_engine)
    with pytest.raises(StorageError, match="already exists"):
        await migrate.upgrade(bare_engine)
    assert await described(bare_engine) == before
    assert await migrate.current(bare_engine) is None


async def test_a_migration_waits_long_for_another_and_briefly_for_tables(bare_engine: AsyncEngine) -> None:
    with statements_of(bare_engine) as seen:
        await migrate.upgrade(bare_engine)
    timeouts = [n for n, statement in enumerate(seen) if "lock_timeout" in statement]
    locked = next(n for n, statement in enumerate(seen) if "pg_advisory_xact_lock" in statement)
    changed = next(n for n, statement in enumerate(seen) if "CREATE TABLE" in statement)
    assert timeouts[0] < locked < timeouts[1] < changed
    assert len(timeouts) == 2
    assert [seen[n].split("'")[1] for n in timeouts] == ["60s", "5s"]


async def test_a_migration_gives_up_on_a_table_that_is_in_use_and_changes_nothing(
    bare_engine: AsyncEngine, another_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "_FOR_TABLES", "50ms")
    async with begin(bare_engine) as conn:
        await conn.execute(text("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)"))
    before = await described(bare_engine)
    async with begin(another_engine) as conn:
        await conn.execute(text("LOCK TABLE alembic_version IN SHARE MODE"))
        with pytest.raises(StorageUnavailable, match="lock timeout"):
            await migrate.upgrade(bare_engine)
        assert await migrate.current(bare_engine) is None
    assert await described(bare_engine) == before
    await migrate.upgrade(bare_engine)
    assert await migrate.current(bare_engine) == migrate.head()


async def test_a_database_of_an_earlier_version_is_refused_with_what_to_do(bare_engine: AsyncEngine) -> None:
    async with begin(bare_engine) as conn:
        await conn.execute(text("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)"))
        await conn.execute(text("INSERT INTO alembic_version VALUES ('0006')"))
    before = await described(bare_engine)
    with pytest.raises(TooOld, match=r"an earlier version of Rollcall made this database .* give it an empty database"):
        await migrate.upgrade(bare_engine)
    assert await described(bare_engine) == before


async def test_a_database_that_a_later_release_has_migrated_is_refused_with_what_to_do(
    bare_engine: AsyncEngine,
) -> None:
    await migrate.upgrade(bare_engine)
    async with begin(bare_engine) as conn:
        await conn.execute(text("UPDATE alembic_version SET version_num = 'r9999'"))
    before = await described(bare_engine)
    with pytest.raises(TooNew, match=f"to r9999; this one, .*, knows it up to {migrate.head()}: run that release"):
        await migrate.upgrade(bare_engine)
    assert await described(bare_engine) == before
    assert await migrate.current(bare_engine) == "r9999"


async def test_the_timeout_ends_with_the_migration(bare_engine: AsyncEngine) -> None:
    await migrate.upgrade(bare_engine)
    async with begin(bare_engine) as conn:
        assert (await conn.execute(text("SHOW lock_timeout"))).scalar_one() == "0"


async def test_the_lock_needs_no_session_so_that_a_pooler_may_stand_between(bare_engine: AsyncEngine) -> None:
    await migrate.upgrade(bare_engine)
    async with begin(bare_engine) as conn:
        held = await conn.execute(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"))
        assert held.scalar_one() == 0

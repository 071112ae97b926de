"""A daemon whose role owns nothing: it works with what `rollcall migrate --roles` grants, and says what is missing."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from clock import NOON
from postgres import connected, executed, fetched
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage
from stored_events import event

from service.errors import ConfigError, NotMigrated, StorageError
from service.storage import migrate, partitions, roles
from service.storage.engine import begin, create_engine
from service.storage.event_writer import EventWriter
from service.storage.partitions import Month
from service.worker import seal

OWNER, ROLE = "owner_of_tests", "rollcall_of_tests"


def url_as(url: str, role: str) -> str:
    return f"{url}&options={quote(f'-c role={role}')}"


@pytest.fixture
async def owned(bare_database_url: str) -> AsyncIterator[str]:
    """The URL of an empty database in which one role may make tables, and another may log in."""
    async with connected(bare_database_url) as connection:
        for role in (OWNER, ROLE):
            await connection.execute(f"DROP ROLE IF EXISTS {role}")
            await connection.execute(f"CREATE ROLE {role}")
        await connection.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO {OWNER}")
    yield bare_database_url
    for role in (ROLE, OWNER):
        await executed(bare_database_url, f"DROP OWNED BY {role} CASCADE")
    await executed(bare_database_url, f"DROP ROLE {OWNER}, {ROLE}")


async def prepare(url: str) -> None:
    """What the owner does: migrate, then run the script, twice."""
    engine = create_engine(url_as(url, OWNER))
    await migrate.upgrade(engine)
    await engine.dispose()
    for _ in range(2):
        await executed(url_as(url, OWNER), roles.script(ROLE))


@pytest.fixture
async def engine_of_role(owned: str) -> AsyncIterator[AsyncEngine]:
    await prepare(owned)
    engine = create_engine(url_as(owned, ROLE))
    yield engine
    await engine.dispose()


async def test_everything_works_with_the_privileges_of_the_script(engine_of_role: AsyncEngine):
    await migrate.upgrade(engine_of_role)  # as `serve` does: nothing is left to do
    stage = Stage(engine_of_role)
    async with begin(engine_of_role) as conn:
        await roles.require(conn, retires=False)
        await partitions.make_partitions(conn, now=stage.rt.clock.now())
    await stage.submit(count=3)
    await stage.live(60)
    assert [vm.state for vm in await stage.vms()] == ["ACTIVE"] * 3
    assert await seal.run_once(stage.rt)
    writer = EventWriter(engine_of_role.url)
    await writer.store([event(1, received_at=NOON)], within=10)
    await writer.close()


async def test_the_role_cannot_change_the_past_nor_the_tables(engine_of_role: AsyncEngine):
    for statement in (
        "UPDATE events SET received_at = now()",
        "DELETE FROM transitions",
        "TRUNCATE calls",
        "ALTER TABLE transitions DISABLE TRIGGER ALL",
        "DROP TABLE vms",
        "CREATE TABLE anything (id int)",
        "SELECT rollcall_drop_partition('2026-01-01')",
        "SELECT rollcall_detach_partition('2026-01-01')",
    ):
        with pytest.raises(StorageError, match="42501"):
            async with begin(engine_of_role) as conn:
                await conn.execute(text(statement))


async def test_old_months_are_retired_if_the_role_may(owned: str):
    await prepare(owned)
    month, engine = Month(datetime(2026, 1, 1, tzinfo=UTC)), create_engine(url_as(owned, ROLE))
    try:
        async with begin(engine) as conn:
            await partitions.make_partitions(conn, now=month.first, months=1)
            with pytest.raises(ConfigError, match=r"lacks EXECUTE on rollcall_detach_partition.* --roles"):
                await roles.require(conn, retires=True)
        *_, retiring = roles.script(ROLE).splitlines()
        await executed(url_as(owned, OWNER), retiring.removeprefix("-- "))
        said = partitions.DroppedMonth(month.first, NOON, events=0, file=None, sha256=None)
        async with begin(engine) as conn:
            await roles.require(conn, retires=True)
            assert await partitions.take_out(conn, month)
            assert await partitions.count(conn, month) == 0
            assert await partitions.drop(conn, month, holding=0, dropped=said)
            assert await partitions.known(conn) == []
    finally:
        await engine.dispose()


async def test_no_month_that_is_attached_is_dropped_whoever_asks(owned: str):
    await prepare(owned)
    await executed(url_as(owned, OWNER), "SELECT rollcall_create_partition('2026-01-01')")
    for wrong in ("SELECT rollcall_drop_partition('2026-01-01')", "SELECT rollcall_create_partition('2026-02-02')"):
        with pytest.raises(Exception, match=r"is attached to events|is not the first day"):
            await executed(url_as(owned, OWNER), wrong)
    assert await fetched(owned, "SELECT to_regclass('events_p2026_01') IS NOT NULL")


async def test_a_role_that_lacks_something_is_refused_with_what_it_lacks(owned: str):
    engine = create_engine(url_as(owned, ROLE))
    try:
        with pytest.raises(NotMigrated, match=r"at nothing.* does not own the tables: run `rollcall migrate` as"):
            await migrate.upgrade(engine)
        await prepare(owned)
        await executed(owned, f"REVOKE DELETE ON inbox FROM {ROLE}")
        async with begin(engine) as conn:
            with pytest.raises(ConfigError, match="lacks DELETE on inbox; run what `rollcall migrate --roles` prints"):
                await roles.require(conn, retires=False)
    finally:
        await engine.dispose()

"""What a process does besides its work: the database is looked at, its clock may be set back, no task dies unnoticed."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from stored_events import event

from service.app.process import background, correct_clock, longest_wait, probe_database
from service.runtime.clock import DatabaseClock
from service.runtime.runtime import Runtime
from service.storage import events, rate_limit
from service.storage.engine import begin
from service.storage.rate_limit import RateLimit

HOUR = timedelta(hours=1)
LIMIT = RateLimit(scope="of tests", calls=10, shares={})


async def set_read_only(url: str, setting: str) -> None:
    connection = await asyncpg.connect(url, server_settings={"default_transaction_read_only": "off"})
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {setting}")
    await connection.close()


async def test_a_read_only_database_is_an_issue_until_it_can_be_written_to_without_any_write(
    runtime: Runtime, database_url: str
):
    await probe_database(runtime)
    assert runtime.health.issues == {}
    await runtime.engine.dispose()
    await set_read_only(database_url, "on")
    await probe_database(runtime)
    assert list(runtime.health.issues) == ["database read-only"]
    assert "the database is read-only" in runtime.health.issues["database read-only"]
    await set_read_only(database_url, "off")
    await probe_database(runtime)
    assert runtime.health.issues == {}


async def test_an_issue_with_the_database_is_resolved_by_looking_at_it(runtime: Runtime):
    runtime.health.report("database", "its disk was full")
    await probe_database(runtime)
    assert runtime.health.issues == {}


class SetClock(DatabaseClock):
    """The database's clock as measured, a given time ahead, as before the database's clock was set back."""

    def __init__(self, ahead: timedelta) -> None:
        super().__init__()
        self._at += ahead


async def due(conn: AsyncConnection, clock: DatabaseClock) -> list[bytes]:
    # A clock is measured to within a part of a second.
    return [one.body for one in await events.take_due(conn, now=clock.now() + timedelta(seconds=1), limit=100)]


async def test_after_the_databases_clock_went_back_nothing_waits_until_it_has_caught_up(runtime: Runtime):
    clock = SetClock(HOUR)
    ahead = clock.now()
    async with begin(runtime.engine) as conn:
        await events.insert(conn, [event(body=b"deferred", received_at=ahead)])
        await conn.execute(text("UPDATE inbox SET due_at = :at"), {"at": ahead})
        for _ in range(2):
            assert await rate_limit.acquire(conn, LIMIT, operation="create", wanted=5, now=ahead) == 5
        await rate_limit.pause(conn, "paused", ahead)
    await correct_clock(runtime, clock)
    assert abs(clock.now() - (ahead - HOUR)) < timedelta(minutes=1)
    assert "went back by 36" in runtime.health.issues["clock"]
    async with begin(runtime.engine) as conn:
        assert await due(conn, clock) == [b"deferred"]
        # Those ten calls were made just now and still count; a minute later they do not.
        assert await rate_limit.acquire(conn, LIMIT, operation="create", wanted=5, now=clock.now()) == 0
        later = clock.now() + timedelta(seconds=70)
        assert await rate_limit.acquire(conn, LIMIT, operation="create", wanted=5, now=later) == 5
        paused_until = (
            await conn.execute(text("SELECT paused_until FROM rate_limits WHERE scope = 'paused'"))
        ).scalar_one()
        assert paused_until <= clock.now() + longest_wait(runtime.settings)
    await correct_clock(runtime, clock)
    assert runtime.health.issues == {}


async def test_a_callback_of_a_daemon_whose_clock_is_ahead_is_due_at_once(runtime: Runtime):
    clock = SetClock(timedelta(0))
    await clock.measure(runtime.engine)
    async with begin(runtime.engine) as conn:
        await events.insert(conn, [event(body=b"from the future", received_at=clock.now() + HOUR)])
    async with begin(runtime.engine) as conn:
        assert await due(conn, clock) == [b"from the future"]


@pytest.mark.parametrize("ends", ["fails", "returns"])
async def test_a_background_task_that_ends_by_itself_ends_the_process(ends: str):
    stop = asyncio.Event()

    async def work() -> None:
        if ends == "fails":
            raise OSError("no descriptor was free")

    async def block() -> None:
        async with background(work(), "of a test", stop):
            await stop.wait()

    if ends == "returns":
        return await block()
    with pytest.raises(OSError, match="no descriptor"):
        await block()
    return None


async def test_a_background_task_that_is_under_way_is_ended_with_the_block():
    stop = asyncio.Event()
    async with background(asyncio.sleep(3600), "of a test", stop):
        pass
    assert not stop.is_set()

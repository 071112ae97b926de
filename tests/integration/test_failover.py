"""A database of several hosts loses its primary: silent hosts are passed by, and whatever waits for the former server is told.

bench/failover.py plays the same on a cluster that Patroni keeps.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from postgres import executed
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage

from service.app import process
from service.errors import StorageUnavailable
from service.runtime.runtime import Runtime
from service.storage import connecting, server_watch
from service.storage.database_url import ConnectionTarget
from service.storage.engine import begin, check_writable, create_engine, create_replica_engine
from service.storage.server_watch import ServerWatch
from service.worker import runner

#: Longer than anything here takes, and shorter than what would have been waited for.
PATIENCE = 20


@asynccontextmanager
async def silent_host() -> AsyncIterator[int]:
    """The port of a host that takes connections and says nothing, as a frozen one does."""
    async with await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def after(silent: int, url: str) -> str:
    """The URL with the silent host before its own."""
    parts = urlsplit(url)
    (folder,) = parse_qs(parts.query)["host"]
    port = parse_qs(parts.query).get("port", ["5432"])[0]
    return f"postgresql://{parts.username}@{parts.path}?" + urlencode({
        "host": f"127.0.0.1,{folder}", "port": f"{silent},{port}",
    })  # fmt: skip


@asynccontextmanager
async def disposed(engine: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    try:
        yield engine
    finally:
        await engine.dispose()


async def set_read_only(url: str, setting: str) -> None:
    name = urlsplit(url).path.removeprefix("/")
    await executed(
        url, f"SET transaction_read_only = off; ALTER DATABASE {name} SET default_transaction_read_only = {setting}"
    )


async def test_a_host_that_is_silent_takes_no_time_from_the_others(database_url: str):
    async with silent_host() as port, disposed(create_engine(after(port, database_url))) as engine:
        await write(engine)


async def test_a_standby_that_is_promoted_is_found_though_the_former_primary_stays_silent(
    database_url: str, monkeypatch: pytest.MonkeyPatch
):
    await set_read_only(database_url, "on")
    again, refused = connecting._later, asyncio.Event()

    async def later(host: ConnectionTarget) -> connecting.Connection:
        refused.set()
        return await again(host)

    monkeypatch.setattr(connecting, "_later", later)
    async with silent_host() as port, disposed(create_engine(after(port, database_url))) as engine:
        attempt = asyncio.create_task(write(engine))
        async with asyncio.timeout(PATIENCE):
            await refused.wait()
            await set_read_only(database_url, "off")
            await attempt


async def write(engine: AsyncEngine) -> None:
    async with begin(engine) as conn:
        await check_writable(conn)


async def test_no_host_can_be_written_to_is_said_and_may_pass(database_url: str):
    await set_read_only(database_url, "on")
    parts = urlsplit(database_url)
    (folder,) = parse_qs(parts.query)["host"]
    url = f"postgresql://{parts.username}@{parts.path}?host={folder},{folder}/none"
    async with disposed(create_engine(url)) as engine:
        with pytest.raises(StorageUnavailable, match=r"^25006 .*no host of the database can be written to"):
            await write(engine)


async def test_a_replica_that_is_silent_does_not_keep_the_primary_from_being_read(database_url: str):
    async with silent_host() as port:
        url = after(port, database_url) + "&connect_timeout=1"
        async with disposed(create_replica_engine(url)) as engine, begin(engine) as conn:
            assert (await conn.execute(text("SELECT 1"))).scalar_one() == 1


class Server:
    """What the watch takes for the server's name, for a test to change: as if another server had taken its place."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def create(self) -> None:
        await executed(self._url, "CREATE TABLE server (name text); INSERT INTO server VALUES ('first')")

    async def replace(self, name: str) -> None:
        """The connections stay as they are, but the watch's is lost, so that it looks for another."""
        await executed(self._url, f"UPDATE server SET name = '{name}'")
        await executed(self._url, "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE query LIKE '%of server_watch%'"
                                  " AND pid <> pg_backend_pid()")  # fmt: skip


async def test_who_waits_for_a_server_that_another_has_replaced_is_told(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server_watch, "_SERVER", "SELECT name FROM server -- of server_watch")
    server, watch, begun = Server(database_url), ServerWatch(engine.url), asyncio.Event()
    await server.create()

    async def hangs() -> None:
        async with begin(engine) as conn:
            begun.set()
            await conn.execute(text("SELECT pg_sleep(600)"))

    waiting = asyncio.create_task(hangs())
    try:
        await begun.wait()
        assert not await watch.look()
        await server.replace("first")
        assert not await watch.look()
        assert not waiting.done()
        await server.replace("second")
        assert await watch.look()
        with pytest.raises(StorageUnavailable):
            async with asyncio.timeout(PATIENCE):
                await waiting
        await write(engine)
    finally:
        waiting.cancel()
        watch.close()


async def test_the_watch_says_once_that_the_server_is_back(database_url: str):
    async with disposed(create_engine(database_url)) as engine:
        watch = ServerWatch(engine.url)
        await set_read_only(database_url, "on")
        with pytest.raises(StorageUnavailable):
            await watch.look()
        await set_read_only(database_url, "off")
        assert [await watch.look(), await watch.look()] == [True, False]
        watch.close()


async def test_a_job_that_waits_after_failures_runs_as_soon_as_the_database_is_back(engine: AsyncEngine):
    stage = Stage(engine, retry_first_seconds=3600.0, retry_cap_seconds=3600.0)
    stage.rt = replace(stage.rt, rng=random.Random())
    stage.rt.rng.random = lambda: 1.0  # the longest wait
    ran, stop = asyncio.Queue[None](), asyncio.Event()

    async def job(_: Runtime) -> int:
        ran.put_nowait(None)
        raise StorageUnavailable("57P01 terminating connection")

    running = asyncio.create_task(runner.run(stage.rt, stop, grace=1.0, jobs={"rescue": job}))
    await ran.get()
    async with asyncio.timeout(PATIENCE):
        while ran.empty():  # it may not wait yet
            stage.rt.resume_failed_jobs()
            await asyncio.sleep(0.01)
    stop.set()
    await running


async def test_jobs_are_resumed_when_the_watch_says_that_the_database_is_back(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
):
    looks, begun = asyncio.Queue[bool | StorageUnavailable](), asyncio.Semaphore(0)

    async def look(_: ServerWatch) -> bool:
        begun.release()
        found = await looks.get()
        if isinstance(found, StorageUnavailable):
            raise found
        return found

    monkeypatch.setattr(ServerWatch, "look", look)
    monkeypatch.setattr(process, "_FOLLOW_SECONDS", 0)
    following = asyncio.create_task(process.follow_server(runtime))
    resumed = asyncio.create_task(runtime.database_is_back.wait())
    for found in (False, StorageUnavailable("away"), False):
        await begun.acquire()
        looks.put_nowait(found)
    await begun.acquire()  # what the third look found is dealt with
    assert not resumed.done()
    looks.put_nowait(True)
    async with asyncio.timeout(PATIENCE):
        await resumed
    following.cancel()

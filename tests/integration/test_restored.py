"""A database that was restored to an earlier moment while a fleet was made: no VM is forgotten, and none made twice."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import pytest
from postgres import executed
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import PASSES, Stage

from service.storage import migrate, record_origin
from service.storage.engine import begin, create_engine
from service.worker import create

COUNT = 40


class Restorable:
    """A stage whose database can be copied, and replaced by the copy as a restore from a dump does."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url, self._stack = url, stack
        self._name = urlsplit(url).path.removeprefix("/")
        self._copies: list[str] = []
        self.stage: Stage

    async def begin(self, engine: AsyncEngine) -> None:
        await migrate.upgrade(engine)
        self.stage = Stage(engine, cloud={"unique_names": False}, create_concurrency=1)

    def connect(self, url: str) -> AsyncEngine:
        engine = create_engine(url)
        self._stack.push_async_callback(engine.dispose)
        return engine

    async def copy(self) -> str:
        """The URL of a copy of the record as it is now."""
        await self.stage.engine.dispose()
        name = f"{self._name}_at_{len(self._copies)}"
        maintenance = self._url.replace(f"/{self._name}?", "/postgres?")
        await executed(maintenance, f"CREATE DATABASE {name} TEMPLATE {self._name}")
        self._copies.append(name)
        self._stack.push_async_callback(executed, maintenance, f"DROP DATABASE {name} WITH (FORCE)")
        return self._url.replace(f"/{self._name}?", f"/{name}?")

    def restore(self, url: str) -> None:
        """Daemons of before are gone; a new one finds the copy. The provider has gone on."""
        self.stage.engine = self.stage.world.engine = self.connect(url)
        self.stage.rt = self.stage.daemon()


@pytest.fixture
async def restorable(bare_database_url: str) -> AsyncIterator[Restorable]:
    async with AsyncExitStack() as stack:
        made = Restorable(bare_database_url, stack)
        await made.begin(made.connect(bare_database_url))
        yield made


async def nothing(_stage: Stage) -> None:
    """Nothing was sent."""


async def one_sent(stage: Stage) -> None:
    assert await create.run_once(stage.rt) == 1


async def one_sent_and_seen(stage: Stage) -> None:
    await one_sent(stage)
    await stage.live(5, step=5, job_runs=tuple(one for one in PASSES if one is not create))


@pytest.mark.parametrize("before", [nothing, one_sent, one_sent_and_seen])
async def test_vms_that_are_newer_than_the_record_are_adopted_and_none_is_made_twice(
    restorable: Restorable, before: Callable[[Stage], Awaitable[None]]
):
    stage = restorable.stage
    await stage.submit(count=1)  # so that the record knows its origin
    await stage.live(60)
    await stage.submit(count=COUNT)
    await before(stage)
    at_that_moment = await restorable.copy()
    await stage.live(100)
    assert len(stage.alive()) == COUNT + 1
    restorable.restore(at_that_moment)
    await stage.live(300, step=15)
    assert sorted(vm.provider_id for vm in await stage.vms()) == sorted(stage.alive())
    assert len(stage.alive()) == COUNT + 1
    assert set(await stage.states()) == {"ACTIVE"}
    assert await stage.orphans() == []


async def test_what_was_never_sent_is_sent_once_its_lookup_found_nothing(restorable: Restorable):
    stage = restorable.stage
    await stage.submit(count=1)
    await stage.live(60)
    await stage.submit(count=20)
    restorable.restore(await restorable.copy())
    await stage.live(250, step=15)
    assert len(stage.alive()) == 21
    assert set(await stage.states()) == {"ACTIVE"}


async def test_vms_of_a_submission_that_the_record_has_lost_are_reported(restorable: Restorable):
    stage = restorable.stage
    await stage.submit(count=1)
    await stage.live(60)
    at_that_moment = await restorable.copy()
    lost = await stage.submit(count=2, policy={"on_orphan": "delete"})
    await stage.live(60)
    restorable.restore(at_that_moment)
    await stage.live(700, step=25)
    assert len(stage.alive()) == 3
    found = await stage.orphans()
    assert [(one.submission_id, one.state) for one in found] == [(lost, "found")] * 2
    assert all("was it restored?" in one.reason for one in found)
    assert {one.provider_id for one in found} == set(stage.alive()) - {vm.provider_id for vm in await stage.vms()}


async def test_a_copy_of_the_files_is_noticed_if_somebody_says_so(restorable: Restorable):
    engine = restorable.stage.engine
    async with begin(engine) as conn:
        assert not await record_origin.note(conn)  # the first time
        assert await record_origin.is_same(conn)
        await record_origin.forget(conn)
        assert not await record_origin.is_same(conn)
        assert await record_origin.note(conn)
        assert not await record_origin.note(conn)

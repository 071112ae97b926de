"""A database that was restored to an earlier moment while a fleet was made: no VM is forgotten, and none made twice."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import orjson
import pytest
from postgres import executed
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import PASSES, Stage

from service.core.token import CreationRef
from service.storage import creations, migrate, record_origin, submissions
from service.storage.engine import begin, create_engine
from service.worker import apply, create

COUNT = 40


class Restorable:
    """A stage whose database can be copied, and replaced by the copy as a restore from a dump does."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url, self._stack = url, stack
        self._name = urlsplit(url).path.removeprefix("/")
        self._copies: list[str] = []
        self.stage: Stage

    async def begin(self, engine: AsyncEngine, **cloud: object) -> None:
        await migrate.upgrade(engine)
        self.stage = Stage(engine, cloud={"unique_names": False, **cloud}, create_concurrency=1)

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


async def test_vms_of_a_submission_that_the_record_has_lost_are_on_record_again_and_nothing_is_done_to_them(
    restorable: Restorable,
):
    stage = restorable.stage
    await stage.submit(count=1)
    await stage.live(60)
    at_that_moment = await restorable.copy()
    lost = await stage.submit(count=23, policy={"on_orphan": "delete"})
    await stage.live(60)
    restorable.restore(at_that_moment)
    await stage.live(700, step=25)
    assert len(stage.alive()) == 24
    assert sorted(vm.provider_id for vm in await stage.vms()) == sorted(stage.alive())
    assert set(await stage.states()) == {"ACTIVE"}
    assert {(one.submission_id, one.state) for one in await stage.orphans()} == {(lost, "adopted")}
    async with begin(stage.engine) as conn:
        found = await submissions.get(conn, lost)
        made = await creations.read(conn, [CreationRef(lost, number) for number in (1, 2)])
    assert (found.origin, found.name, found.count, found.next_vm_no) == ("imported", "recovered", 23, 24)
    assert found.next_creation_no > 2
    assert sorted(one.vm_count for one in made.values()) == [3, 20]
    one = next(vm for vm in await stage.vms() if vm.submission_id == lost)
    said = {"resource": {"id": one.provider_id}, "operation": {"name": "hardRebootVM", "status": "REBOOTING"}}
    await stage.hear(CreationRef(lost, one.creation_no), orjson.dumps({**said, "data": {"status": "REBOOTING"}}))
    await apply.run_once(stage.rt)
    assert next(vm.state for vm in await stage.vms() if vm.ref == one.ref) == "REBOOTING"


@pytest.mark.parametrize("seconds", [0, 1])
async def test_what_is_topped_up_again_after_a_restore_is_looked_up_and_not_made_twice(
    bare_database_url: str, seconds: int
):
    """The provider makes fewer VMs than asked for, so that the lost history has creations of which the record knows nothing."""
    async with AsyncExitStack() as stack:
        restorable = Restorable(bare_database_url, stack)
        await restorable.begin(restorable.connect(bare_database_url), faults={"partial": 0.8}, seed=2)
        stage = restorable.stage
        await stage.submit(count=1)
        await stage.live(90)
        await stage.submit(count=COUNT)
        await stage.live(seconds, step=1) if seconds else None
        at_that_moment = await restorable.copy()
        await stage.live(200)
        assert len(stage.alive()) == COUNT + 1
        restorable.restore(at_that_moment)
        await stage.live(1500, step=25)
        assert sorted(vm.provider_id for vm in await stage.vms() if not vm.ended_at) == sorted(stage.alive())
        assert len(stage.alive()) == COUNT + 1
        assert set(await stage.states()) == {"ACTIVE"}


async def test_a_copy_of_the_files_is_noticed_if_somebody_says_so(restorable: Restorable):
    engine = restorable.stage.engine
    async with begin(engine) as conn:
        assert not await record_origin.note(conn)  # the first time
        assert await record_origin.is_same(conn)
        await record_origin.forget(conn)
        assert not await record_origin.is_same(conn)
        assert await record_origin.note(conn)
        assert not await record_origin.note(conn)

"""A hanging call holds one slot: other fleets go on, in turn, and a stop gives calls under way their grace."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from stage import Stage

from service.config import Settings
from service.core.vm import Vm
from service.provider.wire import HttpResponse
from service.runtime.slots import connections, slots
from service.storage import contract_queue, creations, vms
from service.storage.engine import begin
from service.worker import create, delete, history, orphan, refresh, runner


class Hanging:
    """A transport in which calls whose body or path holds `what` hang until they are let go."""

    def __init__(self, inner, what: str, method: str = "POST") -> None:
        self.inner, self.what, self.method = inner, what, method
        self.hanging, self.answered = 0, 0
        self.changed, self.let_go = asyncio.Condition(), asyncio.Event()

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, within: float):
        if method == self.method and (self.what in (body or b"").decode() or self.what in url):
            await self._count(hanging=1)
            await self.let_go.wait()
        answer: HttpResponse = await self.inner.send(method, url, headers, body, within)
        if method == self.method:
            await self._count(answered=1)
        return answer

    async def _count(self, hanging: int = 0, answered: int = 0) -> None:
        self.hanging, self.answered = self.hanging + hanging, self.answered + answered
        async with self.changed:
            self.changed.notify_all()

    async def until(self, *, hanging: int = 0, answered: int = 0) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.hanging >= hanging and self.answered >= answered)


@asynccontextmanager
async def running(stage: Stage, *names: str, grace: float = 5.0) -> AsyncIterator[None]:
    stop = asyncio.Event()
    jobs = {name: runner.ALL[name] for name in names}
    task = asyncio.create_task(runner.run(stage.rt, stop, grace=grace, jobs=jobs))
    try:
        yield
    finally:
        stop.set()
        await task


async def test_creates_that_hang_do_not_delay_the_next_fleet(engine: AsyncEngine):
    stage = Stage(engine, poll_seconds=0.01)
    stage.between.inner = hanging = Hanging(stage.between.inner, "slow-")
    await stage.submit(name="slow", count=120)
    async with running(stage, "create"):
        await hanging.until(hanging=6)
        await stage.submit(name="quick", count=20)
        await hanging.until(answered=1)
        assert hanging.hanging == 6
        assert not hanging.let_go.is_set()
        hanging.let_go.set()
        await hanging.until(answered=7)
    assert [one.state for one in await stage.creations()] == ["answered"] * 7


async def test_a_fleet_of_which_every_create_hangs_does_not_delay_the_next(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runner, "_PATIENCE", 0.0)
    stage = Stage(engine, poll_seconds=0.01, create_concurrency=4)
    stage.between.inner = hanging = Hanging(stage.between.inner, "slow-")
    await stage.submit(name="slow", count=400)
    async with running(stage, "create"):
        await hanging.until(hanging=8)
        await stage.submit(name="quick", count=20)
        await hanging.until(answered=1)
        assert hanging.hanging == 8
        hanging.let_go.set()


async def test_vms_that_are_due_are_read_singly_while_the_list_hangs(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit(count=40)
    await stage.live(120)
    await stage.sql("UPDATE vms SET next_refresh_at = created_at")
    stage.between.inner = hanging = Hanging(stage.between.inner, "?page=", method="GET")
    (read_list,) = (await refresh.claim(stage.rt, 16)).calls
    listing = asyncio.create_task(read_list())
    await hanging.until(hanging=1)
    assert (await refresh.claim(stage.rt, 15)).count == 0
    stage.world.clock.advance(6)
    assert (await refresh.claim(stage.rt, 15)).count == 15
    hanging.let_go.set()
    await listing


async def test_a_fleet_that_hangs_in_every_slot_it_was_given_gets_the_next_one_only_after_the_others(
    engine: AsyncEngine,
):
    stage = Stage(engine, create_concurrency=4)
    big = await stage.submit(count=400)
    assert (await create.claim(stage.rt, 3)).count == 3
    small = await stage.submit(name="small", count=40)
    async with begin(engine) as conn:
        leased = await creations.claim_due(
            conn, now=stage.world.clock.now(), lease=timedelta(minutes=5), token=stage.rt.uuid(), limit=4
        )
    assert [one.creation.submission_id for one in leased] == sorted([small, small, big, big])


DELETE_ALL = """UPDATE vms SET desired_state = 'deleted', delete_due_at = '2020-01-01', ready = false"""
HOUR = timedelta(hours=1)


async def claim_deletes(stage: Stage, conn: AsyncConnection, limit: int) -> list[Vm]:
    return await vms.claim_deletes(conn, now=stage.rt.clock.now(), lease=HOUR, token=stage.rt.uuid(), limit=limit)


async def claim_contracts(stage: Stage, conn: AsyncConnection, limit: int) -> list[Vm]:
    now, token = stage.rt.clock.now(), stage.rt.uuid()
    return await contract_queue.claim_contracts(conn, now=now, lease=HOUR, token=token, limit=limit)


async def claim_histories(stage: Stage, conn: AsyncConnection, limit: int) -> list[Vm]:
    now = stage.rt.clock.now()
    return await vms.claim_histories(conn, now=now, again=now + HOUR, limit=limit)


@pytest.mark.parametrize("limit", [1, 5])
@pytest.mark.parametrize(
    ("all_due", "claim"),
    [
        (DELETE_ALL, claim_deletes),
        ("UPDATE vms SET assignment = 'retrying', contract_due_at = '2020-01-01'", claim_contracts),
        ("UPDATE vms SET history_due_at = '2020-01-01'", claim_histories),
    ],
    ids=["deletions", "contracts", "histories"],
)
async def test_vms_that_are_due_take_turns_between_submissions(
    engine: AsyncEngine, limit: int, all_due: str, claim: Callable[..., Awaitable[list[Vm]]]
):
    stage = Stage(engine)
    sizes = {await stage.submit(name=name, count=count): count for name, count in (("big", 60), ("b", 3), ("c", 1))}
    await stage.live(40)
    await stage.sql(all_due)
    order = []
    while True:
        async with begin(engine) as conn:
            claimed = await claim(stage, conn, limit)
        if not claimed:
            break
        assert len(claimed) <= limit
        order += [vm.submission_id for vm in claimed]
    assert {id_: order.count(id_) for id_ in sizes} == sizes
    # However large the first is, the small ones are through after as many turns of each as they need.
    big, three, one = sizes
    turns = order[: -(-7 // limit) * limit]  # within a claim they are in the order of their keys
    assert (turns.count(three), turns.count(one)) == (3, 1)
    assert turns.count(big) == len(turns) - 4


async def test_a_read_that_hangs_holds_one_slot_and_other_vms_are_refreshed(engine: AsyncEngine):
    stage = Stage(engine, poll_seconds=0.01)
    await stage.submit(count=2)
    await stage.live(60)
    first, second = [vm.provider_id for vm in await stage.vms()]
    stage.console(second, "stop")
    stage.between.inner = hanging = Hanging(stage.between.inner, f"/{first}", method="GET")
    due = "UPDATE vms SET next_refresh_at = '2020-01-01' WHERE vm_no = :vm"
    await stage.sql(due, vm=1)
    async with running(stage, "refresh", grace=60):
        await hanging.until(hanging=1)
        await stage.sql(due, vm=2)
        await hanging.until(answered=1)
        assert hanging.hanging == 1  # and it is not read once more meanwhile
        hanging.let_go.set()
    assert (await stage.vm(2)).state in {"STOPPING", "SHUTOFF"}
    assert stage.rt.refreshing == set()


async def test_a_lookup_that_hangs_does_not_delay_another_creation(engine: AsyncEngine):
    stage = Stage(engine, poll_seconds=0.01, cloud={"faults": {"create": {"lost": [1, 2]}}})
    await stage.submit(name="slow")
    await stage.submit(name="quick")
    await stage.everything((refresh, create))
    stage.between.inner = hanging = Hanging(stage.between.inner, "slow-", method="GET")
    due = "UPDATE creations SET due_at = created_at + :wait * interval '1 day' WHERE name LIKE :name"
    await stage.sql(due, name="slow%", wait=0)
    await stage.sql(due, name="quick%", wait=1)
    async with running(stage, "refresh", grace=60):
        await hanging.until(hanging=1)
        await stage.sql(due, name="quick%", wait=0)
        await hanging.until(answered=1)
        assert hanging.hanging == 1
        hanging.let_go.set()
    assert {one.state for one in await stage.creations()} == {"answered"}


async def test_an_orphan_that_hangs_does_not_delay_the_next(engine: AsyncEngine):
    stage = Stage(engine, poll_seconds=0.01)
    await stage.submit()
    await stage.live(60)
    stage.between.inner = hanging = Hanging(stage.between.inner, "/900001", method="GET")
    await stage.sql(
        """INSERT INTO orphans SELECT submission_id, n, 1, NULL, 'suspected', '', created_at, created_at
           FROM submissions, generate_series(900001, 900020) AS n"""
    )
    async with running(stage, "orphan", grace=60):
        await hanging.until(hanging=1, answered=19)
        hanging.let_go.set()
    assert {one.state for one in await stage.orphans()} == {"gone"}


async def test_a_hanging_delete_and_a_hanging_history_hold_one_slot_each(engine: AsyncEngine):
    stage = Stage(engine, poll_seconds=0.01)
    await stage.submit(count=3)
    await stage.live(30)
    first = (await stage.vm(1)).provider_id
    stage.between.inner = hanging = Hanging(stage.between.inner, f"/{first}", method="DELETE")
    await stage.sql(DELETE_ALL)
    async with running(stage, "delete"):
        await hanging.until(hanging=1, answered=2)
        hanging.let_go.set()
        await hanging.until(answered=3)


async def test_a_stop_waits_for_calls_under_way_and_then_cancels_them(engine: AsyncEngine):
    stage = Stage(engine, poll_seconds=0.01)
    stage.between.inner = hanging = Hanging(stage.between.inner, "slow-")
    await stage.submit(name="slow", count=20)
    async with running(stage, "create", grace=0.0):
        await hanging.until(hanging=1)
    creation = await stage.creation()
    assert (creation.state, creation.lease_token is not None) == ("calling", True)


async def test_a_job_claims_no_more_than_it_has_slots_for(engine: AsyncEngine):
    stage = Stage(engine, create_concurrency=3)
    await stage.submit(count=200)
    for free in (0, 1, 3):
        assert (await create.claim(stage.rt, free)).count == free
    assert (await delete.claim(stage.rt, 0)).count == 0
    for job in (history, refresh, orphan):
        assert (await job.claim(stage.rt, 0)).count == 0


@pytest.mark.parametrize("concurrency", [1, 8, 64])
def test_the_http_client_has_a_connection_for_every_slot(settings: Settings, concurrency: int):
    wanted = settings.model_copy(update={"create_concurrency": concurrency})
    assert slots(wanted)["create"] == concurrency
    assert connections(wanted) > sum(slots(wanted).values())

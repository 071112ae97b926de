"""One ledger of calls for all daemons of a source IP: never exceeded, submissions first, readings last."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage

from service.operations.provider_calls import acquire
from service.storage import rate_limit
from service.storage.engine import begin
from service.storage.rate_limit import WINDOW, RateLimit
from service.worker import contract, create, delete, orphan, refresh

LIMITS = RateLimit(scope="here", calls=100, shares={"create": 1.0, "delete": 0.97, "read": 0.9})


async def take(engine: AsyncEngine, operation: str, wanted: int, now, limits: RateLimit = LIMITS) -> int:
    async with begin(engine) as conn:
        return await rate_limit.acquire(conn, limits, operation=operation, wanted=wanted, now=now)


async def test_a_window_holds_no_more_than_the_limit_and_is_free_again_when_it_is_over(engine: AsyncEngine):
    now = Stage(engine).world.clock.now()
    assert await take(engine, "create", 60, now) == 60
    assert await take(engine, "create", 60, now + timedelta(seconds=30)) == 40
    assert await take(engine, "create", 60, now + timedelta(seconds=61)) == 0
    assert await take(engine, "create", 60, now + WINDOW + timedelta(seconds=2)) == 60


async def test_readings_leave_the_last_of_the_budget_to_what_matters_more(engine: AsyncEngine):
    now = Stage(engine).world.clock.now()
    assert await take(engine, "read", 1000, now) == 90
    assert await take(engine, "read", 1, now) == 0
    assert await take(engine, "delete", 1000, now) == 7
    assert await take(engine, "create", 1000, now) == 3
    assert await take(engine, "create", 1, now) == 0


async def test_scopes_do_not_share(engine: AsyncEngine):
    now = Stage(engine).world.clock.now()
    assert await take(engine, "create", 100, now) == 100
    assert await take(engine, "create", 100, now, RateLimit(scope="there", calls=50, shares={})) == 50


async def test_many_at_once_never_take_more_than_there_is(engine: AsyncEngine):
    now = Stage(engine).world.clock.now()
    granted = await asyncio.gather(*(take(engine, "create", 7, now) for _ in range(40)))
    assert sum(granted) == 100


async def test_what_is_used_is_shown_by_operation(engine: AsyncEngine):
    now = Stage(engine).world.clock.now()
    await take(engine, "create", 3, now)
    await take(engine, "read", 4, now + timedelta(seconds=1))
    await take(engine, "read", 5, now + timedelta(seconds=2))
    async with begin(engine) as conn:
        assert await rate_limit.usage(conn, "here", now + timedelta(seconds=3)) == {"create": 3, "read": 9}


async def test_a_pause_is_for_everybody_and_a_shorter_one_does_not_end_it(engine: AsyncEngine):
    now = Stage(engine).world.clock.now()
    async with begin(engine) as conn:
        await rate_limit.pause(conn, "here", now + timedelta(seconds=60))
        await rate_limit.pause(conn, "here", now + timedelta(seconds=5))
    assert await take(engine, "create", 1, now + timedelta(seconds=59)) == 0
    assert await take(engine, "create", 1, now + timedelta(seconds=60)) == 1


@pytest.mark.parametrize("calls", [10, 50])
async def test_two_daemons_never_make_the_provider_say_429(engine: AsyncEngine, calls):
    # basilica f290e20c (infrahub-api.md section 6): 429 in production.
    stage = Stage(
        engine,
        cloud={"rate_limit": calls, "faults": {"callbacks": {"lost": 1}}},
        calls_per_minute=calls,
        overdue_seconds=20,
        resync_seconds=60,
    )
    await stage.submit(count=200)
    await stage.submit(count=30)
    other, limit = stage.daemon(), stage.world.cloud.limit
    for _ in range(60):
        for rt in (stage.rt, other):
            await asyncio.gather(*(one.run_once(rt) for one in (create, refresh, delete, contract, orphan)))
            await stage.wait(2.3)
    assert limit.refused == 0
    assert limit.busiest() >= 9  # a call that was held up by the other daemon's list is not made after all


async def test_a_429_pauses_every_daemon_until_the_minute_is_over(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"create": {"limited": [1]}}}, create_concurrency=1)
    await stage.submit(count=60)
    await create.run_once(stage.rt)
    got, other = len(stage.world.cloud.log), stage.daemon()
    for _ in range(5):
        await stage.wait(11)
        for one in (create, refresh, delete, contract, orphan):
            await one.run_once(other)
    assert len(stage.world.cloud.log) == got
    await stage.wait(6)
    await create.run_once(other)
    assert len(stage.world.cloud.log) == got + 1


async def test_a_retry_after_is_kept_to(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"create": {"limited": [1]}, "retry_after": 1, "retry_after_seconds": 200}})
    await stage.submit()
    await stage.live(190)
    assert stage.creates() == 1
    await stage.live(60)
    assert stage.creates() == 2


async def test_submissions_go_on_when_readings_have_used_up_their_share(engine: AsyncEngine):
    stage = Stage(engine, calls_per_minute=20)
    await stage.submit(count=5)
    await create.run_once(stage.rt)
    async with begin(engine) as conn:
        await rate_limit.acquire(conn, stage.rt.limits, operation="read", wanted=100, now=stage.world.clock.now())
    await stage.sql("UPDATE vms SET next_refresh_at = :now", now=stage.world.clock.now())
    await stage.submit(count=5, name="other")
    got = len(stage.world.cloud.log)
    await refresh.run_once(stage.rt)
    assert len(stage.world.cloud.log) == got
    await create.run_once(stage.rt)
    assert len(stage.alive()) == 10
    # What could not be read now is still due.
    assert await stage.sql("SELECT count(*) FROM vms WHERE next_refresh_at <= :now", now=stage.world.clock.now()) == [
        (5,)
    ]


async def test_deletes_and_contracts_wait_for_the_budget_and_lose_nothing(engine: AsyncEngine):
    stage = Stage(engine, cloud={"contracts": []}, calls_per_minute=30)
    await stage.submit(count=20, contract_id=41, policy={"on_contract_error": "fail"})
    await stage.live(30, job_runs=(create,))
    async with begin(engine) as conn:
        await rate_limit.acquire(conn, stage.rt.limits, operation="create", wanted=100, now=stage.world.clock.now())
    await delete.run_once(stage.rt)
    assert all(vm.delete_due_at and vm.lease_token is None and vm.delete_attempts == 0 for vm in await stage.vms())
    await stage.live(400)
    assert stage.alive() == []
    assert stage.world.cloud.limit.refused == 0


async def test_readings_leave_half_of_the_budget_to_creations_that_wait(engine: AsyncEngine):
    stage = Stage(engine, calls_per_minute=100)

    async def granted() -> int:
        async with begin(engine) as conn:
            return await acquire(stage.rt, conn, "read", 100)

    await stage.submit(count=1)
    assert await granted() == 50
    assert await granted() == 0
    await create.run_once(stage.rt)
    assert stage.creates() == 1
    assert await granted() == 39

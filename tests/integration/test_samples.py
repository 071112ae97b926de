"""What the job `sample` counts: the same as counting does, as of its time, and never for longer than it holds."""

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage

from service.operations import deletion
from service.queries import fleet, fleet_samples, state_history
from service.storage import fleet_samples as stored
from service.storage import submissions
from service.storage.engine import begin
from service.worker import sample


async def sampled(stage: Stage) -> None:
    await stage.sql("UPDATE scheduled_jobs SET due_at = done_at WHERE job = 'sample'")
    await sample.run_once(stage.rt)


async def test_a_large_fleet_is_shown_as_it_was_sampled_and_only_while_somebody_samples(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(engine)
    now = stage.world.clock.now

    async def shown() -> int | None:
        async with begin(engine) as conn:
            found = await fleet_samples.instead_of_counting(conn, now=now())
        return found and found.numbers["fleet"]["alive"]

    await stage.submit(count=3)
    assert await shown() is None
    await sampled(stage)
    assert await shown() is None  # it is small
    monkeypatch.setattr(fleet_samples, "FEW", 2)
    assert await shown() == 3
    await stage.submit(count=2)
    assert await shown() == 3
    await sampled(stage)
    assert await shown() == 5
    stage.world.clock.advance(601)
    assert await shown() is None


@pytest.mark.parametrize(("takes", "steps", "rests"), [(0, 0, 10), (2, 0, 200), (60, 0, 300), (0, 3600, 10)])
async def test_the_job_rests_for_as_long_as_counting_took_and_never_until_its_sample_does_not_hold(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, takes: int, steps: int, rests: int
) -> None:
    stage = Stage(engine)
    counted = fleet.count_every

    async def slowly(*given: Any, **more: Any) -> Any:
        stage.world.clock.advance(takes)
        stage.world.clock.set_back(-steps)
        return await counted(*given, **more)

    monkeypatch.setattr(fleet, "count_every", slowly)
    await sample.run_once(stage.rt)
    ((rest,),) = await stage.sql("SELECT due_at - done_at FROM scheduled_jobs WHERE job = 'sample'")
    assert rest == timedelta(seconds=rests)


async def test_samples_of_one_half_minute_are_one_row_and_the_job_rests_in_between(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    slots = []
    for _ in range(7):
        await sample.run_once(stage.rt)
        ((rows, latest),) = await stage.sql("SELECT count(*), max(counted_at) FROM fleet_samples")
        slots.append((rows, (stage.world.clock.now() - latest).total_seconds()))
        stage.world.clock.advance(5)
    assert slots == [(1, 0), (1, 5), (1, 0), (1, 5), (1, 0), (1, 5), (2, 0)]


async def test_old_samples_are_thinned_out_to_one_an_hour(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    until = stage.world.clock.now()
    async with begin(engine) as conn:
        for minutes in range(0, 600, 10):
            at = until - stored.KEPT - timedelta(minutes=minutes - 120)
            await stored.store(conn, at=at, by_state={}, numbers={})
        await stored.store(conn, at=until, by_state={}, numbers={})
    times = [row[0] for row in await stage.sql("SELECT slot FROM fleet_samples ORDER BY slot")]
    old = [at for at in times if at < until - stored.KEPT]
    assert len(old) == len({at.replace(minute=0, second=0) for at in old}) >= 8
    young = [at for at in times if at >= until - stored.KEPT]
    assert len(young) == 14
    assert all(later - earlier == timedelta(minutes=10) for earlier, later in pairwise(young[:-1]))


async def test_the_drawing_from_samples_shows_what_the_moves_show(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    began = stage.world.clock.now()
    await stage.submit(count=3)
    for _ in range(8):
        await sampled(stage)
        await stage.live(30, step=30)
    period = {"since": began, "until": stage.world.clock.now(), "steps": 8}
    async with begin(engine) as conn:
        await sampled(stage)
        drawn = await fleet_samples.over_time(conn, **period)
        exact = await state_history.over_time(conn, **period)
    assert [(one.at, one.by_state) for one in drawn] == [(one.at, one.by_state) for one in exact]
    assert drawn[-1].by_state == {"ACTIVE": 3}


async def test_a_large_submission_is_sampled_until_its_last_vm_has_ended(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_samples, "MANY", 2)
    stage = Stage(engine)
    large, small = await stage.submit(count=3), await stage.submit(count=2)
    await stage.live(120)

    async def both() -> tuple[object, object]:
        async with begin(engine) as conn:
            found, _ = await fleet_samples.tallies(conn, [large, small], now=stage.world.clock.now())
            exact = await submissions.tallies(conn, [large, small])
        assert small not in found
        return found.get(large), exact[large]

    assert (await both())[0] is None
    await sampled(stage)
    kept, exact = await both()
    assert kept == exact
    await deletion.cancel(stage.rt, large, caller="tests")
    await stage.live(300)
    await sampled(stage)
    kept, exact = await both()
    assert kept == exact
    stage.world.clock.advance(3600)
    assert (await both())[0].alive == 0


async def test_after_an_outage_what_became_old_meanwhile_is_thinned_out_too(engine: AsyncEngine) -> None:
    began = Stage(engine).world.clock.now()
    async with begin(engine) as conn:
        for minutes in range(0, 2880, 20):
            await stored.store(conn, at=began + timedelta(minutes=minutes), by_state={}, numbers={})
        until = began + timedelta(days=30)  # nobody sampled meanwhile
        await stored.store(conn, at=until, by_state={}, numbers={})
        rows = [row.slot for row in await conn.execute(text("SELECT slot FROM fleet_samples ORDER BY slot"))]
    assert rows == [*(began + timedelta(hours=hours) for hours in range(48)), until]


@pytest.mark.parametrize(
    ("ago", "age", "is_there"),
    [
        (timedelta(0), timedelta(minutes=10), True),
        (timedelta(0), timedelta(minutes=11), False),
        (timedelta(days=3), timedelta(minutes=10), True),
        (timedelta(days=3), timedelta(minutes=11), False),
        (timedelta(days=30), timedelta(minutes=70), True),
        (timedelta(days=30), timedelta(minutes=71), False),
    ],
)
async def test_a_sample_stands_for_a_moment_only_if_it_is_of_that_time(
    engine: AsyncEngine, ago: timedelta, age: timedelta, is_there: bool
) -> None:
    stage = Stage(engine)
    await sampled(stage)
    counted_at = stage.world.clock.now()
    async with begin(engine) as conn:
        found = await fleet_samples.at(conn, counted_at + age, now=counted_at + age + ago)
    assert (found is not None) == is_there


@pytest.mark.parametrize(
    "change",
    [
        "numbers = numbers #- '{fleet,stuck}'",
        'numbers = numbers || \'{"off_contract": "many"}\'',
        "numbers = '{}'",
        "numbers = '[]'",
        "by_state = '[1]'",
    ],
)
async def test_a_sample_of_another_shape_is_none(engine: AsyncEngine, change: str) -> None:
    stage = Stage(engine)
    await stage.submit(count=3)
    await sampled(stage)
    now = stage.world.clock.now()
    async with begin(engine) as conn:
        assert await fleet_samples.at(conn, now, now=now) is not None
        await conn.execute(text(f"UPDATE fleet_samples SET {change.replace(':', chr(92) + ':')}"))
        assert await fleet_samples.at(conn, now, now=now) is None
        assert len(await fleet_samples.over_time(conn, since=now - timedelta(hours=1), until=now, steps=2)) == 3


async def test_a_tally_of_another_shape_is_none(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_samples, "MANY", 2)
    stage = Stage(engine)
    large = await stage.submit(count=3)
    await sampled(stage)
    now = stage.world.clock.now()
    async with begin(engine) as conn:
        assert set((await fleet_samples.tallies(conn, [large], now=now))[0]) == {large}
        await conn.execute(text("UPDATE submission_samples SET tally = tally - 'ready'"))
        assert await fleet_samples.tallies(conn, [large], now=now) == ({}, None)

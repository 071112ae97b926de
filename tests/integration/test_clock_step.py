"""After the database's clock was set back: no time in the record keeps anything waiting, or makes anything seem new."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage

from service.app.process import correct_clock, heal_times, longest_wait
from service.errors import StorageUnavailable
from service.storage import clock_step, tables
from service.storage.engine import begin
from service.storage.submissions import Submission
from service.worker import apply, create, refresh

BACK = timedelta(hours=2)

#: Times that are recorded and that nothing waits for or is compared with.
RECORDED = {
    "submissions": {
        "created_at",
        "ended_at",
        "cancelled_at",
        "maintain_stopped_at",
        "limit_reached_at",
        "limit_near_at",
    },
    "idempotency_keys": {"created_at"},
    "creations": {"created_at", "completed_at", "deadline_at"},  # a replacement's deadline ends later by the step
    "vms": {"state_since", "created_at", "ready_at", "ended_at"},
    "inbox": {"received_at"},
    "dead_letters": {"received_at", "at"},
    "rate_limit_slots": {"slot"},  # moved by as much as the clock was: see test_process.py
    "scheduled_jobs": {"done_at"},
    "daemons": {"seen_at", "stopped_at"},  # said again every few seconds
    "logs": {"begun_at"},
    "seals": {"sealed_at"},
    "checkpoints": {"signed_at", "published_at"},
    "notices": {"at"},
    "messages": {"created_at", "ended_at", "give_up_at"},  # given up later by the step, but tried meanwhile
    "health_issues": {"since"},
    "fleet_samples": {"slot", "counted_at"},  # counted again soon; a later one is not shown before its time
    "submission_samples": {"counted_at"},
    "api_tokens": {
        "created_at",
        "expires_at",
        "revoked_at",
        "last_used_at",
    },  # an expiry is the moment that was asked for
}


def test_of_every_time_in_the_record_it_is_decided_what_becomes_of_it():
    for name, table in tables.metadata.tables.items():
        times = {column.name for column in table.columns if isinstance(column.type, TIMESTAMP)}
        healed = {*clock_step.DUE.get(name, ()), *clock_step.SINCE.get(name, ())}
        if name not in tables.APPEND_ONLY:
            assert times == healed | RECORDED.get(name, set()), name


async def values(engine: AsyncEngine, decided: Any) -> list[tuple[str, str, datetime]]:
    async with begin(engine) as conn:
        return [
            (table, column, value)
            for table, columns in decided.items()
            for column in columns
            # The deadline of what is complete is never looked at again.
            for value in (
                await conn.execute(
                    text(f"SELECT {column} FROM {table}" + " WHERE due_at IS NOT NULL" * (table == "creations"))
                )
            ).scalars()
            if value is not None
        ]


async def test_nothing_is_due_late_or_seen_later_than_now(engine: AsyncEngine):
    # A creation that was answered, one that waits for stock, and one whose answer was lost: then the clock goes back.
    stage = Stage(engine)
    for faults in ({}, {"no_stock": [1]}, {"create": {"lost": [1]}}):
        stage.misbehave(**faults)
        await stage.submit(count=2, contract_id=99)
        await create.run_once(stage.rt)
    await stage.wait(30)
    await apply.run_once(stage.rt)
    assert {one.state for one in await stage.creations()} == {"answered", "unconfirmed", "due"}
    now = stage.world.clock.now() - BACK
    longest = longest_wait(stage.rt.settings)
    deadline = timedelta(seconds=(await stage.submission()).policy["deadline_seconds"])
    healed = []
    for _ in range(2):  # every daemon notices the step
        async with begin(engine) as conn:
            await clock_step.heal(conn, now=now, back=BACK, longest=longest)
        due, since = await values(engine, clock_step.DUE), await values(engine, clock_step.SINCE)
        healed.append((due, since))
        for table, column, value in due:
            assert value <= now + (deadline if column == "deadline_at" else longest), (table, column)
        for table, column, value in since:
            assert value <= now, (table, column)
    assert healed[0] == healed[1]
    assert {one.deadline_at - now for one in await stage.rows(Submission, tables.submissions)} == {deadline}


class SteppedClock:
    """A daemon's clock that has not been corrected since the database's went back."""

    def __init__(self, stage: Stage) -> None:
        self._of_database, self._ahead = stage.world.clock, BACK

    def now(self) -> datetime:
        return self._of_database.now() + self._ahead

    async def sleep(self, seconds: float) -> None:
        await self._of_database.sleep(seconds)

    async def measure(self, _: AsyncEngine) -> timedelta:
        ahead, self._ahead = self._ahead, timedelta()
        return -ahead


async def test_a_step_that_could_not_be_healed_at_once_is_healed_later(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
):
    stage = Stage(engine)
    clock = SteppedClock(stage)
    await stage.sql("INSERT INTO scheduled_jobs (job, due_at) VALUES ('resync', :at)", at=clock.now())
    sound = clock_step.heal

    async def read_only(*_: Any, **__: Any) -> None:
        raise StorageUnavailable("25006 cannot execute UPDATE in a read-only transaction")

    monkeypatch.setattr(clock_step, "heal", read_only)
    with pytest.raises(StorageUnavailable):
        await correct_clock(stage.rt, clock)
    monkeypatch.setattr(clock_step, "heal", sound)
    assert "clock" in stage.rt.health.issues
    await correct_clock(stage.rt, clock)
    assert await stage.sql("SELECT due_at FROM scheduled_jobs") == [(clock.now(),)]
    await correct_clock(stage.rt, clock)
    assert stage.rt.health.issues == {}


async def test_a_process_that_starts_heals_what_one_left_that_was_killed_before_it_could(engine: AsyncEngine):
    stage = Stage(engine)
    now = stage.world.clock.now()
    await stage.sql("INSERT INTO scheduled_jobs (job, due_at) VALUES ('resync', :at)", at=now + BACK)
    await heal_times(stage.rt, now)
    assert await stage.sql("SELECT due_at FROM scheduled_jobs") == [(now,)]


async def test_a_read_that_began_before_the_clock_went_back_is_not_newer_than_all_later_ones(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit()
    await create.run_once(stage.rt)
    await stage.wait(1)
    stage.between.hold = "GET"
    await stage.sql("UPDATE vms SET next_refresh_at = created_at")

    class SteppingBack:
        async def send(self, *request: Any) -> Any:
            answer = await inner.send(*request)
            stage.world.clock.set_back(BACK.total_seconds())
            await heal_times(stage.rt, stage.world.clock.now())
            return answer

    inner, stage.between.inner = stage.between.inner, SteppingBack()
    await refresh.run_once(stage.rt)
    stage.between.inner = inner
    assert await stage.sql("SELECT observed_at <= :now FROM vms", now=stage.world.clock.now()) == [(True,)]

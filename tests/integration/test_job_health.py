"""A job that does not work is visible; what one job raised is not cleared by another that only reads."""

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from importlib import import_module
from types import ModuleType

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage

from service.config import load
from service.errors import ConfigError, StorageUnavailable
from service.runtime.health import Health
from service.storage.engine import begin
from service.worker import contract, health, notify, prices, retention, runner, sample, seal
from service.worker.runner import Run


@asynccontextmanager
async def jobs(stage: Stage, **which: Run):
    stop = asyncio.Event()
    task = asyncio.create_task(runner.run(stage.rt, stop, grace=1.0, jobs=which))
    try:
        yield
    finally:
        stop.set()
        await task


class Watched(Health):
    """Health issues, and a way to wait until they are as a test wants them."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = asyncio.Event()

    def report(self, issue, text, **by) -> None:
        super().report(issue, text, **by)
        self.changed.set()

    def resolve(self, issue, **by) -> None:
        super().resolve(issue, **by)
        self.changed.set()

    async def until(self, condition) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


def staged(engine: AsyncEngine, **settings) -> Stage:
    stage = Stage(engine, poll_seconds=0.01, retry_first_seconds=0.01, retry_cap_seconds=0.01, **settings)
    stage.rt = replace(stage.rt, health=Watched())
    return stage


async def test_a_job_that_keeps_failing_is_a_health_issue_with_its_error_until_it_works(engine: AsyncEngine):
    stage = staged(engine)
    broken = asyncio.Event()

    async def job(_rt) -> int:
        if not broken.is_set():
            raise OverflowError("days=11574074; must have magnitude <= 999999999")
        return 0

    async with jobs(stage, apply=job):
        await stage.rt.health.until(lambda: "job apply" in stage.rt.health.issues)
        assert "OverflowError: days=11574074" in stage.rt.health.issues["job apply"]
        broken.set()
        await stage.rt.health.until(lambda: not stage.rt.health.issues)


async def test_a_run_of_another_job_that_only_reads_does_not_clear_what_a_writing_job_raised(engine: AsyncEngine):
    stage = staged(engine)
    reads, works = asyncio.Event(), asyncio.Event()

    async def writing(_rt) -> int:
        if not works.is_set():
            raise StorageUnavailable("25006 cannot execute UPDATE in a read-only transaction")
        return 1

    async def reading(_rt) -> int:
        reads.set()
        return 0

    async with jobs(stage, rescue=writing, reconcile=reading):
        await stage.rt.health.until(lambda: "database read-only" in stage.rt.health.issues)
        reads.clear()
        await reads.wait()
        assert "25006" in stage.rt.health.issues["database read-only"]
        works.set()
        await stage.rt.health.until(lambda: not stage.rt.health.issues)


async def test_a_run_with_nothing_to_write_does_not_prove_that_the_database_takes_writes(engine: AsyncEngine):
    stage = staged(engine)
    runs = 0

    async def job(rt) -> int:
        nonlocal runs
        runs += 1
        async with begin(rt.engine) as conn:
            await conn.execute(text("SELECT 1"))
            if runs == 1:
                await conn.execute(text("UPDATE vms SET stuck = true"))
        return 0

    await _read_only(engine, on=True)
    await engine.dispose()  # what connected before may still write
    async with jobs(stage, rescue=job):
        await stage.rt.health.until(lambda: runs >= 5)
        assert "database read-only" in stage.rt.health.issues
        await _read_only(engine, on=False)
        await stage.rt.health.until(lambda: not stage.rt.health.issues)


async def _read_only(engine: AsyncEngine, *, on: bool) -> None:
    async with begin(engine) as conn:
        await conn.execute(text("SET LOCAL default_transaction_read_only = off"))
        await conn.execute(text("SET TRANSACTION READ WRITE"))
        name = (await conn.execute(text("SELECT current_database()"))).scalar_one()
        await conn.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {"on" if on else "off"}'))


async def test_a_job_whose_run_does_not_end_is_a_health_issue(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner, "_WATCH_SECONDS", 0.01)
    stage = staged(engine, job_stalled_seconds=600)

    async def hangs(_rt) -> int:
        await asyncio.Event().wait()
        return 0

    async with jobs(stage, apply=hangs):
        await asyncio.sleep(0)
        stage.world.clock.advance(601)
        await stage.rt.health.until(lambda: "job apply" in stage.rt.health.issues)


class DeathError(BaseException):
    """Ends a task."""


async def test_a_job_whose_task_dies_ends_the_daemon(engine: AsyncEngine):
    stage = Stage(engine)

    async def dies(_rt) -> int:
        raise DeathError

    stop = asyncio.Event()
    with pytest.raises(DeathError):
        await runner.run(stage.rt, stop, grace=1.0, jobs={"apply": dies})
    assert stop.is_set()


@pytest.mark.parametrize(
    "name",
    ["RESYNC_SECONDS", "JOB_STALLED_SECONDS", "DELETION_OVERDUE_SECONDS", "RETRY_CAP_SECONDS", "CREATE_TIMEOUT",
     "LOOKUP_WINDOW_SECONDS", "OVERDUE_SECONDS", "NEWBORN_SECONDS", "INBOX_OVERDUE_SECONDS", "CREATION_OVERDUE_SECONDS"],
)  # fmt: skip
@pytest.mark.parametrize("value", ["inf", "1e12", "nan", "-1", "0"])
def test_a_time_that_no_arithmetic_of_times_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch, name, value):
    monkeypatch.setenv(f"ROLLCALL_{name}", value)
    with pytest.raises(ConfigError) as caught:
        load(_env_file=None)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("job", "breaks"),
    [
        (sample, "service.queries.fleet.count_every"),
        (prices, "service.worker.prices.list_prices"),
        (seal, "service.audit.seal.seal"),
        (notify, "service.storage.messages.forget"),
        (retention, "service.storage.partitions.before"),
        (contract, "service.storage.contract_queue.contracts_in_use"),
    ],
)
async def test_a_scheduled_job_that_always_fails_is_a_health_issue_until_any_daemon_has_done_it(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, job: ModuleType, breaks: str
):
    stage = staged(engine, events_keep_months=1, events_drop=True)
    works = getattr(import_module(breaks.rpartition(".")[0]), breaks.rpartition(".")[2])
    name = job.__name__.rpartition(".")[2]

    def fails(*_: object, **__: object) -> object:
        raise OverflowError("too large")

    async def turn() -> int:
        stage.world.clock.advance(20)
        return await job.run_once(stage.rt)

    monkeypatch.setattr(breaks, fails)
    for _ in range(3):
        await runner._try(stage.rt, name, turn())
    assert "too large" in stage.rt.health.issues[f"job {name}"]
    with suppress(OverflowError):
        await job.run_once(stage.daemon())  # another daemon fails, too
    await runner._try(stage.rt, name, nothing())
    assert f"job {name}" in stage.rt.health.issues
    monkeypatch.setattr(breaks, works)
    stage.world.clock.advance(20)
    await job.run_once(stage.daemon())
    await runner._try(stage.rt, name, nothing())
    assert f"job {name}" not in stage.rt.health.issues


async def nothing() -> int:
    return 0


@pytest.mark.parametrize("time", ["contract_due_at", "history_due_at", "next_refresh_at"])
async def test_work_that_gets_no_call_for_long_is_an_issue_until_it_is_done(engine: AsyncEngine, time: str):
    stage = staged(engine)
    await stage.submit(contract_id=41)
    await stage.live(60)
    assignment = ", assignment = 'retrying'" if time == "contract_due_at" else ""
    waits = f"UPDATE vms SET {time} = :at{assignment}"
    await stage.sql(waits, at=stage.world.clock.now())
    await health.run_once(stage.rt)
    assert stage.rt.health.issues == {}
    stage.world.clock.advance(601)
    await health.run_once(stage.rt)
    job = time.partition("_")[0].replace("next", "refresh")
    assert f"work of the job {job} waits for more than 600 s" in stage.rt.health.issues["work waits"]
    await stage.sql(waits, at=stage.world.clock.now())
    await stage.sql("UPDATE vms SET next_refresh_at = :at", at=stage.world.clock.now())
    await health.run_once(stage.rt)
    assert "work waits" not in stage.rt.health.issues


async def test_a_lease_that_could_not_be_given_back_with_the_failure_is_given_back_after_it(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
):
    stage = staged(engine)

    async def is_away(*_: object, **__: object) -> object:
        raise StorageUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr("service.worker.prices._read", is_away)
        patch.setattr("service.storage.scheduled_jobs.release_if_leased", is_away)
        await runner._try(stage.rt, "prices", prices.run_once(stage.rt))
    assert await stage.sql("SELECT job FROM scheduled_jobs WHERE job = 'prices' AND lease_token IS NOT NULL")
    await runner._try(stage.rt, "prices", prices.run_once(stage.rt))
    assert not await stage.sql("SELECT job FROM scheduled_jobs WHERE lease_token IS NOT NULL")
    await runner._try(stage.rt, "prices", prices.run_once(stage.rt))
    assert not stage.rt.failed_runs

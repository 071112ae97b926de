"""One question says which jobs have something to do: neither a job too few, nor one too many when all is at rest."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage
from structlog.testing import capture_logs

from service.operations import deletion
from service.storage import due
from service.storage.engine import begin
from service.worker import apply, contract, create, orphan, refresh, rescue, runner
from service.worker.due import DueJobs

#: Scheduled, and nothing runs them on a stage.
RESTING = {"retention", "prices", "seal", "sample"}


async def due_now(stage: Stage) -> set[str]:
    async with begin(stage.engine) as conn:
        return await due.due_jobs(conn, stage.world.clock.now()) - RESTING


async def resting(engine: AsyncEngine, **cloud) -> Stage:
    stage = Stage(engine, cloud=cloud)
    await stage.submit(count=3, policy={"stuck_after_seconds": 300})
    await stage.live(120)
    return stage


async def test_of_a_fleet_at_rest_nothing_is_due(engine: AsyncEngine):
    stage = await resting(engine)
    assert await stage.states() == ["ACTIVE"] * 3
    assert await due_now(stage) == set()


async def test_the_jobs_that_are_due_have_names_that_the_runner_knows():
    assert set(runner.ALL) - due.JOBS == {"health"}
    assert set(runner.ALL) >= due.JOBS


@pytest.mark.parametrize(
    ("job", "statement"),
    [
        ("apply", "INSERT INTO inbox SELECT submission_id, created_at, submission_id, 1, created_at FROM submissions"),
        ("refresh", "UPDATE vms SET next_refresh_at = created_at WHERE vm_no = 2"),
        ("refresh", "UPDATE scheduled_jobs SET due_at = done_at WHERE job = 'resync'"),
        (
            "refresh",
            "UPDATE creations SET state = 'unconfirmed', due_at = created_at, lookup_until = created_at, completed_at = NULL",
        ),
        ("history", "UPDATE vms SET history_due_at = created_at WHERE vm_no = 2"),
        ("delete", "UPDATE vms SET desired_state = 'deleted', delete_due_at = created_at WHERE vm_no = 2"),
        ("contract", "UPDATE vms SET assignment = 'retrying', contract_due_at = created_at WHERE vm_no = 2"),
        ("create", "UPDATE creations SET state = 'due', due_at = created_at, completed_at = NULL"),
        (
            "orphan",
            "INSERT INTO orphans SELECT submission_id, 1, 1, NULL, 'suspected', '', created_at, created_at FROM submissions",
        ),
        (
            "rescue",
            """UPDATE creations SET state = 'calling', due_at = created_at, lease_until = created_at,
               lease_token = submission_id, completed_at = NULL""",
        ),
        ("rescue", "UPDATE submissions SET state = 'open', ended_at = NULL"),
        ("rescue", "UPDATE submissions SET withdraw_due_at = created_at"),
        ("rescue", "UPDATE submissions SET expires_at = created_at"),
        ("rescue", "UPDATE submissions SET expires_at = created_at + interval '9 days', expiry_notice_at = created_at"),
        ("rescue", "UPDATE scheduled_jobs SET due_at = done_at WHERE job = 'upkeep'"),
    ],
)
async def test_a_job_with_something_to_do_is_due_and_no_other(engine: AsyncEngine, job: str, statement: str):
    stage = await resting(engine)
    await stage.sql(statement)
    assert await due_now(stage) == {job}


async def test_creations_past_their_deadline_and_stuck_vms_are_for_the_rescue(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit(count=2)
    await stage.everything((refresh, rescue, contract))
    assert await due_now(stage) == {"create"}
    await stage.sql("UPDATE submissions SET deadline_at = created_at")
    await stage.sql("UPDATE creations SET deadline_at = created_at")
    assert await due_now(stage) == {"create", "rescue"}
    await rescue.run_once(stage.rt)
    assert await due_now(stage) == set()


async def test_a_vm_that_is_not_ready_in_time_makes_the_rescue_due(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"vms": {"boot_error": [1]}}})
    await stage.submit()
    await stage.live(30, job_runs=(apply, create, refresh))
    assert await stage.states() == ["ERROR"]
    assert "rescue" in await due_now(stage)
    await stage.everything((rescue, rescue, refresh, orphan))
    assert "rescue" not in await due_now(stage)
    assert (await stage.submission()).state == "failed"


async def test_deletions_that_another_daemon_holds_are_not_due(engine: AsyncEngine):
    stage = await resting(engine)
    await deletion.delete(stage.rt, await stage.vm(), caller="tests")
    assert await due_now(stage) == {"delete"}
    await stage.sql("UPDATE vms SET lease_token = submission_id, lease_until = :t", t=stage.world.clock.now())
    assert await due_now(stage) == set()


async def test_waiting_jobs_are_woken_when_they_are_due_and_at_the_end(engine: AsyncEngine):
    stage = await resting(engine)
    stop, jobs = asyncio.Event(), DueJobs(runner.ALL)
    waiting = {job: asyncio.create_task(jobs.wait(job)) for job in ("history", "orphan")}
    await asyncio.sleep(0)
    watching = asyncio.create_task(jobs.watch(stage.rt, stop))
    await stage.sql("UPDATE vms SET history_due_at = created_at")
    await waiting["history"]
    assert not waiting["orphan"].done()
    stop.set()
    await asyncio.gather(watching, waiting["orphan"])


async def test_an_idle_runner_stops_at_once(engine: AsyncEngine, tmp_path: Path):
    stage, stop = await resting(engine), asyncio.Event()
    stage.rt.settings = stage.rt.settings.model_copy(update={"data_dir": tmp_path})  # where checkpoints go
    with capture_logs() as lines:
        running = asyncio.create_task(runner.run(stage.rt, stop, grace=20))
        await stage.sql("SELECT 1")
        stop.set()
        await running
    assert [line for line in lines if line.get("action") == "stop"] == []

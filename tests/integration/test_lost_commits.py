"""Commits whose outcome nobody hears: the connection is lost just before or just after, and the work runs again."""

from contextlib import suppress

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import PASSES, Stage

from service.errors import StorageUnavailable
from service.lab.explorer.world import LossyCommits
from service.worker import create


async def test_a_request_without_a_key_is_kept_once_whatever_becomes_of_its_commit(engine: AsyncEngine):
    stage = Stage(engine)
    with LossyCommits(engine, 0.3, seed=1) as lossy:
        asked = {await stage.submit() for _ in range(20)}
    assert lossy.cut > 5
    assert len(asked) == 20
    assert await stage.sql("SELECT count(*) FROM submissions") == [(20,)]
    assert await stage.sql("SELECT count(*) FROM vms") == [(20,)]


async def test_calls_are_put_on_record_once_and_each_vm_is_made_once(engine: AsyncEngine):
    stage = Stage(engine, resync_seconds=30)
    await stage.submit(count=45)
    with LossyCommits(engine, 0.1, seed=2) as lossy:
        for one in PASSES * 25:
            with suppress(StorageUnavailable):  # the loop runs it again
                await one.run_once(stage.rt)
            await stage.wait(1)
    await stage.live(400)
    assert lossy.cut > 10
    assert await stage.states() == ["ACTIVE"] * 45
    assert len(stage.alive()) == 45
    recorded = await stage.sql("SELECT count(*), count(DISTINCT call_id) FROM calls")
    assert recorded[0][0] == recorded[0][1] >= len(stage.world.cloud.log)


async def test_what_was_leased_by_a_commit_that_nobody_heard_of_is_looked_for_and_sent(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit()
    with LossyCommits(engine, 1.0, seed=4), pytest.raises(StorageUnavailable):
        await create.run_once(stage.rt)
    await stage.live(400)
    assert await stage.states() == ["ACTIVE"]
    assert len(stage.alive()) == 1

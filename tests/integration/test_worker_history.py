"""The events history: read where callbacks seem to be missing, kept once, told beside the callbacks, moving nothing."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage, refusal

from service.core.lifecycle import VmState
from service.queries import timeline
from service.storage.engine import begin
from service.worker import apply, create, history, refresh

UNHEARD = {"faults": {"callbacks": {"lost": 1}}}


def asked(stage: Stage) -> list[str]:
    return [call for call in stage.calls("GET", "/core/virtual-machines/") if call.endswith("/events")]


async def kept(stage: Stage) -> list[Any]:
    return await stage.sql("SELECT convert_from(body, 'UTF8')::json ->> 'reason' FROM events WHERE source = 'history'")


async def unheard(engine: AsyncEngine, **settings: Any) -> Stage:
    """A stage on which a reading has just found a VM ACTIVE, and no callback ever came."""
    stage = Stage(engine, cloud=UNHEARD, **settings)
    await stage.submit()
    await create.run_once(stage.rt)
    await stage.wait(125)
    await refresh.run_once(stage.rt)
    assert await stage.states() == ["ACTIVE"]
    return stage


async def test_what_no_callback_told_is_in_the_story_of_the_vm(engine: AsyncEngine):
    stage = await unheard(engine)
    await stage.live(70)
    reasons = {row[0] for row in await kept(stage)}
    assert {"InstanceCreationRequest", "InstanceCreationSuccess"} <= reasons
    async with begin(engine) as conn:
        told = [one for one in await timeline.of_vm(conn, await stage.vm()) if one.kind == "history"]
    assert len(told) == len(await kept(stage))
    assert told[0].text.startswith("the provider's events history says InstanceCreationRequest: Instance train-")
    # Each stands where it happened, and says when it was learned.
    assert told[0].at == stage.world.clock.start
    assert told[0].evidence["at"] - told[0].at > timedelta(seconds=120)


async def test_it_moves_nothing_and_waits_for_nobody(engine: AsyncEngine):
    stage = await unheard(engine)
    before = await stage.sql("SELECT count(*) FROM transitions")
    await stage.live(70)
    assert await kept(stage) != []
    assert await stage.sql("SELECT count(*) FROM inbox") == [(0,)]
    assert await stage.sql("SELECT count(*) FROM transitions") == before


async def test_where_every_callback_came_nothing_is_asked(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit(count=3)
    await stage.live(200)
    assert await stage.states() == ["ACTIVE"] * 3
    assert asked(stage) == []


async def test_late_callbacks_have_a_while_to_come(engine: AsyncEngine):
    stage = await unheard(engine, history_seconds=60)
    await stage.wait(59)
    assert await history.run_once(stage.rt) == 0
    await stage.wait(1.1)
    assert await history.run_once(stage.rt) == 1
    assert await history.run_once(stage.rt) == 0


async def test_an_entry_is_kept_once_however_often_it_is_read(engine: AsyncEngine):
    stage = await unheard(engine)
    await stage.wait(61)
    await history.run_once(stage.rt)
    once = await kept(stage)
    await stage.sql("UPDATE vms SET history_due_at = :now", now=stage.world.clock.now())
    assert await history.run_once(stage.rt) == 1
    assert await kept(stage) == once


async def test_entries_of_one_call_stay_with_their_vms(engine: AsyncEngine):
    stage = Stage(engine, cloud=UNHEARD)
    await stage.submit(count=2)
    await stage.live(300)
    async with begin(engine) as conn:
        for vm in await stage.vms():
            told = [one for one in await timeline.of_vm(conn, vm) if one.kind == "history"]
            assert told
            assert all(vm.name is not None and vm.name in one.text for one in told)


async def test_an_error_is_looked_into_even_where_a_callback_told_it(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"vms": {"boot_error": {"nth": [1]}}}})
    await stage.submit()
    await create.run_once(stage.rt)
    await stage.wait(40)
    await apply.run_once(stage.rt)
    await refresh.run_once(stage.rt)
    vm = await stage.vm()
    assert (vm.state, vm.history_due_at) == (VmState.ERROR, stage.world.clock.now() + timedelta(seconds=60))


async def test_a_vm_that_is_gone_has_no_history_any_more(engine: AsyncEngine):
    stage = await unheard(engine)
    vm = await stage.vm()
    stage.console(vm.provider_id, "vanish")
    await stage.wait(61)
    assert await history.run_once(stage.rt) == 1
    assert (await stage.vm()).history_due_at is None
    assert await kept(stage) == []


@pytest.mark.parametrize("answer", [refusal(500, "Internal error"), refusal(429, "Too many requests")])
async def test_a_provider_in_trouble_is_asked_again_much_later(engine: AsyncEngine, answer):
    stage = await unheard(engine, resync_seconds=600)
    await stage.wait(61)
    stage.between.prepared["GET"] = [answer]
    await history.run_once(stage.rt)
    vm = await stage.vm()
    assert vm.history_due_at == stage.world.clock.now() + timedelta(seconds=600)


async def test_the_process_dies_in_the_middle_and_another_reads_it(engine: AsyncEngine):
    stage = await unheard(engine)
    await stage.wait(61)
    with stage.killed_after(2):
        assert await stage.dies_in(history.run_once(stage.rt))
    assert await kept(stage) == []
    await stage.live(100)
    assert await kept(stage) != []


async def test_histories_take_what_others_leave_of_the_budget(engine: AsyncEngine):
    stage = await unheard(engine, calls_per_minute=10)
    await stage.wait(61)
    now = stage.world.clock.now()
    await stage.sql(
        "INSERT INTO rate_limit_slots (scope, slot, operation, used) VALUES ('default', date_trunc('second', "
        "CAST(:now AS timestamptz)), 'read', 3)", now=now,
    )  # fmt: skip
    assert await history.run_once(stage.rt) == 0
    await stage.wait(70)
    assert await history.run_once(stage.rt) == 1

"""Applying callbacks: in order, in sets, once; and what tells us nothing stands alone and blocks nobody."""

import asyncio
from collections import Counter
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage
from structlog.testing import capture_logs

from service.core.lifecycle import EXPECTED, VmState
from service.core.token import CreationRef
from service.core.vm import Vm
from service.errors import StorageError, StorageUnavailable
from service.runtime.runtime import Runtime
from service.storage import apply_callbacks, events
from service.storage.engine import begin
from service.worker import apply, create, orphan, refresh


def says(provider_id: int, status: str | None) -> bytes:
    status = "null" if status is None else f'"{status}"'
    return b'{"resource": {"id": "%d"}, "operation": {"name": "createVM"}, "data": {"status": %s}}' % (
        provider_id,
        status.encode(),
    )


async def started(engine: AsyncEngine, count: int = 1) -> tuple[Stage, CreationRef, list[int]]:
    """A stage whose VMs are CREATING and of which the cloud says nothing by itself."""
    stage = Stage(engine, cloud={"faults": {"callbacks": {"lost": 1}}})
    await stage.submit(count=count)
    await create.run_once(stage.rt)
    await stage.wait(1)
    return stage, (await stage.creation()).ref, stage.alive()


async def aside(stage: Stage) -> list[tuple]:
    return await stage.sql("SELECT kind, provider_id FROM dead_letters ORDER BY received_at, event_id")


async def queued(stage: Stage) -> int:
    return (await stage.sql("SELECT count(*) FROM inbox"))[0][0]


def counted(stage: Stage, kind: str) -> float:
    return stage.rt.metrics.registry.get_sample_value("rollcall_dead_letters_total", {"kind": kind}) or 0


async def check_transitions(stage: Stage) -> None:
    """Transitions chain without gaps up to the VM's state, and callbacks moved only where they may."""
    for vm in await stage.vms():
        rows = await stage.sql(
            "SELECT seq, from_state, to_state, evidence, verdict FROM transitions WHERE vm_no = :no ORDER BY seq",
            no=vm.vm_no,
        )
        state = VmState.REQUESTED
        for number, (seq, from_state, to_state, evidence, verdict) in enumerate(rows, 1):
            assert (seq, from_state) == (number, state)
            assert (verdict == "moved") == (from_state != to_state)
            assert evidence != "event" or from_state == to_state or VmState(to_state) in EXPECTED[state]
            state = VmState(to_state)
        assert state is vm.state
        assert vm.seq == len(rows)


async def test_callbacks_are_applied_in_the_order_they_came_in(engine: AsyncEngine):
    stage, ref, (made,) = await started(engine)
    for status in ("BUILD", "ACTIVE", "STOPPING", "SHUTOFF", "STARTING", "ACTIVE"):
        await stage.hear(ref, says(made, status))
        await stage.wait(0.01)
    assert await apply.run_once(stage.rt) == 6
    vm = await stage.vm()
    assert (vm.state, vm.seq) == (VmState.ACTIVE, 7)
    rows = await stage.sql(
        "SELECT to_state, evidence, evidence_id IS NOT NULL FROM transitions WHERE evidence = 'event' ORDER BY seq"
    )
    assert rows == [
        (state, "event", True) for state in ("BUILD", "ACTIVE", "STOPPING", "SHUTOFF", "STARTING", "ACTIVE")
    ]
    await check_transitions(stage)


async def test_applied_events_leave_the_queue_and_stay_on_record(engine: AsyncEngine):
    stage, ref, (made,) = await started(engine)
    await stage.hear(ref, says(made, "BUILD"))
    await apply.run_once(stage.rt)
    assert await queued(stage) == 0
    assert await stage.sql("SELECT count(*) FROM events") == [(1,)]
    assert await apply.run_once(stage.rt) == 0


async def test_an_event_that_is_kept_twice_is_applied_once(engine: AsyncEngine):
    stage, ref, (made,) = await started(engine)
    one = stage.event(ref, says(made, "BUILD"))
    async with begin(engine) as conn:
        await events.insert(conn, [one])
        await events.insert(conn, [one])
    assert await apply.run_once(stage.rt) == 1
    async with begin(engine) as conn:
        await events.insert(conn, [one])
    assert await apply.run_once(stage.rt) == 0
    assert (await stage.vm()).seq == 2


async def test_a_late_and_a_repeated_callback_change_nothing(engine: AsyncEngine):
    stage, ref, (made,) = await started(engine)
    await stage.hear(ref, says(made, "ACTIVE"))
    await apply.run_once(stage.rt)
    before = await stage.vm()
    await stage.wait(1)
    await stage.hear(ref, says(made, "BUILD"), says(made, "CREATING"), says(made, "ACTIVE"))
    await apply.run_once(stage.rt)
    after = await stage.vm()
    assert (after.state, after.seq, after.ready) == (before.state, before.seq, True)


async def test_after_the_end_no_callback_brings_a_vm_back(engine: AsyncEngine):
    stage, ref, (made,) = await started(engine)
    stage.console(made, "vanish")
    await stage.hear(ref, says(made, "DELETING"))
    await apply.run_once(stage.rt)
    await refresh.run_once(stage.rt)
    await stage.wait(130)
    await refresh.run_once(stage.rt)
    ended = await stage.vm()
    assert ended.state is VmState.DELETED
    await stage.hear(ref, says(made, "ACTIVE"), says(made, "ERROR"), says(made, None))
    await apply.run_once(stage.rt)
    assert await stage.vm() == ended


async def test_a_null_status_moves_nothing_and_asks(engine: AsyncEngine):
    # basilica (field-notes.md section 1): a null status crashed the handler.
    stage, ref, (made,) = await started(engine)
    await stage.hear(ref, says(made, None))
    await apply.run_once(stage.rt)
    vm = await stage.vm()
    assert (vm.state, vm.next_refresh_at) == (VmState.CREATING, stage.world.clock.now())


@pytest.mark.parametrize(
    "body", [b"", b"{", b"null", b"\xff\xfe{}", b"<html>", b"[]", b'{"resource": {}}', b"[" * 5000]
)
async def test_what_cannot_be_read_is_set_aside_counted_and_kept(engine: AsyncEngine, body):
    stage, ref, (made,) = await started(engine)
    await stage.hear(ref, body, says(made, "BUILD"))
    assert await apply.run_once(stage.rt) == 2
    assert (await aside(stage), counted(stage, "unreadable")) == ([("unreadable", None)], 1)
    assert await stage.states() == ["BUILD"]
    assert await stage.sql("SELECT count(*) FROM events") == [(2,)]


async def test_a_stranger_on_a_settled_creation_is_set_aside_and_looked_at(engine: AsyncEngine):
    # infrahub-api.md section 1.1: a receiver sees ids that it does not know.
    stage, ref, _ = await started(engine)
    await stage.hear(ref, says(77, "ACTIVE"))
    await apply.run_once(stage.rt)
    assert (await aside(stage), counted(stage, "unknown_vm")) == ([("unknown_vm", 77)], 1)
    (suspect,) = await stage.orphans()
    assert (suspect.provider_id, suspect.state) == (77, "suspected")
    for _ in range(5):
        await stage.wait(40)
        await orphan.run_once(stage.rt)
    (suspect,) = await stage.orphans()
    assert (suspect.state, suspect.due_at) == ("gone", None)


async def test_an_event_of_no_creation_of_ours_is_set_aside(engine: AsyncEngine):
    stage, _, (made,) = await started(engine)
    await stage.hear(CreationRef(stage.rt.uuid(), 1), says(made, "ACTIVE"))
    await apply.run_once(stage.rt)
    assert await aside(stage) == [("unknown_vm", made)]
    assert (await stage.states(), await stage.orphans()) == (["CREATING"], [])


#: A status that the database refuses, so that the whole group fails with it.
POISON = '{"resource": {"id": %d}, "data": {"status": "POISON"}}'


async def refuse_poison(stage: Stage) -> None:
    await stage.sql("ALTER TABLE vms ADD CONSTRAINT poison CHECK (provider_status <> 'POISON')")


async def test_a_poison_event_is_set_aside_after_a_few_tries_and_never_blocks_another(engine: AsyncEngine):
    stage, ref, made = await started(engine, 3)
    await refuse_poison(stage)
    await stage.hear(ref, says(made[0], "BUILD"), (POISON % made[1]).encode(), says(made[2], "BUILD"))
    await apply.run_once(stage.rt)
    assert await stage.states() == ["BUILD", "CREATING", "BUILD"]
    for _ in range(10):
        await stage.wait(60)
        await stage.hear(ref, says(made[0], "ACTIVE"))
        await apply.run_once(stage.rt)
        assert await stage.states() == ["ACTIVE", "CREATING", "BUILD"]
    assert [kind for kind, _ in await aside(stage)] == ["failed"]
    assert (counted(stage, "failed"), await queued(stage)) == (1, 0)
    assert await stage.sql("SELECT count(*) FROM events JOIN dead_letters USING (event_id) WHERE kind = 'failed'") == [
        (1,)
    ]


async def test_several_poison_events_in_a_group_cost_nobody_else_a_pass(engine: AsyncEngine):
    stage, ref, made = await started(engine, 20)
    await refuse_poison(stage)
    bad = {made[0], made[7], made[8], made[19]}
    await stage.hear(ref, *((POISON % one).encode() if one in bad else says(one, "BUILD") for one in made))
    assert await apply.run_once(stage.rt) == 20
    assert [vm.state == "BUILD" for vm in await stage.vms()] == [one not in bad for one in made]
    assert await stage.sql("SELECT attempts FROM inbox") == [(1,)] * len(bad)
    assert await apply.run_once(stage.rt) == 0, "each waits for its next try"


async def test_poison_does_not_hurt_the_vm_it_is_about(engine: AsyncEngine):
    stage, ref, (made,) = await started(engine)
    await refuse_poison(stage)
    await stage.hear(ref, (POISON % made).encode())
    await apply.run_once(stage.rt)
    await stage.live(200)
    assert (await stage.states(), len(await aside(stage))) == (["ACTIVE"], 1)


async def test_a_database_that_fails_by_itself_makes_no_event_a_poison(engine: AsyncEngine):
    stage, ref, made = await started(engine, 3)
    await stage.hear(ref, *(says(one, "BUILD") for one in made))
    await stage.sql("ALTER TABLE transitions RENAME COLUMN claimed TO damaged")
    for _ in range(10):
        with pytest.raises(StorageError, match="42703"):
            await apply.run_once(stage.rt)
        await stage.wait(60)
    assert (await queued(stage), await aside(stage)) == (3, [])
    assert await stage.sql("SELECT sum(attempts) FROM inbox") == [(0,)]
    await stage.sql("ALTER TABLE transitions RENAME COLUMN damaged TO claimed")
    assert await apply.run_once(stage.rt) == 3
    assert await stage.states() == ["BUILD"] * 3


async def test_a_status_with_characters_that_postgres_refuses_is_applied_without_them(engine: AsyncEngine):
    stage, ref, (made,) = await started(engine)
    await stage.hear(ref, b'{"resource": {"id": %d}, "data": {"status": "A\\u0000B", "fixed_ip": "\\u0000"}}' % made)
    assert await apply.run_once(stage.rt) == 1
    assert ((await stage.vm()).provider_status, await aside(stage), await queued(stage)) == ("AB", [], 0)


async def test_a_vm_that_somebody_has_locked_waits_and_all_others_go_on(engine: AsyncEngine):
    stage, ref, made = await started(engine, 20)
    async with engine.connect() as human:
        await human.execute(text("SELECT * FROM vms WHERE provider_id = :id FOR UPDATE"), {"id": made[7]})
        for status in ("BUILD", "ACTIVE"):
            await stage.hear(ref, *(says(one, status) for one in made))
            with capture_logs() as lines:
                assert await apply.run_once(stage.rt) == 20
            assert [line["outcome"] for line in lines if line["event"] == "events deferred"] == ["locked"]
            await stage.wait(0.01)
        assert Counter(await stage.states()) == {"ACTIVE": 19, "CREATING": 1}
        assert "locked by another transaction" in stage.rt.health.issues["locked_vms"]
        assert (await queued(stage), await aside(stage)) == (2, [])
        await human.rollback()
    await stage.wait(31)
    await apply.run_once(stage.rt)
    assert await stage.states() == ["ACTIVE"] * 20
    assert (await queued(stage), "locked_vms" in stage.rt.health.issues) == (0, False)


async def test_a_flood_that_names_unknown_vms_is_looked_into_twenty_times_and_reported(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit()
    await stage.live(70)
    ref = (await stage.creation()).ref
    before = len(stage.world.cloud.log)
    for start in range(0, 6000, 1500):
        await stage.hear(ref, *(says(900_000 + start + number, "ACTIVE") for number in range(1500)))
        await apply.run_once(stage.rt)
    assert await queued(stage) == 0
    assert len(await stage.orphans()) == 20
    await stage.submit(name="other")
    await stage.live(60)
    issue = stage.rt.health.issues["callback_flood"]
    assert f"creation 1 of {ref.submission_id}" in issue
    assert (await stage.states(), len(stage.world.cloud.log) - before < 60) == (["ACTIVE", "ACTIVE"], True)
    await stage.live(4000, step=200)
    assert {one.state for one in await stage.orphans()} == {"gone"}
    assert "callback_flood" not in stage.rt.health.issues


async def test_an_orphan_that_a_list_shows_comes_before_what_callbacks_name(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"late": [1], "late_after": 200}})
    await stage.submit(policy={"on_orphan": "delete"})
    await stage.live(150)
    ref = (await stage.creation()).ref
    await stage.hear(ref, *(says(900_000 + number, "ACTIVE") for number in range(50)))
    await stage.live(1500, step=20)
    assert len(stage.alive()) == 1


async def test_many_appliers_at_once_neither_deadlock_nor_apply_twice(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
):
    # On a busy machine one may wait longer for another than a daemon would, which defers events and counts them again.
    monkeypatch.setattr(apply_callbacks, "_PATIENCE", "SET LOCAL lock_timeout = '60s'")
    stage, ref, made = await started(engine, 20)
    for status in ("BUILD", "ACTIVE", "STOPPING", "SHUTOFF", "STARTING", "ACTIVE"):
        # Forwards and backwards, so that two of them would lock the same VMs in opposite orders.
        order = made if status in {"BUILD", "STOPPING", "STARTING"} else made[::-1]
        await stage.hear(ref, *(says(one, status) for one in order))
        await stage.wait(0.01)
    daemons = [stage.rt, stage.daemon(), stage.daemon()]

    async def drain(rt) -> int:
        done = 0
        while taken := await apply.run_once(rt, limit=7):
            done += taken
        return done

    assert sum(await asyncio.gather(*map(drain, daemons))) == 120
    # Events of a VM that another daemon had locked for long wait until they are due again.
    while await queued(stage):
        await stage.wait(10)
        await drain(stage.rt)
    assert (await queued(stage), await aside(stage)) == (0, [])
    await check_transitions(stage)
    await stage.live(200)
    await check_transitions(stage)
    assert await stage.states() == ["ACTIVE"] * 20


WAY = ("BUILD", "ACTIVE", "STOPPING", "SHUTOFF", "STARTING", "ACTIVE")


async def several_creations(engine: AsyncEngine) -> tuple[Stage, list[Vm]]:
    """A stage with 60 VMs of three creations, each of which has heard all of its way, one VM after another."""
    stage, _, _ = await started(engine, 60)
    while len(bound := [vm for vm in await stage.vms() if vm.provider_id is not None]) < 60:
        await stage.wait(10)
        await create.run_once(stage.rt)
    for status in WAY:
        for vm in bound:
            await stage.hear(CreationRef(vm.submission_id, vm.creation_no), says(vm.provider_id or 0, status))
        await stage.wait(0.01)
    return stage, bound


async def test_a_long_queue_is_applied_in_lanes_and_each_vm_keeps_its_order(engine: AsyncEngine):
    stage, bound = await several_creations(engine)
    lanes = [{lane for lane in range(2) if await in_lane(stage, vm, lane)} for vm in bound]
    assert {tuple(one) for one in lanes} == {(0,), (1,)}, "each VM is in one lane, and neither lane is empty"
    assert await apply.run_once(stage.rt, limit=40) == 360
    for vm in bound:
        rows = await stage.sql(
            "SELECT to_state FROM transitions WHERE vm_no = :no AND evidence = 'event' ORDER BY seq", no=vm.vm_no
        )
        assert [state for (state,) in rows] == list(WAY)
    await check_transitions(stage)


async def in_lane(stage: Stage, vm: Vm, number: int) -> bool:
    """Whether what was heard of a VM is taken by this lane of two."""
    async with begin(stage.engine) as conn:
        taken = await events.take_due(conn, now=stage.rt.clock.now(), limit=1000, lane=events.Lane(number, 2))
    return (vm.submission_id, vm.creation_no) in {(one.submission_id, one.creation_no) for one in taken}


async def test_a_lane_that_fails_holds_up_no_other_and_loses_nothing(engine: AsyncEngine, monkeypatch):
    stage, bound = await several_creations(engine)
    take = events.take_due

    async def cut(conn, *, lane, **how):
        if lane == events.Lane(1, 2):
            raise StorageUnavailable("cut")
        return await take(conn, lane=lane, **how)

    with monkeypatch.context() as patch:
        patch.setattr(events, "take_due", cut)
        with pytest.raises(StorageUnavailable, match="cut"):
            await apply.run_once(stage.rt, limit=40)
    left = await queued(stage)
    assert 0 < left < 320, "the other lane is done"
    assert await apply.run_once(stage.rt, limit=40) == left
    await check_transitions(stage)
    assert {vm.state for vm in await stage.vms()} == {VmState.ACTIVE}
    assert len(bound) == 60


async def test_appliers_and_readings_at_once_leave_a_sound_record(engine: AsyncEngine):
    stage, ref, made = await started(engine, 20)
    other = stage.daemon()
    for status in ("BUILD", "ACTIVE", "DELETED", "STOPPING", "ACTIVE", "BUILD"):
        await stage.hear(ref, *(says(one, status) for one in made))
        await asyncio.gather(
            apply.run_once(stage.rt), refresh.run_once(other), apply.run_once(other), refresh.run_once(stage.rt)
        )
        await stage.wait(20)
    await check_transitions(stage)
    await stage.live(200)
    assert await stage.states() == ["ACTIVE"] * 20


async def test_a_callback_that_came_before_the_answer_waits_without_end_and_without_loss(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"create": {"lost": [1]}, "list_lag": 40}})
    await stage.submit(count=2)
    await create.run_once(stage.rt)
    for _ in range(3):
        await stage.wait(10)
        await apply.run_once(stage.rt)
    assert await stage.states() == ["REQUESTED", "REQUESTED"]
    assert await queued(stage) > 0
    await stage.live(100)
    assert await stage.states() == ["ACTIVE", "ACTIVE"]
    assert (await queued(stage), await aside(stage)) == (0, [])


class Storm:
    """A clock during which callbacks keep coming in at a rate, until the storm is over; each group takes so many seconds."""

    def __init__(self, rt: Runtime, per_second: float, *, ends_after: float, group: float) -> None:
        self._rt, self._began, self._per_second, self._left = rt, rt.clock.now(), per_second, ends_after
        self._group = group
        self._passed = self.slept = 0.0

    def now(self) -> datetime:
        return self._began + timedelta(seconds=self._passed)

    def monotonic(self) -> float:
        self._pass(self._group)
        return self._passed

    async def sleep(self, seconds: float) -> None:
        self._pass(seconds)
        self.slept += seconds

    def _pass(self, seconds: float) -> None:
        self._rt.callbacks_stored += int(self._per_second * min(seconds, max(0.0, self._left - self._passed)))
        self._passed += seconds


async def in_a_storm(rt: Runtime, per_second: float, *, ends_after: float = 1e9, group: float = 0.005) -> Storm:
    rt.clock = storm = Storm(rt, per_second, ends_after=ends_after, group=group)
    await apply.run_once(rt)  # the first look of a process: it does not know the rate yet
    await storm.sleep(1)
    storm.slept = 0.0
    return storm


@pytest.mark.parametrize("per_second", [600, 3_000, 30_000])
async def test_in_a_storm_callbacks_are_applied_as_they_come_in_the_time_that_receiving_leaves(
    engine: AsyncEngine, per_second: float
):
    stage, ref, made = await started(engine, 6)
    await stage.wait(0.01)
    storm = await in_a_storm(stage.rt, per_second)
    share = max(0.1, 1 - per_second / 15_000)
    for state in ("BUILD", "ACTIVE"):
        await stage.hear(ref, *(says(one, state) for one in made))
        storm.slept = 0.0
        assert await apply.run_once(stage.rt) == 6
        assert 0.005 / (0.005 + storm.slept) == pytest.approx(share, rel=0.02)
        assert await stage.states() == [state] * 6


async def test_in_a_storm_groups_are_small_and_afterwards_all_that_is_left_is_applied(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
):
    stage, ref, made = await started(engine, 6)
    await stage.wait(0.01)
    monkeypatch.setattr(apply, "_SMALL", 2)
    sizes: list[int] = []
    take_due = events.take_due

    async def noted(conn, **how):
        sizes.append(how["limit"])
        return await take_due(conn, **how)

    monkeypatch.setattr(events, "take_due", noted)
    await in_a_storm(stage.rt, 30_000, ends_after=1.1, group=0.2)
    await stage.hear(ref, *(says(one, "BUILD") for one in made))
    sizes.clear()
    assert await apply.run_once(stage.rt) == 6
    assert sizes == [2, 2, apply.GROUP]
    assert await stage.states() == ["BUILD"] * 6


async def test_a_database_that_is_slow_makes_no_rest_long(engine: AsyncEngine):
    stage, ref, made = await started(engine, 1)
    await stage.wait(0.01)
    storm = await in_a_storm(stage.rt, 30_000)
    storm.monotonic = iter((0.0, 60.0)).__next__
    await stage.hear(ref, says(made[0], "BUILD"))
    assert await apply.run_once(stage.rt) == 1
    assert storm.slept <= 0.5


async def test_without_a_storm_nothing_rests(engine: AsyncEngine):
    stage, ref, made = await started(engine, 6)
    await stage.wait(0.01)
    storm = await in_a_storm(stage.rt, 400)
    await stage.hear(ref, *(says(one, "BUILD") for one in made))
    assert await apply.run_once(stage.rt) == 6
    assert storm.slept == 0.0

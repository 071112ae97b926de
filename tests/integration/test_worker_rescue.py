"""What got stuck is found, what is done is concluded, and nothing waits without a time at which somebody looks."""

from datetime import timedelta

import pytest
from simulated import STEADY, VMS
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage

from service.core.lifecycle import VmState
from service.core.token import CreationRef
from service.errors import StorageUnavailable
from service.operations import deletion
from service.storage import rate_limit, stuck
from service.storage.engine import begin
from service.worker import create, rescue
from service.worker.runner import JOBS

SILENT = {"callbacks": {"lost": 1}}

#: Rows that are not at their end and that nobody would ever look at again. There are none at any moment.
WITHOUT_A_TIME = """
    SELECT 'a creation that is not settled and not due', name FROM creations
        WHERE state NOT IN ('answered', 'refused', 'cancelled') AND due_at IS NULL
    UNION ALL SELECT 'a creation under way whose lease has no end', name FROM creations
        WHERE state = 'calling' AND (lease_until IS NULL OR lease_token IS NULL)
    UNION ALL SELECT 'an unconfirmed creation that is looked for without end', name FROM creations
        WHERE state = 'unconfirmed' AND lookup_until IS NULL
    UNION ALL SELECT 'a VM that lives and is never read', vm_no::text FROM vms
        WHERE provider_id IS NOT NULL AND ended_at IS NULL AND next_refresh_at IS NULL
    UNION ALL SELECT 'a VM that was not made and that no creation will make', vm_no::text
        FROM vms JOIN creations USING (submission_id, creation_no)
        WHERE vms.state = 'REQUESTED' AND creations.due_at IS NULL
    UNION ALL SELECT 'a VM that is bound and was never made', vm_no::text FROM vms
        WHERE state = 'REQUESTED' AND provider_id IS NOT NULL
    UNION ALL SELECT 'a deletion that is never carried out', vm_no::text FROM vms
        WHERE desired_state = 'deleted' AND ended_at IS NULL AND delete_due_at IS NULL
    UNION ALL SELECT 'a missed contract that is never retried', vm_no::text FROM vms
        WHERE assignment = 'retrying' AND ended_at IS NULL AND contract_due_at IS NULL
    UNION ALL SELECT 'a VM whose lease has no end', vm_no::text FROM vms
        WHERE lease_token IS NOT NULL AND lease_until IS NULL
    UNION ALL SELECT 'an orphan that is not dealt with', provider_id::text FROM orphans
        WHERE state IN ('suspected', 'deleting') AND due_at IS NULL
    UNION ALL SELECT 'an event that is never applied', event_id::text FROM inbox WHERE due_at IS NULL
    UNION ALL SELECT 'an open submission without a deadline', submission_id::text FROM submissions
        WHERE state = 'open' AND deadline_at IS NULL
    UNION ALL SELECT 'a job that is never due or whose lease has no end', job FROM scheduled_jobs
        WHERE due_at IS NULL OR (lease_token IS NOT NULL AND lease_until IS NULL)
"""
#: As above, but by a time that has long passed, and that no lease reaches beyond: nobody does what is due.
OVERDUE = """
    SELECT 'creation', creation_no::text FROM creations WHERE due_at < :then
    UNION ALL SELECT 'creation lease', creation_no::text FROM creations WHERE lease_until < :then
    UNION ALL SELECT 'reading', vm_no::text FROM vms WHERE next_refresh_at < :then
    UNION ALL SELECT 'delete', vm_no::text FROM vms WHERE greatest(delete_due_at, lease_until) < :then
    UNION ALL SELECT 'contract', vm_no::text FROM vms WHERE greatest(contract_due_at, lease_until) < :then
    UNION ALL SELECT 'event', event_id::text FROM inbox WHERE due_at < :then
    UNION ALL SELECT 'orphan', provider_id::text FROM orphans WHERE due_at < :then
    UNION ALL SELECT 'submission', submission_id::text FROM submissions WHERE state = 'open' AND deadline_at < :then
    UNION ALL SELECT 'job', job FROM scheduled_jobs WHERE greatest(due_at, lease_until) < :then
"""


async def check_times(stage: Stage) -> None:
    assert await stage.sql(WITHOUT_A_TIME) == []


async def check_nothing_is_late(stage: Stage, late: float = 150) -> None:
    then = stage.world.clock.now() - timedelta(seconds=late)
    assert await stage.sql(OVERDUE, then=then) == []


MESS = {
    "create": {"lost": 0.2, "error_before": 0.1, "error_after": 0.1, "hang_after": 0.05},
    "read": {"error_before": 0.1, "cut": 0.05},
    "change": {"lost": 0.2, "error_before": 0.2},
    "callbacks": {"lost": 0.3, "repeated": 0.2, "reordered": 0.2, "nulled": 0.2, "garbage": 0.2, "unmatched": 0.2},
    "vms": {"boot_error": 0.1, "vanish": 0.1, "delete_failed": 0.2, "stuck": 0.05},
    "partial": 0.5,
    "early": 0.3,
    "late": 0.1,
    "list_lag": [0, 20],
    "no_stock": 0.2,
}


@pytest.mark.parametrize("seed", [1, 2])
async def test_at_no_moment_of_a_messy_life_is_anything_without_a_due_time(engine: AsyncEngine, seed):
    # river #1258 (field-notes.md section 1): 5,133 jobs stuck for up to 91 days.
    contract = {"id": 41, "discounts": [{"resource_name": "A100-80G-PCIe", "resource_count": 12}]}
    stage = Stage(engine, cloud={"seed": seed, "faults": MESS, "contracts": [contract]})
    policy = {
        "on_orphan": "delete",
        "on_stuck": "replace",
        "stuck_after_seconds": 200,
        "deadline_seconds": 1200,
        "retry": {"first_wait_seconds": 10, "max_wait_seconds": 40, "attempts": 5},
    }
    first = await stage.submit(count=22, contract_id=41, policy=policy)
    await stage.submit(count=3, policy=policy)
    deaths = 0
    for number in range(30):
        for order, one in enumerate(JOBS.values()):
            patience = 2 + (number + order) % 9 if (number + order) % 4 == 0 else 10_000
            with stage.killed_after(patience):
                deaths += await stage.dies_in(one(stage.rt))
            await check_times(stage)
        if number == 20:
            await deletion.cancel(stage.rt, first, caller="tests")
        await stage.wait(10)
    assert deaths > 5
    stage.misbehave()
    for _ in range(20):
        await stage.live(50, step=50)
        await check_times(stage)
        await check_nothing_is_late(stage)
    assert await stage.sql("SELECT state FROM submissions WHERE state = 'open'") == []
    assert await stage.sql("SELECT name FROM creations WHERE due_at IS NOT NULL") == []


# Stuck.


async def test_a_vm_that_is_not_ready_in_time_is_named_stuck_and_what_is_known_stays(engine: AsyncEngine):
    # terraform-provider-hyperstack (field-notes.md section 1): a deadline changes what we say, never what we know.
    stage = Stage(engine, cloud={"faults": {"vms": {"stuck": [1]}}})
    await stage.submit(count=2, policy={"stuck_after_seconds": 100})
    await stage.live(80)
    assert not (await stage.vm()).stuck
    await stage.live(60)
    slow, fine = await stage.vms()
    assert (slow.stuck, slow.state, fine.stuck, fine.ready) == (True, VmState.BUILD, False, True)
    assert "not ready after 100" in (slow.reason or "")
    assert (await stage.submission()).reasons == ["1 VM(s) not ready in time"]
    assert slow.next_refresh_at is not None
    assert len(stage.alive()) == 2


async def test_whoever_is_not_ready_when_the_deadline_passes_is_flagged_before_the_submission_ends(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stuck.flag_stuck, "__kwdefaults__", {"limit": 1})  # more than one run flags
    stage = Stage(engine, cloud={"faults": {"vms": {"stuck": [1, 2]}}})
    await stage.submit(count=2, policy={"deadline_seconds": 300, "on_stuck": "replace"})
    await stage.live(290)
    assert [vm.stuck for vm in await stage.vms()] == [False, False]
    await stage.live(60)
    assert [(vm.stuck, vm.reason) for vm in await stage.vms()] == [
        (True, "not ready before the deadline of its submission")
    ] * 2
    assert (await stage.submission()).state == "failed"
    assert len(stage.alive()) == 2


async def test_a_vm_that_fails_after_its_submission_has_ended_says_why(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"vms": {"stuck": [1]}}})
    await stage.submit(policy={"deadline_seconds": 300})
    await stage.live(400)
    assert (await stage.submission()).state == "failed"
    stage.console(stage.alive()[0], "error")
    await stage.live(400)
    failed = await stage.vm()
    assert (failed.state, failed.reason) == (VmState.ERROR, "not ready before the deadline of its submission")


async def test_a_stuck_vm_that_comes_up_after_all_is_stuck_no_more(engine: AsyncEngine):
    stage = Stage(engine, cloud={"timing": {"callback": 0, "creating": 10, "build": 300}})
    await stage.submit(policy={"stuck_after_seconds": 100})
    await stage.live(150)
    assert (await stage.vm()).stuck
    await stage.live(300)
    vm = await stage.vm()
    assert (vm.stuck, vm.ready, vm.reason) == (False, True, None)
    assert (await stage.submission()).state == "ready"


async def test_a_deadline_ends_the_submission_and_not_the_watching(engine: AsyncEngine):
    # terraform-provider-hyperstack (field-notes.md section 1): a timeout dropped the VM, which ran on and cost.
    stage = Stage(engine, cloud={"timing": {"callback": 0, "creating": 10, "build": 300}})
    await stage.submit(policy={"deadline_seconds": 100})
    await stage.live(150)
    assert ((await stage.submission()).state, await stage.states()) == ("failed", ["BUILD"])
    await stage.live(300)
    vm = await stage.vm()
    assert (vm.state, vm.ready) == (VmState.ACTIVE, True)
    assert (await stage.submission()).state == "failed"


async def test_an_error_is_an_end_and_the_submission_says_so(engine: AsyncEngine):
    # SkyPilot's hyperstack provisioner (field-notes.md section 1) waits for ever on ERROR.
    stage = Stage(engine, cloud={"faults": {"vms": {"boot_error": [1]}}})
    await stage.submit(count=2)
    await stage.live(60)
    submission = await stage.submission()
    assert (submission.state, submission.reasons) == ("failed", ["1 VM(s) in ERROR"])
    failed = await stage.vm(1)
    assert (failed.state, failed.stuck, failed.reason) == (VmState.ERROR, True, "the provider reports ERROR")


async def test_a_vm_that_is_retrying_its_contract_is_not_stuck(engine: AsyncEngine):
    contract = {"id": 41, "discounts": [{"resource_name": "A100-80G-PCIe", "resource_count": 0}]}
    stage = Stage(engine, cloud={"contracts": [contract]})
    await stage.submit(contract_id=41, policy={"stuck_after_seconds": 50})
    await stage.live(150)
    assert not (await stage.vm()).stuck


async def test_a_stuck_vm_is_replaced_where_the_policy_says_so(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"vms": {"boot_error": [1]}}})
    await stage.submit(count=2, policy={"on_stuck": "replace"})
    await stage.live(150)
    old, other, new = await stage.vms()
    assert (old.state, old.member, old.replaced_by) == (VmState.DELETED, False, 3)
    assert (other.state, new.state, new.member, new.replaces) == (VmState.ACTIVE, VmState.ACTIVE, True, 1)
    assert ((await stage.submission()).state, len(stage.alive())) == ("ready", 2)


async def test_a_place_is_refilled_at_most_three_times(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"vms": {"boot_error": 1}}})
    await stage.submit(policy={"on_stuck": "replace"})
    await stage.live(600)
    assert await stage.states() == ["DELETED"] * 3 + ["ERROR"]
    assert [vm.member for vm in await stage.vms()] == [False] * 3 + [True]
    assert ((await stage.submission()).state, stage.creates()) == ("failed", 4)


async def test_a_submission_that_failed_replaces_no_more(engine: AsyncEngine):
    stage = Stage(engine, cloud={"timing": {"callback": 0, "creating": 10, "build": 5000}})
    await stage.submit(policy={"on_stuck": "replace", "stuck_after_seconds": 300, "deadline_seconds": 100})
    await stage.live(600, step=20)
    assert ((await stage.submission()).state, stage.creates()) == ("failed", 1)


# Conclusions.


async def test_a_submission_is_ready_when_all_its_vms_are_at_once(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit(count=3, assign_floating_ip=True)
    await stage.live(20)
    assert (await stage.submission()).state == "open"
    await stage.live(40)
    submission = await stage.submission()
    assert (submission.state, submission.ended_at is not None) == ("ready", True)


async def test_a_submission_all_of_whose_vms_were_deleted_is_not_open_for_ever(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit(count=2)
    await create.run_once(stage.rt)
    for vm in await stage.vms():
        await deletion.delete(stage.rt, vm, caller="tests")
    await stage.live(120)
    assert (await stage.submission()).state in {"cancelled", "failed"}


async def test_what_cannot_be_made_before_the_deadline_is_refused_with_the_reason(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"no_stock": 1}}, retry_first_seconds=1000, retry_cap_seconds=1000)
    await stage.submit(count=25, policy={"deadline_seconds": 100})
    await create.run_once(stage.rt)
    await stage.wait(101)
    await rescue.run_once(stage.rt)
    assert set(await stage.states()) == {"REFUSED"}
    (reason,) = (await stage.submission()).reasons
    assert "not made before the deadline" in reason
    assert "Not Enough Stock" in reason


# Upkeep.


async def test_partitions_are_made_ahead_of_time_and_old_slots_forgotten(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit()
    await create.run_once(stage.rt)
    await rescue.run_once(stage.rt)
    made = {name for (name,) in await stage.sql("SELECT relname FROM pg_class WHERE relname LIKE 'events_p20%'")}
    assert {"events_p2026_08", "events_p2026_09", "events_p2026_10"} <= made
    await stage.wait(3600)
    await rescue.run_once(stage.rt)
    assert await stage.sql("SELECT count(*) FROM rate_limit_slots") == [(0,)]


async def test_a_month_is_not_made_over_the_heads_of_those_who_read(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit()
    await stage.sql("DROP TABLE events_p2026_08, events_p2026_09, events_p2026_10")
    async with engine.connect() as reader:  # as a backup does, for hours
        await reader.execute(text("LOCK TABLE events IN ACCESS SHARE MODE"))
        with pytest.raises(StorageUnavailable, match="55P03"):
            await rescue.run_once(stage.rt)
        await stage.hear(CreationRef((await stage.submission()).submission_id, 1), b"{}")  # nothing waits behind it
    await rescue.run_once(stage.rt)
    # This month's event lies in the default partition by now, and stays there; the months to come are made.
    assert await stage.sql("SELECT to_regclass('events_p2026_08') IS NULL, to_regclass('events_p2026_09') IS NULL") == [
        (True, False)
    ]


async def test_upkeep_is_done_once_an_hour_by_one_daemon(engine: AsyncEngine):
    stage = Stage(engine)
    assert await rescue.run_once(stage.rt) == 1
    assert await rescue.run_once(stage.daemon()) == 0
    await stage.wait(3601)
    assert await rescue.run_once(stage.daemon()) == 1
    assert await rescue.run_once(stage.rt) == 0


async def test_a_duty_whose_holder_died_is_done_by_another(engine: AsyncEngine):
    # procrastinate #307 (field-notes.md section 1).
    stage = Stage(engine)
    await stage.sql(
        "INSERT INTO scheduled_jobs (job, due_at, lease_token, lease_until) VALUES ('upkeep', :now, gen_random_uuid(), :until)",
        now=stage.world.clock.now(),
        until=stage.world.clock.now() + timedelta(hours=1),
    )
    assert await rescue.run_once(stage.rt) == 0
    await stage.wait(3601)
    assert await rescue.run_once(stage.rt) == 1


async def test_patience_with_newborn_vms_is_learned_from_how_long_others_took(engine: AsyncEngine):
    # karpenter #2920 (field-notes.md section 1): a fixed deadline raced a slow boot.
    stage = Stage(engine, cloud={"timing": {**STEADY, "build": 300}}, overdue_seconds=60, resync_seconds=6000)
    await stage.submit(count=12)
    await stage.live(620)
    assert await stage.states() == ["ACTIVE"] * 12
    unlearned = len(stage.calls("GET", VMS))
    assert unlearned > 0
    (measured,) = stage.rt.refresh_policy.learned.values()
    assert measured > 310
    await stage.submit(count=1)
    await stage.live(400)
    assert await stage.states() == ["ACTIVE"] * 13
    assert len(stage.calls("GET", VMS)) == unlearned


async def test_rescue_is_built_in_and_on():
    # procrastinate #307, #1408 (field-notes.md section 1).
    assert JOBS["rescue"] is rescue.run_once


async def test_slots_that_a_window_can_still_hold_are_not_forgotten(engine: AsyncEngine):
    stage = Stage(engine)
    now = stage.world.clock.now()
    async with begin(engine) as conn:
        await rate_limit.acquire(conn, stage.rt.limits, operation="read", wanted=5, now=now)
        await rate_limit.forget_old(conn, now + timedelta(seconds=30))
        assert await rate_limit.usage(conn, "default", now + timedelta(seconds=30)) == {"read": 5}


async def test_a_large_submission_is_withdrawn_in_sets_and_by_the_rescue_if_the_process_dies(
    engine: AsyncEngine, monkeypatch
):
    stage = Stage(engine)
    mine = await stage.submit(count=90)
    await stage.live(70)
    await stage.submit(name="other", count=3)
    await stage.live(70)
    monkeypatch.setattr(deletion, "_SET", 20)
    monkeypatch.setattr(deletion, "_SETS", 2)
    await deletion.cancel(stage.rt, mine, caller="tests")
    wanted = "SELECT count(*) FROM vms WHERE submission_id = :mine AND desired_state = 'present'"
    assert await stage.sql(wanted, mine=mine) == [(30,)]
    assert (await stage.sql("SELECT state FROM submissions WHERE submission_id = :mine", mine=mine)) in (
        [("ready",)], [("cancelled",)]
    )  # fmt: skip
    await rescue.run_once(stage.rt)
    assert await stage.sql(wanted, mine=mine) == [(0,)]
    assert await stage.sql("SELECT count(*) FROM submissions WHERE withdraw_due_at IS NOT NULL") == [(0,)]
    assert await stage.sql("SELECT DISTINCT deletion_reason FROM vms WHERE submission_id = :mine", mine=mine) == [
        ("submission cancelled by tests",)
    ]
    await stage.live(300, step=20)
    assert len(stage.alive()) == 3


async def test_a_cancel_that_died_is_finished_after_a_minute(engine: AsyncEngine, monkeypatch):
    stage = Stage(engine)
    mine = await stage.submit(count=30)
    await stage.live(70)
    monkeypatch.setattr(deletion, "_SET", 10)
    with stage.killed_after(2):
        assert await stage.dies_in(deletion.cancel(stage.rt, mine, caller="tests"))
    await stage.live(100)
    assert await stage.sql("SELECT count(*) FROM vms WHERE desired_state = 'present'") == [(0,)]

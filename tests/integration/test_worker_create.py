"""Sending creations: each answer, refusal and silence leads where it should, and never to a second VM."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import VMS, Stage, refusal

from service.core.lifecycle import VmState
from service.core.ownership import callback_url, creation_label
from service.errors import LeaseLost
from service.provider.wire import HttpResponse
from service.storage import creations
from service.storage.engine import begin
from service.worker import apply, create, health, orphan, refresh, rescue


async def test_an_answer_binds_the_vms_in_order(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit(count=3)
    assert await create.run_once(stage.rt) == 1
    found = await stage.vms()
    assert [vm.state for vm in found] == [VmState.CREATING] * 3
    assert [vm.provider_id for vm in found] == stage.alive()
    creation = await stage.creation()
    assert (creation.state, creation.attempt, creation.due_at, creation.lease_token) == ("answered", 1, None, None)
    assert await create.run_once(stage.rt) == 0


async def test_the_call_carries_all_three_marks_and_the_users_own_labels(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit(labels=["mine"])
    await create.run_once(stage.rt)
    (made,), creation = stage.truth(), await stage.creation()
    assert made["labels"] == ["mine", creation_label(creation.ref)]
    assert made["callback_url"] == callback_url(
        "https://rollcall.example.com", creation.ref, stage.rt.callback_secrets[0]
    )
    assert made["name"] == creation.name
    assert len(made["callback_url"]) <= 250


async def test_a_call_is_on_record_before_it_is_made_and_its_end_after(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit(count=2)
    await create.run_once(stage.rt)
    assert await stage.sql("SELECT operation, creation_no, attempt FROM calls") == [("create", 1, 1)]
    assert await stage.sql("SELECT outcome, status_code FROM call_ends") == [("ok", 200)]


async def test_no_secret_of_ours_is_in_the_kept_answer(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit()
    await create.run_once(stage.rt)
    token = stage.truth()[0]["callback_url"].rpartition("/")[2]
    kept = str((await stage.creation()).answer)
    assert token[:38] in kept
    assert token[38:] not in kept


async def test_creations_are_sent_a_few_at_a_time(engine: AsyncEngine):
    stage = Stage(engine, create_concurrency=2)
    await stage.submit(count=100)
    assert [await create.run_once(stage.rt) for _ in range(4)] == [2, 2, 1, 0]
    assert len(stage.alive()) == 100


# Refusals: told apart by what to do next.


async def ended_as_refused(stage: Stage, why: str) -> None:
    await create.run_once(stage.rt)
    await rescue.run_once(stage.rt)
    submission, creation = await stage.submission(), await stage.creation()
    assert creation.state == "refused"
    assert [vm.state for vm in await stage.vms()] == [VmState.REFUSED] * 2
    assert all(why in (vm.reason or "") for vm in await stage.vms())
    assert (submission.state, len(submission.reasons)) == ("failed", 1)
    assert why in submission.reasons[0]
    assert stage.alive() == []
    await stage.live(300, step=60)
    assert stage.creates() + len(stage.between.prepared.get("POST", [])) <= 1


async def test_a_flavor_that_nobody_knows_ends_it_with_the_providers_words(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit(count=2, flavor_name="n9-unheard-of")
    await ended_as_refused(stage, "Flavor n9-unheard-of not found")


async def test_want_of_balance_ends_it(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"no_balance": [1]}})
    await stage.submit(count=2)
    await ended_as_refused(stage, "Insufficient balance")


@pytest.mark.parametrize(
    ("status", "reason"), [(403, "forbidden"), (400, "bad_request"), (422, None), (405, "not_allowed")]
)
async def test_what_repeating_would_not_mend_ends_it(engine: AsyncEngine, status, reason):
    stage = Stage(engine)
    stage.between.prepared["POST"] = [refusal(status, "You shall not", reason)]
    await stage.submit(count=2)
    await ended_as_refused(stage, "You shall not")


async def test_want_of_stock_waits_and_tries_again(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"no_stock": [1, 2]}})
    await stage.submit(count=2)
    await create.run_once(stage.rt)
    waiting = await stage.creation()
    assert (waiting.state, waiting.attempt) == ("due", 1)
    assert "Not Enough Stock" in (waiting.reason or "")
    assert waiting.due_at is not None
    assert waiting.due_at > stage.world.clock.now()
    await stage.live(30)
    assert (await stage.creation()).attempt == 3
    assert len(stage.alive()) == 2


async def test_want_of_stock_ends_at_the_deadline_and_says_so(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"no_stock": 1}})
    await stage.submit(count=2, policy={"deadline_seconds": 60})
    await stage.live(90)
    assert (await stage.creation()).state == "refused"
    assert await stage.states() == ["REFUSED", "REFUSED"]
    submission = await stage.submission()
    assert submission.state == "failed"
    assert any("Not Enough Stock" in reason for reason in submission.reasons)


async def test_a_rejected_key_stops_sending_says_so_and_heals_when_it_is_replaced(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"unauthorized": [1, 2]}}, create_concurrency=1)
    await stage.submit(count=60)
    await create.run_once(stage.rt)
    assert "provider key" in stage.rt.health.issues
    assert (await stage.creation()).state == "due"
    await stage.until(lambda: has(stage, 60))
    assert "provider key" not in stage.rt.health.issues


async def has(stage: Stage, count: int) -> bool:
    return len(stage.alive()) == count


async def test_with_a_rejected_key_one_creation_at_a_time_goes_on_knocking(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"unauthorized": 1}})
    await stage.submit(count=100)
    await create.run_once(stage.rt)
    assert stage.creates() == 5
    await stage.wait(stage.rt.settings.retry_cap_seconds)
    assert await create.run_once(stage.rt) == 1


async def test_a_rate_limit_is_waited_out_and_then_it_is_sent(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"create": {"limited": [1]}}})
    await stage.submit()
    await create.run_once(stage.rt)
    assert (await stage.creation()).state == "due"
    await stage.live(90)
    assert len(stage.alive()) == 1


# Silence: looked for, adopted by any mark, and only what stays away is sent again.


@pytest.mark.parametrize("fault", ["lost", "hang_after", "error_after", "unreadable"])
async def test_a_lost_answer_is_looked_for_and_never_becomes_a_second_vm(engine: AsyncEngine, fault):
    # karpenter-provider-hetzner #61, karpenter #1448, basilica's client timeouts (field-notes.md section 1).
    stage = Stage(engine, cloud={"faults": {"create": {fault: [1]}}})
    await stage.submit(count=3)
    await create.run_once(stage.rt)
    creation = await stage.creation()
    assert creation.state == "unconfirmed"
    assert creation.due_at is not None
    await stage.wait(5)
    await refresh.run_once(stage.rt)
    assert (await stage.creation()).state == "answered"
    assert [vm.provider_id for vm in await stage.vms()] == stage.alive()
    await stage.live(120)
    assert (len(stage.alive()), stage.creates()) == (3, 1)


@pytest.mark.parametrize("fault", ["cut", "hang_before", "error_before"])
async def test_what_was_never_done_is_sent_again_after_the_quiet_time(engine: AsyncEngine, fault):
    stage = Stage(engine, cloud={"faults": {"create": {fault: [1]}}})
    await stage.submit(count=3)
    await stage.live(50)
    assert ((await stage.creation()).state, stage.creates()) == ("unconfirmed", 1)
    await stage.live(130)
    creation = await stage.creation()
    assert (creation.state, creation.attempt) == ("answered", 2)
    assert (len(stage.alive()), stage.creates()) == (3, 2)


MARKS = ["callback_url", "labels", "name"]


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("pattern", ["{name}-{i}", "{i}-{name}"])
async def test_one_mark_alone_is_enough_to_adopt(engine: AsyncEngine, mark, pattern):
    # karpenter-provider-hetzner #61, skypilot #4392 (field-notes.md section 1).
    stage = Stage(
        engine, cloud={"faults": {"create": {"lost": [1]}, "callbacks": {"lost": 1}}, "name_pattern": pattern}
    )
    await stage.submit(count=2)
    await create.run_once(stage.rt)
    for number, made in enumerate(stage.alive()):
        vm = stage.real(made)
        vm.callback_url = vm.callback_url.lower() if mark == "callback_url" else None
        vm.labels = vm.labels if mark == "labels" else []
        vm.name = vm.name.upper() if mark == "name" else f"renamed-{number}"
    await stage.live(150)
    assert (await stage.creation()).state == "answered"
    assert [vm.provider_id for vm in await stage.vms()] == stage.alive()
    assert await stage.states() == ["ACTIVE", "ACTIVE"]
    assert (len(stage.alive()), stage.creates()) == (2, 1)


async def test_a_vm_that_lost_every_mark_is_reported_and_not_taken_on_the_word_of_a_callback(engine: AsyncEngine):
    # Whoever learned the URL can name any VM on it.
    stage = Stage(engine, cloud={"faults": {"create": {"lost": [1]}}})
    await stage.submit(policy={"on_orphan": "delete"})
    await create.run_once(stage.rt)
    await stage.wait(1)
    (made,) = stage.alive()
    vm = stage.real(made)
    vm.callback_url, vm.labels, vm.name, vm.base_name = None, [], "renamed", "renamed"
    await stage.live(150)
    assert ((await stage.vm()).provider_id != made, stage.creates(), len(stage.alive())) == (True, 2, 2)
    assert [(one.provider_id, one.state) for one in await stage.orphans()] == [(made, "found")]


async def test_early_callbacks_wait_for_the_answer_and_bind(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"early": [1]}})
    await stage.submit(count=2)
    await stage.wait(1)
    await create.run_once(stage.rt)
    assert await apply.run_once(stage.rt) == 2
    assert await stage.sql("SELECT count(*) FROM inbox") == [(0,)]
    assert await stage.sql("SELECT count(*) FROM dead_letters") == [(0,)]
    assert await stage.states() == ["CREATING", "CREATING"]


async def test_callbacks_of_an_unconfirmed_creation_are_parked_and_bind_when_it_is_found(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"create": {"lost": [1]}}})
    await stage.submit(count=2)
    await create.run_once(stage.rt)
    await stage.wait(1)
    await apply.run_once(stage.rt)
    assert await stage.sql("SELECT count(*) FROM inbox") == [(2,)]
    assert await stage.states() == ["REQUESTED", "REQUESTED"]
    await stage.wait(4)
    await refresh.run_once(stage.rt)
    assert await stage.states() == ["CREATING", "CREATING"]
    await apply.run_once(stage.rt)
    assert await stage.sql("SELECT count(*) FROM inbox") == [(0,)]
    assert await stage.sql("SELECT count(*) FROM dead_letters") == [(0,)]


async def test_a_list_that_lags_behind_the_create_is_looked_at_again(engine: AsyncEngine):
    # skypilot #4431, #4392 (field-notes.md section 1): the row was deleted, the VM lived.
    stage = Stage(engine, cloud={"faults": {"create": {"lost": [1]}, "list_lag": 30, "callbacks": {"lost": 1}}})
    await stage.submit(count=2)
    await create.run_once(stage.rt)
    await stage.live(20, job_runs=(refresh, rescue, create))
    assert (await stage.creation()).state == "unconfirmed"
    await stage.live(60)
    assert (await stage.creation()).state == "answered"
    assert (len(stage.alive()), stage.creates()) == (2, 1)


async def test_a_name_that_is_taken_means_that_an_earlier_attempt_went_through(engine: AsyncEngine):
    # No mark is shown in any list until long after the quiet time, so the creation is sent again, and refused with 409.
    stage = Stage(
        engine,
        cloud={"unique_names": True, "faults": {"create": {"lost": [1]}, "list_lag": 150, "callbacks": {"lost": 1}}},
    )
    await stage.submit()
    await stage.until(lambda: sent(stage, 2))
    creation = await stage.creation()
    assert (creation.state, creation.attempt) == ("unconfirmed", 2)
    assert "taken" in (creation.reason or "")
    await stage.live(200)
    assert [vm.provider_id for vm in await stage.vms()] == stage.alive()
    assert len(stage.alive()) == 1
    assert await stage.orphans() == []


@pytest.mark.parametrize("status", [400, 409])
async def test_a_taken_name_is_never_sent_again_and_its_vms_are_found_however_long_they_stay_hidden(
    engine: AsyncEngine, status
):
    # freesolo-co/flash: "This name is not available" came with 400; five VMs that nobody knew (failures B2).
    stage = Stage(
        engine,
        cloud={"unique_names": True, "faults": {"create": {"lost": [1]}, "list_lag": 900, "callbacks": {"lost": 1}}},
    )
    await stage.submit(count=5)
    await stage.until(lambda: sent(stage, 1))
    made = stage.alive()
    stage.between.prepared["POST"] = [refusal(status, "This name is not available", "bad_request")] * 50
    await stage.live(800, step=20)
    creation = await stage.creation()
    assert (creation.state, creation.attempt, creation.name_taken) == ("unconfirmed", 2, True)
    assert await stage.states() == ["REQUESTED"] * 5
    assert len(stage.between.prepared["POST"]) == 49
    await stage.live(400, step=20)
    assert [vm.provider_id for vm in await stage.vms()] == made == stage.alive()


async def test_a_taken_name_of_which_nothing_is_found_is_a_health_issue_with_its_reason(engine: AsyncEngine):
    stage = Stage(engine, creation_overdue_seconds=600)
    stage.between.prepared["POST"] = [refusal(400, "This name is not available", "bad_request")]
    await stage.submit(policy={"deadline_seconds": 300})
    stage.between.inner = NameTaken(stage.between.inner)
    await stage.live(700, step=20)
    await health.run_once(stage.rt)
    assert "This name is not available" in stage.rt.health.issues["creation unconfirmed"]
    sent_times = sum(one.startswith("POST") for one in stage.between.asked)
    assert (sent_times, stage.alive(), (await stage.creation()).state) == (1, [], "unconfirmed")


class NameTaken:
    """A transport to a provider that says of every name that it is taken."""

    def __init__(self, inner) -> None:
        self.inner = inner

    async def send(self, method, url, headers, body, within):
        if "name-availability" in url:
            content = b'{"name": "x", "available": false, "message": "This name is not available"}'
            return HttpResponse(status=200, headers={}, body=content)
        return await self.inner.send(method, url, headers, body, within)


async def test_a_name_that_was_taken_and_is_free_again_is_not_used_again(engine: AsyncEngine):
    stage = Stage(engine)
    stage.between.prepared["POST"] = [refusal(400, "This name is not available", "bad_request")]
    await stage.submit(count=2)
    await stage.live(300)
    first, second = await stage.creations()
    assert (first.attempt, second.state) == (1, "answered")
    assert first.name != second.name
    assert await stage.states() == ["ACTIVE", "ACTIVE"]


async def test_in_fair_weather_a_plain_500_costs_about_a_minute_and_not_the_whole_window(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"create": {"error_before": [1]}}}, lookup_window_seconds=300)
    await stage.submit(name="first")
    await create.run_once(stage.rt)
    await stage.wait(5)
    await stage.submit(name="second")
    await stage.live(50, step=5)
    assert (await stage.creation()).state == "unconfirmed"
    await stage.live(60, step=5)
    assert [one.state for one in await stage.creations()] == ["answered", "answered"]
    assert len(stage.alive()) == 2


async def sent(stage: Stage, times: int) -> bool:
    return stage.creates() == times


# Fewer and more than asked for.


async def test_partial_fulfilment_is_topped_up_by_a_further_creation(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"partial": [1]}})
    await stage.submit(count=20)
    await create.run_once(stage.rt)
    made = len(stage.alive())
    assert 0 < made < 20
    assert (await stage.creation(2)).vm_count == 20 - made
    assert (await stage.creation(1)).state == "answered"
    await stage.live(60)
    assert (len(stage.alive()), stage.creates()) == (20, 2)
    assert [vm.provider_id for vm in await stage.vms()] == stage.alive()
    assert (await stage.submission()).state == "ready"


async def test_partial_fulfilment_whose_answer_was_lost_is_topped_up_after_the_quiet_time(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"partial": [1], "create": {"lost": [1]}}})
    await stage.submit(count=20)
    await stage.live(50)
    assert (await stage.creation()).state == "unconfirmed"
    bound = sum(vm.provider_id is not None for vm in await stage.vms())
    assert bound == len(stage.alive())
    await stage.live(150)
    assert (len(stage.alive()), stage.creates()) == (20, 2)


@pytest.mark.parametrize(
    ("policy", "state", "alive"), [("report", "found", 2), ("delete", "gone", 1), ("adopt", "found", 2)]
)
async def test_a_call_that_is_fulfilled_after_it_was_sent_again_is_an_orphan(engine: AsyncEngine, policy, state, alive):
    stage = Stage(engine, cloud={"faults": {"late": [1], "late_after": 150}})
    await stage.submit(policy={"on_orphan": policy})
    await stage.until(lambda: has(stage, 2))
    await stage.live(800, step=20)
    (vm,), (lost,) = await stage.vms(), await stage.orphans()
    assert vm.provider_id is not None
    assert lost.provider_id != vm.provider_id
    assert lost.state == state
    assert len(stage.alive()) == alive
    assert (lost.due_at is None) == (lost.state not in {"suspected", "deleting"})
    reasons = (await stage.submission()).reasons
    assert any("orphan" in reason for reason in reasons) == (policy != "delete")


@pytest.mark.parametrize("faults", [{}, {"callbacks": {"lost": 1}}], ids=["told by a callback", "seen in a list"])
async def test_a_vm_that_comes_late_is_bound_where_its_creation_waits_to_be_sent_again(engine: AsyncEngine, faults):
    # The first attempt was taken for dead, those after it find no stock; then the first is fulfilled after all.
    stage = Stage(
        engine,
        cloud={"faults": {"late": [1], "late_after": 150, "no_stock": [2, 3, 4, 5, 6, 7, 8, 9], **faults}},
        resync_seconds=20,
    )
    await stage.submit(count=2)
    await stage.until(lambda: has(stage, 2))
    assert (await stage.creation()).state == "due"
    await stage.live(200)
    assert [vm.provider_id for vm in await stage.vms()] == stage.alive()
    assert {one.state for one in await stage.orphans()} <= {"adopted"}
    assert (await stage.creation()).state == "answered"
    assert (await stage.submission()).state == "ready"


async def test_a_stranger_on_the_url_of_a_creation_that_waits_does_not_hold_it_up(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"no_stock": [1]}})
    await stage.submit()
    await create.run_once(stage.rt)
    ref = (await stage.creation()).ref
    await stage.hear(ref, b'{"resource": {"id": 987654}, "data": {"status": "ACTIVE"}}')
    await stage.live(120)
    assert await stage.states() == ["ACTIVE"]
    assert [one.state for one in await stage.orphans()] == ["gone"]


async def test_an_orphan_is_adopted_where_a_vm_still_waits_to_be_sent(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"late": [1], "late_after": 150}})
    await stage.submit(count=21, policy={"on_orphan": "adopt"})
    await stage.sql("UPDATE creations SET due_at = due_at + interval '1 hour' WHERE creation_no = 2")
    await stage.until(lambda: has(stage, 40))
    await stage.live(60, step=10)
    found, lost = await stage.vms(), await stage.orphans()
    assert {vm.provider_id for vm in found} | {one.provider_id for one in lost} == set(stage.alive())
    assert sorted(one.state for one in lost) == ["adopted"] + ["found"] * 19
    assert [vm.state for vm in found] == [VmState.ACTIVE] * 21
    assert (await stage.creation(2)).state == "cancelled"
    assert (await stage.submission()).state == "ready"
    assert stage.creates() == 2


# Leases: whoever lost one changes nothing.


async def test_a_late_settle_with_an_old_lease_token_changes_no_row(engine: AsyncEngine):
    # river #1302, #1373 (field-notes.md section 1): a rescuer overwrote completed jobs from a stale snapshot.
    stage = Stage(engine)
    await stage.submit()
    now, token = stage.world.clock.now(), stage.rt.uuid()
    async with begin(engine) as conn:
        (leased,) = await creations.claim_due(conn, now=now, lease=timedelta(seconds=60), token=token, limit=5)
    async with begin(engine) as conn:
        await creations.rescue_expired(conn, now=now + timedelta(seconds=61), window=timedelta(seconds=60))
    before = await stage.creation()
    with pytest.raises(LeaseLost):
        async with begin(engine) as conn:
            await creations.complete_if_leased(conn, leased.creation.ref, token, **creations.answered(now, {}))
    assert await stage.creation() == before
    assert before.state == "unconfirmed"


async def test_a_daemon_that_was_taken_for_dead_and_answers_late_binds_nothing_twice(engine: AsyncEngine):
    # river #1302, #1373 (field-notes.md section 1).
    stage = Stage(engine)
    await stage.submit(count=2)
    slow, between = stage.rt, stage.between
    between.held = asyncio.Event()
    sending = asyncio.create_task(create.run_once(slow))
    await between.reached.wait()
    stage.rt = stage.daemon()
    await stage.wait(130)
    await rescue.run_once(stage.rt)
    assert (await stage.creation()).state == "unconfirmed"
    await refresh.run_once(stage.rt)
    settled, bound = await stage.creation(), await stage.vms()
    assert settled.state == "answered"
    between.held.set()
    await sending
    assert (await stage.creation(), await stage.vms()) == (settled, bound)
    assert [vm.provider_id for vm in bound] == stage.alive()
    ended = await stage.sql(
        "SELECT outcome FROM calls JOIN call_ends USING (submission_id, call_id) WHERE operation = 'create'"
    )
    assert ended == [("ok",)]


async def test_two_daemons_at_once_send_each_creation_once(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit(count=200)
    daemons = [stage.rt, stage.daemon(), stage.daemon()]
    for _ in range(3):
        await asyncio.gather(*(create.run_once(rt) for rt in daemons))
    assert (len(stage.alive()), stage.creates()) == (200, 10)
    assert sorted(vm.provider_id for vm in await stage.vms()) == stage.alive()


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
async def test_a_process_that_is_killed_at_any_step_of_sending_makes_no_second_vm(engine: AsyncEngine, steps):
    # karpenter #1448, dstack #3453 (field-notes.md section 1): killed after create returned, before it was recorded.
    stage = Stage(engine)
    await stage.submit(count=2)
    with stage.killed_after(steps):
        died = await stage.dies_in(create.run_once(stage.rt))
    assert died
    await stage.live(400, step=10)
    assert len(stage.alive()) == 2
    assert [vm.provider_id for vm in await stage.vms()] == stage.alive()
    assert (await stage.submission()).state == "ready"


async def test_killed_again_and_again_during_recovery_it_still_comes_to_one_vm_each(engine: AsyncEngine):
    # dbos-transact-py #716, #805 (field-notes.md section 1): a restart during recovery stranded work for good.
    stage = Stage(engine, cloud={"faults": {"create": {"lost": [1, 2]}}})
    await stage.submit(count=23)
    deaths = 0
    for steps in range(1, 30):
        for one in (create, rescue, refresh, apply, orphan):
            with stage.killed_after(1 + steps % 7):
                deaths += await stage.dies_in(one.run_once(stage.rt))
        await stage.wait(10)
    assert deaths > 15
    await stage.live(500, step=20)
    assert len(stage.alive()) == 23
    assert sorted(vm.provider_id or 0 for vm in await stage.vms()) == stage.alive()
    assert (await stage.submission()).state == "ready"


async def test_an_expired_lease_is_rescued_without_anybodys_doing(engine: AsyncEngine):
    # procrastinate #307, #1408 (field-notes.md section 1): stalled jobs stayed unless the user scheduled a rescuer.
    stage = Stage(engine)
    await stage.submit()
    async with begin(engine) as conn:
        lease = timedelta(seconds=60)
        await creations.claim_due(conn, now=stage.world.clock.now(), lease=lease, token=stage.rt.uuid(), limit=5)
    await stage.live(250, step=10)
    assert (len(stage.alive()), (await stage.submission()).state) == (1, "ready")


async def test_what_is_sent_is_the_same_at_every_attempt(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"create": {"error_before": [1]}}})
    await stage.submit(count=2, labels=["mine"])
    await stage.live(150, step=10)
    bodies = [
        one.call.request.body
        for one in stage.world.cloud.log
        if one.call.request.path == VMS and one.call.request.method == "POST"
    ]
    assert len(bodies) == 2
    assert bodies[0] == bodies[1]

"""Creations in doubt: what is not theirs is not taken for theirs, and what nobody wants any more is not sent again."""

import asyncio
from dataclasses import replace

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage

from service.core.token import CreationRef
from service.operations import deletion, listing, lookup
from service.storage import creations, submissions
from service.worker import apply, create, delete, orphan, refresh, rescue


async def test_a_vm_of_another_submission_is_not_bound_because_a_callback_names_it(engine: AsyncEngine):
    stage = Stage(engine)
    other = await stage.submit()
    await stage.live(70)
    (theirs,) = stage.alive()
    stage.misbehave(create={"hang_before": [1]})
    mine = await stage.submit()
    await create.run_once(stage.rt)
    await stage.hear(CreationRef(mine, 1), b'{"resource": {"id": %d}, "data": {"status": "ACTIVE"}}' % theirs)
    await stage.live(200)
    found = {vm.submission_id: vm.provider_id for vm in await stage.vms()}
    assert found[other] == theirs
    assert set(found.values()) == set(stage.alive())
    assert len(stage.alive()) == 2


async def test_a_found_vm_with_an_unknown_status_is_not_asked_for_again(engine: AsyncEngine):
    unknown = {"unknown_status": 1, "unknown_after": [0, 0], "unknown_seconds": [400, 400]}
    faults = {"create": {"lost": [1]}, "partial": [1], "vms": unknown}
    stage = Stage(engine, cloud={"faults": faults})
    await stage.submit(count=4)
    await create.run_once(stage.rt)
    found = set(stage.alive())
    assert 0 < len(found) < 4
    await stage.live(300)
    assert [one.vm_count for one in await stage.creations()] == [4, 4 - len(found)]
    assert found <= {vm.provider_id for vm in await stage.vms()} == set(stage.alive())
    assert len(stage.alive()) == 4


async def test_a_name_that_is_taken_by_some_of_a_creations_vms_does_not_keep_it_from_the_rest(engine: AsyncEngine):
    faults = {"create": {"lost": [1]}, "partial": [1], "callbacks": {"lost": 1}, "list_lag": [100, 100]}
    stage = Stage(engine, cloud={"unique_names": True, "name_pattern": "{name}", "faults": faults})
    await stage.submit(count=4)
    await create.run_once(stage.rt)
    made = len(stage.alive())
    assert 0 < made < 4
    await stage.live(90)
    assert (await stage.creation()).name_taken
    stage.misbehave(list_lag=[100, 100])
    await stage.live(300)
    assert [(one.state, one.vm_count) for one in await stage.creations()] == [("answered", 4), ("answered", 4 - made)]
    assert {vm.provider_id for vm in await stage.vms()} == set(stage.alive())
    assert len(stage.alive()) == 4


async def test_a_machine_that_slept_does_not_send_what_it_leased_before(engine: AsyncEngine, monkeypatch):
    stage = Stage(engine)
    await stage.submit(count=3)
    sound = create._body

    def after_a_sleep(*args):
        monkeypatch.setattr(create, "_body", sound)
        stage.world.clock.advance(90)
        return sound(*args)

    monkeypatch.setattr(create, "_body", after_a_sleep)
    await create.run_once(stage.rt)
    assert (stage.creates(), (await stage.creation()).state) == (0, "due")
    assert await stage.sql("SELECT outcome FROM call_ends") == [("try_later",)]
    await stage.live(120)
    assert (len(stage.alive()), stage.creates()) == (3, 1)


async def test_what_everybody_wished_away_is_not_sent_again(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"create": {"hang_before": [1]}}})
    await stage.submit(count=2)
    await create.run_once(stage.rt)
    for vm in await stage.vms():
        await deletion.delete(stage.rt, vm, caller="tests")
    await stage.live(200, step=1, job_runs=(apply, delete, rescue, orphan, refresh, create))
    assert (stage.creates(), stage.alive()) == (1, [])
    assert await stage.states() == ["CANCELLED", "CANCELLED"]
    assert (await stage.creation()).state == "cancelled"


async def test_a_creation_is_sent_again_even_where_no_list_ever_adds_up(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"create": {"hang_before": [1]}}})
    sound = stage.between.inner

    class Miscounting:
        async def send(self, method, url, *rest):
            answer = await sound.send(method, url, *rest)
            if method == "GET" and "?" in url:
                content = orjson.loads(answer.body)
                answer = replace(answer, body=orjson.dumps(content | {"count": content["count"] + 1}))
            return answer

    stage.between.inner = Miscounting()
    await stage.submit()
    await stage.live(150)
    assert (await stage.creation()).state == "unconfirmed"
    await stage.live(250)
    assert (await stage.states(), stage.creates()) == (["ACTIVE"], 2)


async def test_a_vm_that_the_last_list_skips_is_searched_for_before_another_is_requested(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"create": {"lost": 1}, "callbacks": {"lost": 1}}})
    await stage.submit(count=3)
    await stage.live(1, step=1, job_runs=(create,))
    creation = await stage.creation()
    assert creation.state == "unconfirmed"
    stage.world.clock.advance(600)
    seen = await listing.read(stage.rt)
    # Pages shifted while they were read, or its tags were garbled.
    seen.vms.popitem()
    await lookup.lookup_in_list(stage.rt, [creation], replace(seen, tags=await listing.tags_of(stage.rt, seen.vms)))
    assert [vm.provider_id for vm in await stage.vms()] == [vm["id"] for vm in stage.truth()]
    assert [one.state for one in await stage.creations()] == ["answered"]


async def test_cancelling_sees_substitutes_that_were_asked_for_meanwhile(engine: AsyncEngine, monkeypatch):
    stage = Stage(engine, cloud={"faults": {"vms": {"boot_error": [1]}}})
    cancelled = await stage.submit(policy={"on_stuck": "replace"})
    await stage.live(40, job_runs=(apply, create, refresh))
    assert await stage.states() == ["ERROR"]
    sound = creations.cancel_due

    async def with_another_daemon(conn, submission_id, *, now):
        monkeypatch.setattr(creations, "cancel_due", sound)
        done = await sound(conn, submission_id, now=now)
        await rescue.run_once(stage.daemon())
        return done

    monkeypatch.setattr(creations, "cancel_due", with_another_daemon)
    await deletion.cancel(stage.rt, cancelled, caller="tests")
    assert len(await stage.vms()) == 2
    await stage.live(100)
    assert (await stage.states(), stage.creates()) == (["DELETED", "CANCELLED"], 1)
    assert [one.due_at for one in await stage.creations()] == [None, None]


async def test_what_will_not_be_sent_spends_no_budget(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit()
    await stage.sql("UPDATE submissions SET state = 'cancelled', ended_at = created_at")
    for _ in range(5):
        assert await create.run_once(stage.rt) == 0
    assert await stage.sql("SELECT count(*) FROM rate_limit_slots") == [(0,)]


async def test_cancelling_ends_the_vms_of_a_creation_that_came_back_meanwhile(engine: AsyncEngine, monkeypatch):
    stage = Stage(engine, cloud={"faults": {"no_stock": [1]}})
    cancelled = await stage.submit(count=3)
    stage.between.held = asyncio.Event()
    sending = asyncio.ensure_future(create.run_once(stage.rt))
    await stage.between.reached.wait()
    sound = submissions.cancel

    async def when_it_was_refused(*args, **kwargs):
        stage.between.held.set()
        await sending
        return await sound(*args, **kwargs)

    monkeypatch.setattr(submissions, "cancel", when_it_was_refused)
    await deletion.cancel(stage.rt, cancelled, caller="tests")
    assert await stage.states() == ["CANCELLED"] * 3
    assert (await stage.creation()).state == "cancelled"
    await stage.live(60)
    assert stage.alive() == []


async def test_a_vm_left_in_a_creation_that_was_withdrawn_is_ended_by_its_wish(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit(count=2)
    now = stage.world.clock.now()
    await stage.sql("UPDATE creations SET state = 'cancelled', due_at = NULL, completed_at = :now", now=now)
    await deletion.delete(stage.rt, await stage.vm(2), caller="tests")
    await stage.live(30)
    assert (await stage.vm(2)).state == "CANCELLED"

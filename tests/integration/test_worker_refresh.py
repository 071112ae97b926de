"""Readings: few calls, nothing concluded from too little, and everything noticed that nobody told us of."""

import asyncio
from collections import Counter
from dataclasses import replace

import orjson
import pytest
from msgspec import structs
from simulated import STEADY
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage, refusal

from service.core.lifecycle import VmState
from service.operations import deletion, listing, lookup
from service.provider.wire import HttpResponse
from service.worker import apply, create, refresh

SILENT = {"callbacks": {"lost": 1}}


async def running(engine: AsyncEngine, count: int = 1, *, cloud: dict | None = None, **settings) -> Stage:
    """A stage on which VMs are ACTIVE, and the first sweep is over."""
    stage = Stage(engine, cloud=cloud, **settings)
    await stage.submit(count=count)
    await stage.live(70)
    assert await stage.states() == ["ACTIVE"] * count
    return stage


def reads(stage: Stage) -> tuple[int, int]:
    """How many list pages and how many single VMs were read."""
    lists = stage.calls("GET", "/core/virtual-machines?")
    return len(lists), len(stage.calls("GET", "/core/virtual-machines/"))


async def test_without_any_callback_readings_bring_the_fleet_to_ready(engine: AsyncEngine):
    # infrahub-api.md section 1.1: lost callbacks delay and never strand.
    stage = Stage(engine, cloud={"faults": SILENT})
    await stage.submit(count=30, assign_floating_ip=True)
    await stage.live(300)
    assert all(vm.ready and vm.floating_ip for vm in await stage.vms())
    assert (await stage.submission()).state == "ready"


async def test_many_due_vms_cost_one_list_and_no_single_reading(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": SILENT})
    await stage.submit(count=60)
    await create.run_once(stage.rt)
    await refresh.run_once(stage.rt)
    before = reads(stage)
    await stage.wait(125)
    assert await refresh.run_once(stage.rt) > 60
    assert (reads(stage)[0] - before[0], reads(stage)[1]) == (1, 0)
    assert await stage.states() == ["ACTIVE"] * 60


async def test_one_due_vm_among_many_is_read_alone(engine: AsyncEngine):
    stage = await running(engine, 60)
    await stage.sql("UPDATE vms SET next_refresh_at = :now WHERE vm_no = 7", now=stage.world.clock.now())
    before = reads(stage)
    assert await refresh.run_once(stage.rt) == 1
    assert reads(stage) == (before[0], before[1] + 1)


async def test_a_fleet_at_rest_costs_nothing_but_the_sweep(engine: AsyncEngine):
    stage = await running(engine, 20)
    before = reads(stage)
    await stage.live(500, step=20, job_runs=(refresh, apply))
    assert reads(stage) == before
    await stage.live(200, step=20, job_runs=(refresh, apply))
    assert reads(stage)[0] > before[0]


async def test_a_list_of_many_pages_is_read_to_its_end(engine: AsyncEngine):
    stage = await running(engine, 45, cloud={"max_page_size": 10})
    seen = await listing.read(stage.rt)
    assert seen is not None
    assert sorted(seen.vms) == stage.alive()
    assert seen.complete


@pytest.mark.parametrize("means", ["total", "page"])
async def test_what_count_means_does_not_matter(engine: AsyncEngine, means):
    stage = await running(engine, 45, cloud={"max_page_size": 10, "count_means": means})
    seen = await listing.read(stage.rt)
    assert seen is not None
    assert sorted(seen.vms) == stage.alive()


async def test_a_list_that_breaks_off_in_the_middle_is_no_list(engine: AsyncEngine):
    stage = await running(engine, 25, cloud={"max_page_size": 10})
    stage.misbehave(read={"error_before": [2]})
    assert await listing.read(stage.rt) is None
    assert await stage.states() == ["ACTIVE"] * 25


# Out of band.


async def test_a_vm_that_vanished_is_lost_and_the_reason_says_so(engine: AsyncEngine):
    # basilica (field-notes.md section 1): callbacks switched polling off, then VMs removed out of band were missed.
    stage = await running(engine, 2)
    stage.console(stage.alive()[0], "vanish")
    await stage.live(700, step=50)
    lost, other = await stage.vms()
    assert (lost.state, lost.ready, other.state) == (VmState.LOST, False, VmState.ACTIVE)
    assert "nobody is known to have deleted it" in (lost.reason or "")
    assert lost.ended_at is None
    assert lost.next_refresh_at is not None


async def test_a_deletion_in_the_console_that_is_told_of_ends_as_deleted(engine: AsyncEngine):
    stage = await running(engine, 2)
    stage.console(stage.alive()[0], "delete", silent=False)
    await stage.live(100)
    gone, other = await stage.vms()
    assert (gone.state, gone.desired_state, gone.delete_attempts) == (VmState.DELETED, "present", 0)
    assert gone.reason == "deleted by somebody else: Rollcall did not request it"
    assert other.state is VmState.ACTIVE
    assert stage.calls("DELETE") == []


async def test_a_silent_deletion_in_the_console_is_found_by_the_sweep(engine: AsyncEngine):
    # basilica (field-notes.md section 1): the slow sweep is always on.
    stage = await running(engine, 2)
    stage.console(stage.alive()[0], "delete")
    await stage.live(700, step=50)
    assert await stage.states() == ["LOST", "ACTIVE"]


async def test_a_silent_deletion_that_is_seen_under_way_is_no_riddle(engine: AsyncEngine):
    stage = await running(engine, 2, cloud={"timing": {"callback": 0, "creating": 5, "build": 5, "deleting": 700}})
    stage.console(stage.alive()[0], "delete")
    await stage.live(1300, step=50)
    assert await stage.states() == ["DELETED", "ACTIVE"]


@pytest.mark.parametrize(("deed", "state"), [("stop", VmState.SHUTOFF), ("error", VmState.ERROR)])
@pytest.mark.parametrize("silent", [True, False])
async def test_what_somebody_does_in_the_console_is_noticed(engine: AsyncEngine, deed, state, silent):
    stage = await running(engine)
    stage.console(stage.alive()[0], deed, silent=silent)
    await stage.live(700 if silent else 30, step=50 if silent else 10)
    vm = await stage.vm()
    assert (vm.state, vm.ready) == (state, False)
    (evidence,) = (await stage.sql("SELECT evidence FROM transitions ORDER BY seq DESC LIMIT 1"))[0]
    assert evidence == ("observation" if silent else "event")


async def test_our_own_deletion_is_told_from_a_loss(engine: AsyncEngine):
    stage = await running(engine, 2)
    stage.misbehave(**SILENT)
    await deletion.delete(stage.rt, await stage.vm(1), caller="tests")
    stage.console(stage.alive()[1], "vanish")
    await stage.live(700, step=50)
    assert await stage.states() == ["DELETED", "LOST"]


async def test_a_lost_vm_that_turns_up_again_is_what_it_is(engine: AsyncEngine):
    stage = await running(engine)
    stage.between.prepared["GET"] = [refusal(404, "VM 507279 does not exists.", "not_found")]
    await stage.sql("UPDATE vms SET next_refresh_at = :now", now=stage.world.clock.now())
    await refresh.run_once(stage.rt)
    assert await stage.states() == ["LOST"]
    await stage.live(700, step=50)
    vm = await stage.vm()
    assert (vm.state, vm.ready, vm.reason) == (VmState.ACTIVE, True, None)


async def test_a_crowd_of_missing_vms_is_settled_as_a_set(engine: AsyncEngine):
    stage = await running(engine, 300)
    gone = stage.alive()[:210]
    for provider_id in gone:
        stage.console(provider_id, "vanish")
    await stage.sql("UPDATE vms SET next_refresh_at = :now", now=stage.world.clock.now())
    before = reads(stage)
    await refresh.run_once(stage.rt)
    assert Counter(await stage.states()) == {"LOST": 210, "ACTIVE": 90}
    # One list, a sample of the missing, and a second list.
    assert (reads(stage)[0] - before[0], reads(stage)[1] - before[1]) == (2, 16)
    after = reads(stage)
    await stage.live(1500, step=100, job_runs=(refresh, apply))
    assert reads(stage)[1] - after[1] < 4 * 16


async def test_vms_that_a_list_hides_are_not_lost_because_many_are_missing(engine: AsyncEngine):
    stage = await running(engine, 60)
    hidden = set(stage.alive()[:50])
    stage.between.inner = Hiding(stage.between.inner, hidden)
    for _ in range(8):
        await stage.sql("UPDATE vms SET next_refresh_at = :now", now=stage.world.clock.now())
        await refresh.run_once(stage.rt)
        await stage.wait(11)
    assert await stage.states() == ["ACTIVE"] * 60


class Hiding:
    """A provider whose lists do not show some of its VMs, and whose count agrees with what they show."""

    def __init__(self, inner, hidden):
        self.inner, self.hidden = inner, hidden

    async def send(self, method, url, *rest):
        answer = await self.inner.send(method, url, *rest)
        if method != "GET" or "?" not in url:
            return answer
        content = orjson.loads(answer.body)
        shown = [one for one in content["instances"] if one["id"] not in self.hidden]
        return replace(answer, body=orjson.dumps(content | {"instances": shown, "count": len(shown)}))


async def test_each_page_of_a_list_has_its_own_time(engine: AsyncEngine):
    stage = await running(engine, 25, cloud={"max_page_size": 10})
    stage.between.inner = Slow(stage)
    await stage.sql("UPDATE vms SET next_refresh_at = :now", now=stage.world.clock.now())
    began = stage.world.clock.now()
    await refresh.run_once(stage.rt)
    seconds = {round((vm.observed_at - began).total_seconds()) for vm in await stage.vms()}
    assert seconds == {0, 30, 60}
    evidence = await stage.sql(
        "SELECT count(*) FROM calls WHERE operation = 'list' AND begun_at >= :began", began=began
    )
    assert evidence == [(3,)]


class Slow:
    """A provider that takes 30 seconds for each page."""

    def __init__(self, stage):
        self.inner, self.clock = stage.between.inner, stage.world.clock

    async def send(self, method, url, *rest):
        answer = await self.inner.send(method, url, *rest)
        self.clock.advance(30)
        return answer


# What proves nothing.


async def test_a_404_about_a_newborn_proves_nothing(engine: AsyncEngine):
    # skypilot #4431, #4392 (field-notes.md section 1).
    stage = Stage(engine, cloud={"faults": SILENT | {"list_lag": 50, "get_lags": True}})
    await stage.submit(count=2)
    await create.run_once(stage.rt)
    for _ in range(4):
        await stage.sql("UPDATE vms SET next_refresh_at = :now", now=stage.world.clock.now())
        await refresh.run_once(stage.rt)
        await stage.wait(10)
    assert stage.calls("GET", "/core/virtual-machines/")
    assert await stage.states() == ["CREATING", "CREATING"]
    await stage.live(200)
    assert await stage.states() == ["ACTIVE", "ACTIVE"]


async def test_a_list_that_does_not_show_a_vm_yet_does_not_lose_it(engine: AsyncEngine):
    # skypilot #4431 (field-notes.md section 1): a VM missing from a list is asked for by itself.
    stage = Stage(engine, cloud={"faults": SILENT | {"list_lag": 500}})
    await stage.submit(count=20)
    await stage.live(300, step=20)
    assert await stage.states() == ["ACTIVE"] * 20
    assert await stage.sql("SELECT count(*) FROM transitions WHERE to_state = 'LOST'") == [(0,)]


async def test_pages_that_shift_while_they_are_read_lose_nobody(engine: AsyncEngine):
    stage = await running(engine, 25, cloud={"max_page_size": 10}, resync_seconds=60)
    stage.misbehave(shifted_page=1, **SILENT)
    await stage.live(400, step=20)
    assert await stage.states() == ["ACTIVE"] * 25
    assert await stage.sql("SELECT count(*) FROM transitions WHERE to_state = 'LOST'") == [(0,)]


async def test_pages_that_shift_end_no_vm_whose_deletion_has_begun(engine: AsyncEngine):
    # `count` is that of the page: nothing tells that a VM moved between pages.
    stage = await running(engine, 25, cloud={"max_page_size": 10, "timing": {**STEADY, "deleting": 5000}})
    stage.misbehave(shifted_page=1, **SILENT)
    for vm in await stage.vms():
        await deletion.delete(stage.rt, vm, caller="tests")
    await stage.live(400, step=20)
    assert await stage.states() == ["DELETING"] * 25


@pytest.mark.parametrize(
    "answer",
    [
        refusal(401, "Unauthorized", "unauthorized"),
        refusal(403, "Forbidden", "forbidden"),
        refusal(500, "Internal Server Error", "server_error"),
        HttpResponse(status=404, headers={}, body=b"<html>404 Not Found</html>"),
        HttpResponse(status=200, headers={}, body=b"<html>welcome</html>"),
        HttpResponse(status=200, headers={}, body=b'{"status": true, "instance": {}}'),
        HttpResponse(status=200, headers={}, body=b'{"status": true, "instances": []}'),
    ],
)
async def test_an_answer_that_is_none_concludes_nothing(engine: AsyncEngine, answer):
    stage = await running(engine)
    stage.between.prepared["GET"] = [answer] * 3
    await stage.sql("UPDATE vms SET next_refresh_at = :now", now=stage.world.clock.now())
    before = await stage.vm()
    await refresh.run_once(stage.rt)
    after = await stage.vm()
    assert structs.replace(after, next_refresh_at=before.next_refresh_at, refresh_attempts=0) == before


async def test_an_empty_list_loses_nobody_that_can_still_be_read(engine: AsyncEngine):
    stage = await running(engine, 3)
    empty = HttpResponse(status=200, headers={}, body=b'{"status": true, "instances": [], "count": 0, "page": 1}')
    stage.between.prepared["GET"] = [empty]
    await stage.sql("UPDATE vms SET next_refresh_at = :now", now=stage.world.clock.now())
    await refresh.run_once(stage.rt)
    assert await stage.states() == ["ACTIVE"] * 3


async def test_a_forged_deletion_is_disproved_by_asking(engine: AsyncEngine):
    stage = await running(engine)
    (made,) = stage.alive()
    await heard(stage, b'{"resource": {"id": %d}, "operation": {"name": "deleteVM", "status": "SUCCESS"}}' % made)
    assert (await stage.vm()).next_refresh_at == stage.world.clock.now()
    await refresh.run_once(stage.rt)
    vm = await stage.vm()
    assert (vm.state, vm.ready) == (VmState.ACTIVE, True)


async def heard(stage: Stage, body: bytes, *, creation_no: int = 1) -> None:
    """A callback that comes in on a creation's URL, and is applied."""
    await stage.hear((await stage.creation(creation_no)).ref, body)
    await apply.run_once(stage.rt)


async def test_an_unknown_status_moves_nothing_and_is_kept_as_it_came(engine: AsyncEngine):
    stage = await running(engine)
    (made,) = stage.alive()
    stage.real(made).status = "ACTIVE"
    await heard(stage, b'{"resource": {"id": %d}, "data": {"status": "Verify_Resize"}}' % made)
    vm = await stage.vm()
    assert (vm.state, vm.provider_status) == (VmState.ACTIVE, "Verify_Resize")
    assert await stage.sql("SELECT claimed, verdict FROM transitions ORDER BY seq DESC LIMIT 1") == [
        ("Verify_Resize", "unexpected")
    ]


async def test_all_readings_are_on_record(engine: AsyncEngine):
    stage = await running(engine, 3)
    await stage.live(700, step=50)
    on_record = await stage.sql("SELECT count(*) FROM calls JOIN call_ends USING (submission_id, call_id)")
    assert on_record == [(len(stage.world.cloud.log),)]


async def test_two_daemons_reading_at_once_agree(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": SILENT})
    await stage.submit(count=25)
    await create.run_once(stage.rt)
    other = stage.daemon()
    for _ in range(4):
        await stage.wait(60)
        await asyncio.gather(refresh.run_once(stage.rt), refresh.run_once(other))
    assert await stage.states() == ["ACTIVE"] * 25


async def test_looking_for_one_creation_is_a_search_and_not_the_whole_list(engine: AsyncEngine):
    stage = await running(engine, 3)
    stage.misbehave(create={"lost": [1]})
    await stage.submit(name="other")
    await create.run_once(stage.rt)
    await stage.wait(5)
    (unconfirmed,) = [one for one in await stage.creations() if one.state == "unconfirmed"]
    assert await lookup.lookup_by_name(stage.rt, unconfirmed) == 1
    (search,) = stage.calls("GET", "/core/virtual-machines?")[-1:]
    assert f"search={unconfirmed.name}" in search
    assert all(one.state == "answered" for one in await stage.creations())


async def test_a_list_that_has_begun_waits_for_the_budget_of_its_next_page(engine: AsyncEngine):
    stage = Stage(engine, cloud={"max_page_size": 10, "faults": SILENT}, calls_per_minute=10)
    await stage.submit(count=40)
    await create.run_once(stage.rt)
    await stage.wait(200)
    began = stage.world.clock.elapsed
    seen = await listing.read(stage.rt)
    assert seen is not None
    assert len(seen.vms) == 40
    assert (await listing.read(stage.rt)) is not None
    assert stage.world.clock.elapsed - began > 60
    assert stage.world.cloud.limit.refused == 0

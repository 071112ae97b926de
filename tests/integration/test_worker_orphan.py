"""VMs with our marks and no record: found again and again until they are gone, and never taken for what is not ours."""

import orjson
import pytest
from simulated import body
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import VMS, Stage, refusal

from service.core.token import CreationRef
from service.operations import deletion
from service.queries import timeline
from service.simulator.http import HttpRequest
from service.storage.engine import begin
from service.worker import apply, delete, refresh

SAYS_ACTIVE = b'{"resource": {"id": %d}, "data": {"status": "ACTIVE"}}'


def made_by_hand(stage: Stage) -> int:
    """A VM of the same account that Rollcall never asked for."""
    content = orjson.dumps(body(name="other-teams-vm", callback_url=None))
    asked = HttpRequest(method="POST", path=VMS, headers={"api_key": "key"}, body=content)
    reply = stage.world.cloud.handle(asked, stage.world.clock.elapsed)
    provider_id: int = orjson.loads(reply.body)["instances"][0]["id"]
    return provider_id


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_vm_that_was_never_ours_is_not_deleted_because_a_callback_names_it(engine: AsyncEngine, cancelled):
    stage = Stage(engine)
    theirs = made_by_hand(stage)
    await stage.wait(600)
    mine = await stage.submit(policy={"on_orphan": "delete"})
    await stage.live(70)
    if cancelled:
        await deletion.cancel(stage.rt, mine, caller="tests")
    await stage.hear(CreationRef(mine, 1), SAYS_ACTIVE % theirs)
    await stage.live(200)
    assert theirs in stage.alive()
    assert stage.calls("DELETE", f"/core/virtual-machines/{theirs}") == []
    (noted,) = await stage.orphans()
    assert (noted.state, "not ours" in noted.reason) == ("gone", True)


async def test_one_without_a_mark_that_might_be_ours_is_reported_and_not_deleted(engine: AsyncEngine):
    stage = Stage(engine)
    mine = await stage.submit(policy={"on_orphan": "delete"})
    await stage.live(70)
    theirs = made_by_hand(stage)
    await stage.hear(CreationRef(mine, 1), SAYS_ACTIVE % theirs)
    await stage.live(200)
    assert theirs in stage.alive()
    assert [one.state for one in await stage.orphans()] == ["found"]


async def test_a_vm_that_lives_although_it_was_deleted_is_found_and_deleted_again(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"vms": {"delete_failed": [1]}}})
    await stage.submit()
    await stage.live(70)
    vm = await stage.vm()
    await deletion.delete(stage.rt, vm, caller="tests")
    await delete.run_once(stage.rt)
    await stage.wait(1)
    await apply.run_once(stage.rt)
    # One stray 404 while it is being deleted ends the record; then the delete fails, and the VM is there again.
    stage.between.prepared["GET"] = [refusal(404, f"VM {vm.provider_id} does not exists.", "not_found")]
    await stage.wait(11)
    await refresh.run_once(stage.rt)
    assert (await stage.states(), stage.alive()) == (["DELETED"], [vm.provider_id])
    await stage.live(1500, step=20)
    assert stage.alive() == []
    assert [one.state for one in await stage.orphans()] == ["gone"]


async def test_one_that_was_thought_to_be_gone_is_found_when_a_list_shows_it(engine: AsyncEngine):
    # It speaks before any reading knows it, for longer than a newborn VM is given.
    late = {"late": [1], "late_after": 100, "list_lag": 200, "get_lags": True}
    stage = Stage(engine, cloud={"faults": late}, newborn_seconds=60)
    await stage.submit(policy={"on_orphan": "delete"})
    await stage.live(1500)
    assert stage.creates() == 2
    assert [vm.provider_id for vm in await stage.vms()] == stage.alive()
    assert [one.state for one in await stage.orphans()] == ["gone"]


@pytest.mark.parametrize("when", ["before it is found", "after it is found"])
async def test_the_orphans_of_a_cancelled_submission_are_deleted_whatever_its_policy_was(engine: AsyncEngine, when):
    stage = Stage(engine, cloud={"faults": {"late": [1], "late_after": 200}})
    mine = await stage.submit()
    await stage.live(150 if when == "before it is found" else 900)
    assert len(stage.alive()) == (1 if when == "before it is found" else 2)
    assert (await stage.submission()).state == "ready"
    await deletion.cancel(stage.rt, mine, caller="tests")
    await stage.live(1500, step=20)
    assert stage.alive() == []


async def test_each_call_about_an_orphan_says_which_vm_it_was_about_and_stands_in_no_other_story(engine: AsyncEngine):
    stage = Stage(engine, cloud={"faults": {"late": [1], "late_after": 200}})
    mine = await stage.submit(count=2, policy={"on_orphan": "delete"})
    await stage.live(1500, step=20)
    lost = sorted(one.provider_id for one in await stage.orphans())
    assert len(lost) == 2
    assert await stage.sql(
        "SELECT submission_id, provider_id, creation_no FROM calls WHERE operation = 'delete' ORDER BY provider_id"
    ) == [(mine, provider_id, None) for provider_id in lost]
    lookup_attempts = await stage.sql(
        "SELECT DISTINCT provider_id FROM calls WHERE operation = 'get' AND submission_id = :m", m=mine
    )
    assert {provider_id for (provider_id,) in lookup_attempts} >= set(lost)
    async with begin(engine) as conn:
        for vm in await stage.vms():
            told = [item.text for item in await timeline.of_vm(conn, vm)]
            assert any(text.startswith("create call") for text in told)
            assert not [text for text in told if text.startswith("delete call")]

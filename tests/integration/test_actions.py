"""Who asked for what, and when: on record for good, in the story of each VM that it concerned, and with its submission."""

from functools import partial
from typing import Any

from operator_api import serving
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage, refusal

from service.core.vm import Vm
from service.lab.explorer.world import LossyCommits
from service.operations import deletion
from service.queries import timeline
from service.runtime.runtime import Runtime
from service.storage import vms
from service.storage.engine import begin, transact
from service.worker import create, delete


async def asked(stage: Stage) -> list[Any]:
    return await stage.sql("SELECT kind, vm_no, caller FROM actions ORDER BY at, kind DESC, vm_no")


async def told(stage: Stage, vm: Vm) -> list[str]:
    async with begin(stage.engine) as conn:
        return [item.text for item in await timeline.of_vm(conn, vm) if item.kind == "action"]


async def test_who_submitted_and_who_cancelled_is_shown_with_the_submission(runtime: Runtime) -> None:
    async with serving(runtime) as api:
        made = await api.submit(count=2)
        runtime.clock.advance(60)
        cancelled = await api.request("POST", f"/v1/submissions/{made['submission_id']}/cancel")
        listed = await api.every("/v1/submissions")
        runtime.clock.advance(60)
        again = await api.request("POST", f"/v1/submissions/{made['submission_id']}/cancel")
    assert made["actions"] == [{"kind": "submit", "caller": "tests", "at": "2026-03-02T12:00:00Z"}]
    assert made["cancelled_at"] is None
    assert cancelled.json["cancelled_at"] == "2026-03-02T12:01:00Z"
    assert cancelled.json["actions"][1:] == [{"kind": "cancel", "caller": "tests", "at": "2026-03-02T12:01:00Z"}]
    assert listed == [cancelled.json] == [again.json]


async def test_a_vm_that_was_never_sent_says_who_withdrew_it(engine: AsyncEngine):
    stage = Stage(engine, create_concurrency=1)
    submission_id = await stage.submit(count=25)
    await create.run_once(stage.rt)
    await deletion.cancel(stage.rt, submission_id, caller="night-shift")
    for vm_no in (1, 25):
        assert await told(stage, await stage.vm(vm_no)) == ["cancellation of its submission requested by night-shift"]
    assert (await stage.vm(25)).reason == "submission cancelled by night-shift before it was sent"


async def test_a_refused_deletion_stands_and_who_requested_it_is_on_record_once(engine: AsyncEngine):
    stage = Stage(engine)
    await stage.submit()
    await stage.live(30)
    await deletion.delete(stage.rt, await stage.vm(), caller="night-shift")
    stage.between.prepared["DELETE"] = [refusal(400, "VM is locked and cannot be deleted.", "bad_request")]
    await delete.run_once(stage.rt)
    refused = await stage.vm()
    assert (refused.desired_state, refused.deletion_reason) == ("deleted", "requested by night-shift")
    stage.world.clock.advance(60)
    await deletion.delete(stage.rt, refused, caller="day-shift")
    assert await told(stage, await stage.vm()) == ["deletion requested by night-shift"]


async def test_what_changes_nothing_is_not_noted_and_neither_is_it_told_of_a_vm_that_had_ended(engine: AsyncEngine):
    stage = Stage(engine)
    submission_id = await stage.submit(count=2)
    await stage.live(30)
    await deletion.delete(stage.rt, await stage.vm(1), caller="one")
    await deletion.delete(stage.rt, await stage.vm(1), caller="another")
    await stage.live(120)
    await deletion.delete(stage.rt, await stage.vm(1), caller="another")
    await deletion.cancel(stage.rt, submission_id, caller="third")
    await deletion.cancel(stage.rt, submission_id, caller="another")
    assert await asked(stage) == [("submit", None, "tests"), ("delete", 1, "one"), ("cancel", None, "third")]
    assert await told(stage, await stage.vm(1)) == ["deletion requested by one"]
    assert await told(stage, await stage.vm(2)) == ["cancellation of its submission requested by third"]


async def test_a_request_is_noted_once_whatever_becomes_of_its_commit(engine: AsyncEngine):
    stage = Stage(engine)
    with LossyCommits(engine, 0.3, seed=3) as lossy:
        for _ in range(10):
            submission_id = await stage.submit(count=2)
            vm = await transact(engine, partial(vms.get, submission_id=submission_id, vm_no=1))
            assert vm is not None
            await deletion.delete(stage.rt, vm, caller="tests")
            await deletion.cancel(stage.rt, submission_id, caller="tests")
    assert lossy.cut > 5
    counted = await stage.sql(
        "SELECT kind, count(*), count(DISTINCT submission_id) FROM actions GROUP BY kind ORDER BY kind"
    )
    assert counted == [("cancel", 10, 10), ("delete", 10, 10), ("submit", 10, 10)]

"""VMs that others made: imported, watched, audited and costed like any other, and let go of."""

from typing import Any

import orjson
import pytest
from operator_api import TOKEN, Api, serving
from pydantic import SecretStr
from simulated import body
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import VMS, Stage

from service.core.contract import Assignment
from service.core.importing import ImportRequest
from service.core.lifecycle import VmState
from service.core.validation import validate
from service.core.vm import Vm
from service.errors import Invalid, NotAllowed
from service.operations import deletion, importing, lifetime, releasing
from service.operations.importing import Imported
from service.queries import cost
from service.queries.cost import Period
from service.simulator.http import HttpRequest
from service.storage.engine import begin
from service.worker import prices, refresh

OTHERS = "https://others.example.com/hook/abc"


async def foreign(stage: Stage, count: int, **changes: Any) -> list[int]:
    """VMs that somebody makes at the provider, by our side."""
    content = body(name="theirs", count=count, callback_url=None) | changes
    before = {vm["id"] for vm in stage.truth()}
    request = HttpRequest(method="POST", path=VMS, headers={"api_key": "console"}, body=orjson.dumps(content))
    reply = stage.world.cloud.handle(request, stage.world.clock.elapsed)
    assert reply.status == 200, reply
    await stage.wait(60)
    return [vm["id"] for vm in stage.truth() if vm["id"] not in before]


async def imported(stage: Stage, **asked: Any) -> list[Imported]:
    return (await importing.import_vms(stage.rt, validate(ImportRequest, asked), caller="tests"))[1]


def urls(stage: Stage) -> list[str | None]:
    return [vm["callback_url"] for vm in stage.truth()]


async def by_id(stage: Stage) -> dict[int | None, Vm]:
    return {vm.provider_id: vm for vm in await stage.vms()}


async def test_imported_vms_are_watched_by_callbacks_and_what_others_do_is_on_record(engine: AsyncEngine) -> None:
    stage = Stage(
        engine,
        cloud={"contracts": [{"id": 41, "discounts": [{"resource_name": "A100-80G-PCIe", "resource_count": 9}]}]},
    )
    ids = [*await foreign(stage, 20), *await foreign(stage, 5, name="more", contract_id=41)]
    assert [one.callback for one in await imported(stage, environment="test1")] == ["attached"] * 25
    found = await stage.vms()
    assert [vm.provider_id for vm in found] == ids
    assert {(vm.state, vm.ready, vm.flavor) for vm in found} == {(VmState.ACTIVE, True, "n3-A100x1")}
    assert [vm.assignment for vm in found] == [Assignment.NONE] * 20 + [Assignment.ASSIGNED] * 5
    assert (await stage.submission()).state == "ready"
    await stage.live(20)
    stage.console(ids[0], "stop", silent=False)
    stage.console(ids[1], "delete", silent=False)
    await stage.wait(1)
    await stage.live(100)
    seen = await by_id(stage)
    assert (seen[ids[0]].state, seen[ids[1]].state) == (VmState.SHUTOFF, VmState.DELETED)
    assert "somebody else" in (seen[ids[0]].reason or "")
    # The callback told of it, not a refresh.
    moves = await stage.sql(
        "SELECT to_state, evidence FROM transitions WHERE vm_no = 1 AND verdict = 'moved' ORDER BY seq"
    )
    assert moves == [("ACTIVE", "observation"), ("STOPPING", "event"), ("SHUTOFF", "event")]
    assert len(stage.alive()) == 24
    assert stage.calls("DELETE") == []


async def test_a_vm_with_the_callback_url_of_others_is_followed_by_refreshes(engine: AsyncEngine) -> None:
    stage = Stage(engine, resync_seconds=60)
    (id_,) = await foreign(stage, 1, callback_url=OTHERS)
    assert [one.callback for one in await imported(stage, ids=[id_])] == ["of others"]
    assert urls(stage) == [OTHERS]
    stage.console(id_, "stop", silent=False)
    await stage.live(200)
    assert (await stage.vm()).state is VmState.SHUTOFF
    # What it did before and meanwhile comes from its events history.
    assert (await stage.sql("SELECT count(*) > 0 FROM events WHERE source = 'history'")) == [(True,)]


@pytest.mark.parametrize("attach_existing", ["replaced", "refused"])
async def test_a_url_of_others_is_put_on_record_before_it_is_replaced_and_back_on_release(
    engine: AsyncEngine, attach_existing: str
) -> None:
    stage = Stage(engine, cloud={"attach_existing": attach_existing})
    (id_,) = await foreign(stage, 1, callback_url=OTHERS)
    assert [one.callback for one in await imported(stage, ids=[id_], replace_callbacks=True)] == ["replaced"]
    assert await stage.sql("SELECT detail FROM actions WHERE kind = 'attach'") == [(OTHERS,)]
    assert urls(stage) != [OTHERS]
    await releasing.release(stage.rt, (await stage.vm()).submission_id, caller="tests")
    assert urls(stage) == [OTHERS]


async def test_a_vm_whose_url_cannot_be_attached_is_on_record_all_the_same(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    await foreign(stage, 3)
    stage.misbehave(change={"error_before": 1.0})
    done = await imported(stage, name_pattern="THEIRS*")
    assert all(one.callback.startswith("not changed: ") for one in done)
    assert await stage.states() == ["ACTIVE"] * 3
    assert urls(stage) == [None] * 3


async def test_all_mistakes_are_named_at_once_and_nothing_is_kept(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    await stage.submit()
    await stage.live(60)
    mine = (await stage.vm()).provider_id
    theirs, gone = await foreign(stage, 2)
    stage.console(gone, "vanish")
    await imported(stage, ids=[theirs])
    with pytest.raises(Invalid) as raised:
        await imported(stage, ids=[mine, theirs, gone, 5])
    assert [one.message for one in raised.value.field_errors] == [
        f"the provider shows no VM {gone}",
        "the provider shows no VM 5",
        f"VM {mine} is on record already",
        f"VM {theirs} is on record already",
    ]
    with pytest.raises(Invalid, match="matches no VM"):
        await imported(stage, label="nobody has it")
    assert len(await stage.vms()) == 2


@pytest.mark.parametrize("asked", [{}, {"ids": []}, {"ids": [0]}, {"name_pattern": ""}, {"all": True}])
def test_an_import_that_selects_nothing_is_invalid(asked: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        validate(ImportRequest, asked)


async def test_imported_vms_are_never_deleted_but_by_their_names(engine: AsyncEngine) -> None:
    stage = Stage(engine, resync_seconds=60)
    ids = await foreign(stage, 2)
    await imported(stage, ids=ids)
    submission_id = (await stage.vm()).submission_id
    with pytest.raises(NotAllowed):
        await deletion.cancel(stage.rt, submission_id, caller="tests")
    for change in ({"lifetime": 60}, {"maintain": {"enabled": True}}):
        wanted = validate(lifetime.SubmissionChange, change)
        with pytest.raises(NotAllowed):
            await lifetime.change(stage.rt, submission_id, wanted, caller="tests")
    stage.console(ids[0], "error")
    await stage.live(4000, step=200)
    assert (len(stage.alive()), len(await stage.vms()), stage.creates()) == (2, 2, 1)
    await deletion.delete(stage.rt, (await by_id(stage))[ids[1]], caller="tests")
    await stage.live(100)
    assert stage.alive() == [ids[0]]


async def test_a_released_vm_is_never_touched_again_and_may_be_imported_again(engine: AsyncEngine) -> None:
    stage = Stage(engine, resync_seconds=60)
    ids = await foreign(stage, 2)
    await imported(stage, ids=ids)
    first = (await stage.vm()).submission_id
    await stage.live(60)
    for _ in range(2):
        released = await releasing.release(stage.rt, first, vm_no=1, caller="tests")
        assert [(vm.state, vm.provider_id, vm.next_refresh_at) for vm in released] == [(VmState.RELEASED, ids[0], None)]
    assert urls(stage)[0] is None
    assert await stage.sql("SELECT kind, vm_no FROM actions WHERE kind = 'release'") == [("release", 1)]
    asked = len([one for one in stage.between.asked if one.endswith(f"/{ids[0]}")])
    stage.console(ids[0], "stop", silent=False)
    await stage.live(400)
    assert len([one for one in stage.between.asked if one.endswith(f"/{ids[0]}")]) == asked
    assert ((await stage.vm()).state, await stage.orphans()) == (VmState.RELEASED, [])
    await imported(stage, ids=ids[:1])
    assert sorted(await stage.states()) == ["ACTIVE", "RELEASED", "SHUTOFF"]


async def test_a_released_vm_that_still_has_our_url_is_no_orphan_and_is_left_alone(engine: AsyncEngine) -> None:
    stage = Stage(engine, resync_seconds=60)
    (id_,) = await foreign(stage, 1)
    await imported(stage, ids=[id_])
    stage.misbehave(change={"error_before": 1.0})
    await releasing.release(stage.rt, (await stage.vm()).submission_id, caller="tests")
    stage.misbehave()
    assert urls(stage) != [None]
    stage.console(id_, "stop", silent=False)
    await stage.live(400)
    assert ((await stage.vm()).state, stage.alive(), await stage.orphans()) == (VmState.RELEASED, [id_], [])
    await imported(stage, ids=[id_])
    assert sorted(await stage.states()) == ["RELEASED", "SHUTOFF"]


async def test_what_rollcall_made_cannot_be_released(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    submission_id = await stage.submit()
    await stage.live(60)
    with pytest.raises(NotAllowed, match="only imported"):
        await releasing.release(stage.rt, submission_id, caller="tests")


async def test_a_vm_that_is_being_deleted_cannot_be_released(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    (id_,) = await foreign(stage, 1)
    await imported(stage, ids=[id_])
    await deletion.delete(stage.rt, await stage.vm(), caller="tests")
    with pytest.raises(NotAllowed, match="is being deleted"):
        await releasing.release(stage.rt, (await stage.vm()).submission_id, caller="tests")


async def test_two_imports_at_once_import_each_vm_once(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    (id_,) = await foreign(stage, 1)
    seen = await importing.look(stage.rt, validate(ImportRequest, {"ids": [id_]}))
    await imported(stage, ids=[id_])
    assert [one.provider_id for one in seen[0].chosen] == [id_]
    with pytest.raises(Invalid, match="on record already"):
        await imported(stage, ids=[id_])
    await refresh.run_once(stage.rt)
    assert len(await stage.vms()) == 1


async def post(api: Api, path: str, content: Any = None, *, expect: int = 200) -> Any:
    answer = await api.request("POST", path, content)
    assert answer.status == expect, answer
    return answer.json


async def test_the_api_imports_and_releases_as_it_is_documented(engine: AsyncEngine) -> None:
    stage = Stage(engine, api_tokens=(SecretStr(f"tests={TOKEN}"),))
    ids = await foreign(stage, 2, labels=["team-a"])
    async with serving(stage.rt) as api:
        would = await post(api, "/v1/imports?dry_run=true", {"label": "team-a"})
        assert (would["dry_run"], would["submission_id"], len(would["vms"]), await stage.vms()) == (True, None, 2, [])
        assert (urls(stage), stage.calls("POST", "/core/virtual-machines/")) == ([None] * 2, [])
        done = await post(api, "/v1/imports", {"label": "team-a", "name": "theirs"}, expect=201)
        assert [(one["provider_id"], one["callback"], one["vm_no"]) for one in done["vms"]] == [
            (ids[0], "attached", 1),
            (ids[1], "attached", 2),
        ]
        shown = await api.get(f"/v1/submissions/{done['submission_id']}")
        assert (shown["origin"], shown["state"], shown["counts"]) == ("imported", "ready", {"ACTIVE": 2})
        assert [one["kind"] for one in shown["actions"]] == ["import"]
        await post(api, "/v1/submissions/theirs/cancel", expect=409)
        wrong = await post(api, "/v1/imports", {"ids": [ids[0], 5]}, expect=422)
        assert [one["field"] for one in wrong["errors"]] == ["ids", "ids"]
        released = await post(api, f"/v1/vms/{ids[0]}/release")
        assert (released["state"], released["ended_at"] is not None) == ("RELEASED", True)
        assert len((await post(api, "/v1/submissions/theirs/release"))["items"]) == 1
        told = (await api.get(f"/v1/vms/{released['ref']}/timeline"))["items"]
        assert any("released by" in one["text"] or "release requested by" in one["text"] for one in told)


async def test_an_imported_vm_costs_from_its_import_until_its_release(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    await prices.run_once(stage.rt)
    (id_,) = await foreign(stage, 1)
    since = stage.world.clock.now()
    await imported(stage, ids=[id_])
    await stage.wait(3600)
    await releasing.release(stage.rt, (await stage.vm()).submission_id, caller="tests")
    await stage.wait(3600)
    async with begin(engine) as conn:
        found = await cost.total(
            conn, Period(since=since, until=stage.world.clock.now(), submission_id=None, currency="USD")
        )
    assert (round(found.billed_seconds), found.off_contract_seconds) == (3600, 0)
    assert found.estimate > 0

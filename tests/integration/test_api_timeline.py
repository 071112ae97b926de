"""A VM's story as the API tells it: everything on record, in order, each sentence with its evidence."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from cloud_transport import CloudTransport, connected, let_pass
from operator_api import Api, serving
from simulated import Caller

from service.runtime.runtime import Runtime
from service.storage import partitions
from service.storage.engine import begin
from service.worker import apply, create, delete, refresh, retention

SUBMITTED = {"environment_name": "default-CANADA-1", "flavor_name": "n3-A100x1"}


@pytest.fixture
def provider() -> CloudTransport:
    full = [{"resource_name": "A100-80G-PCIe", "resource_count": 9, "remaining_count": 0}]
    return CloudTransport(Caller(contracts=[{"id": 41, "discounts": full}]))


@pytest.fixture
def rt(runtime: Runtime, provider: CloudTransport) -> Runtime:
    return connected(runtime, provider)


@pytest.fixture
async def api(rt: Runtime) -> AsyncIterator[Api]:
    async with serving(rt) as api:
        yield api


async def story(api: Api, ref: object) -> list[tuple[str, str]]:
    return [(item["kind"], item["text"]) for item in await api.every(f"/v1/vms/{ref}/timeline")]


async def made(api: Api, rt: Runtime, **changes: Any) -> str:
    """The SUBMISSION of VMs that were created and not heard of yet."""
    submission = await api.submit(**SUBMITTED, **changes)
    rt.clock.advance(1)
    await create.run_once(rt)
    return submission["submission_id"]


async def grown(rt: Runtime, provider: CloudTransport, seconds: float) -> None:
    for _ in range(int(seconds // 5)):
        await let_pass(rt, provider, 5)
        await apply.run_once(rt)


async def test_the_story_of_a_vm_goes_from_being_asked_for_to_being_ready(
    api: Api, rt: Runtime, provider: CloudTransport
) -> None:
    submission = await made(api, rt, count=3)
    await grown(rt, provider, 40)
    told = await story(api, f"{submission}.2")
    kinds = [kind for kind, _ in told]
    assert told[0] == ("record", "requested by tests: VM 2 of 3 of vm")
    assert told[1][0] == "call"
    assert told[1][1].startswith("create call answered in ")
    assert told[1][1].endswith(" ms: 3 of 3 VMs")
    assert ("transition", "moved REQUESTED -> CREATING on the provider's answer") in told
    assert ("transition", "moved BUILD -> ACTIVE on a callback") in told
    assert ("outcome", "ready for the first time") in told
    assert kinds.count("callback") >= 3
    assert kinds.index("callback") < kinds.index("outcome", kinds.index("callback"))


async def test_every_item_names_its_evidence_and_comes_after_the_one_before(
    api: Api, rt: Runtime, provider: CloudTransport
) -> None:
    submission = await made(api, rt, count=2)
    await grown(rt, provider, 40)
    items = await api.every(f"/v1/vms/{submission}.1/timeline")
    assert [item["at"] for item in items] == sorted(item["at"] for item in items)
    assert all({"kind", "id"} <= item["evidence"].keys() for item in items)
    heard = {item["evidence"]["id"] for item in items if item["kind"] == "callback"}
    moved = [item["evidence"] for item in items if item["kind"] == "transition" and item["evidence"]["kind"] == "event"]
    assert moved
    assert {evidence["id"] for evidence in moved} <= heard


async def test_a_story_holds_nothing_of_other_vms(api: Api, rt: Runtime, provider: CloudTransport) -> None:
    submission = await made(api, rt, count=2)
    await grown(rt, provider, 40)
    events = [
        {item["evidence"]["id"] for item in await api.every(f"/v1/vms/{submission}.{vm_no}/timeline") if is_heard(item)}
        for vm_no in (1, 2)
    ]
    assert events[0]
    assert events[1]
    assert not events[0] & events[1]


def is_heard(item: dict[str, Any]) -> bool:
    return item["kind"] == "callback"


async def test_a_story_can_be_read_in_pages(api: Api, rt: Runtime, provider: CloudTransport) -> None:
    submission = await made(api, rt)
    await grown(rt, provider, 40)
    whole = await api.every(f"/v1/vms/{submission}.1/timeline")
    assert len(whole) > 6
    assert await api.every(f"/v1/vms/{submission}.1/timeline?limit=2") == whole


async def test_what_a_reading_made_up_for_is_told_with_its_call(
    api: Api, rt: Runtime, provider: CloudTransport
) -> None:
    submission = await made(api, rt)
    provider.caller.wait(60)  # all callbacks are lost
    rt.clock.advance(300)
    await refresh.run_once(rt)
    items = await api.every(f"/v1/vms/{submission}.1/timeline")
    (moved,) = [item for item in items if item["text"] == "moved CREATING -> ACTIVE on a refresh"]
    readings = [item for item in items if item["kind"] == "call" and item["evidence"]["id"] == moved["evidence"]["id"]]
    assert [item["text"].split(" call ")[0] for item in readings] in (["list"], ["get"])


async def test_a_contract_that_was_missed_is_told_with_the_reason(api: Api, rt: Runtime) -> None:
    submission = await made(api, rt, contract_id=41)
    told = await story(api, f"{submission}.1")
    (note,) = [text for kind, text in told if kind == "assignment"]
    assert note.startswith("is not on contract 41, and runs on demand: Contract with ID: 41 has insufficient GPU")
    assert "next try at" in note


async def test_a_call_without_an_answer_is_told_as_such(api: Api, rt: Runtime, provider: CloudTransport) -> None:
    class Died(BaseException):
        """The process is gone in the middle of a call."""

    async def die() -> None:
        raise Died

    submission = await api.submit(**SUBMITTED)
    provider.before = die
    with pytest.raises(Died):
        await create.run_once(rt)
    told = await story(api, f"{submission['submission_id']}.1")
    assert ("call", "create call: no answer on record") in told


async def test_a_wish_that_a_vm_be_gone_is_told_until_it_is(api: Api, rt: Runtime, provider: CloudTransport) -> None:
    submission = await made(api, rt)
    await grown(rt, provider, 40)
    await api.request("DELETE", f"/v1/vms/{submission}.1")
    await delete.run_once(rt)
    told = await story(api, f"{submission}.1")
    assert ("record", "to be deleted: requested by tests") in told
    assert [text for kind, text in told if kind == "call"][-1].startswith("delete call answered in ")


async def test_a_vm_that_a_creation_left_out_is_told_to_be_asked_for_again(
    api: Api, rt: Runtime, provider: CloudTransport
) -> None:
    provider.caller.private("POST", "faults", {"partial": [1]})
    submission = await made(api, rt, count=3)
    rt.clock.advance(1)
    await create.run_once(rt)
    told = [await story(api, f"{submission}.{vm_no}") for vm_no in (1, 2, 3)]
    again = ("record", "requested again, by creation 2: the earlier call did not create it")
    assert again not in told[0]
    assert again in told[2]


async def test_a_callback_that_cannot_be_read_is_in_the_story_of_every_vm_of_its_creation(
    api: Api, rt: Runtime, provider: CloudTransport
) -> None:
    submission = await made(api, rt, count=2)
    provider.caller.private("POST", "faults", {"callbacks": {"garbage": [1]}})
    await grown(rt, provider, 40)
    for vm_no in (1, 2):
        told = await story(api, f"{submission}.{vm_no}")
        assert [text for kind, text in told if kind == "callback" and "could not be read" in text]


async def test_a_callback_that_says_what_was_said_before_is_marked(
    api: Api, rt: Runtime, provider: CloudTransport
) -> None:
    submission = await made(api, rt)
    provider.caller.private("POST", "faults", {"callbacks": {"repeated": 1, "repeats": [1, 1]}})
    await grown(rt, provider, 40)
    told = await story(api, f"{submission}.1")
    assert [text for kind, text in told if kind == "callback" and text.endswith("(repeated)")]


async def test_no_secret_is_in_a_story(api: Api, rt: Runtime, provider: CloudTransport) -> None:
    submission = await made(api, rt, user_data="secret-of-a-user")
    await grown(rt, provider, 40)
    told = str(await api.every(f"/v1/vms/{submission}.1/timeline"))
    (url,) = {vm["callback_url"] for vm in provider.caller.cloud.truth()}
    assert "secret-of-a-user" not in told
    assert url.rpartition("/")[2] not in told


async def test_the_story_is_still_told_when_its_events_have_left_the_database(
    api: Api, rt: Runtime, provider: CloudTransport
) -> None:
    async with begin(rt.engine) as conn:
        await partitions.make_partitions(conn, now=rt.clock.now())
    submission = await made(api, rt, count=1)
    await grown(rt, provider, 40)
    before = await story(api, f"{submission}.1")
    rt.settings = rt.settings.model_copy(update={"events_keep_months": 1, "events_drop": True})
    rt.clock.advance(70 * 86400)
    assert await retention.run_once(rt) > 0
    after = await story(api, f"{submission}.1")
    assert [text for kind, text in before if kind == "callback"]
    assert [kind for kind, _ in after] == [kind for kind, _ in before if kind != "callback"]
    moved = [text for kind, text in after if kind == "transition" and "callback" in text]
    assert moved
    assert all(text.endswith("on a callback that was dropped with its month") for text in moved)
    assert not [text for _, text in before if "dropped with its month" in text]

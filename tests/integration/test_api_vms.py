"""VMs and orphans over HTTP: found by either name, filtered, paged, wished away."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace
from operator_api import Api, serving

from service.core.contract import Assignment
from service.core.evidence import apply_observation
from service.core.lifecycle import EvidenceKind, VmState
from service.core.observation import Observation
from service.core.submission import Policy
from service.core.vm import Provenance, Vm
from service.runtime.runtime import Runtime
from service.storage import orphans, vms
from service.storage.engine import begin


@pytest.fixture
async def api(runtime: Runtime) -> AsyncIterator[Api]:
    async with serving(runtime) as api:
        yield api


async def seen(runtime: Runtime, submission: dict[str, Any], vm_no: int, provider_id: int, **facts: Any) -> Vm:
    """The record of a VM after a reading that showed it so."""
    ref = (UUID(submission["submission_id"]), vm_no)
    now = runtime.clock.now()
    source = Provenance(kind=EvidenceKind.OBSERVATION, at=now, now=now, id=runtime.uuid())
    async with begin(runtime.engine) as conn:
        vm = replace((await vms.lock(conn, [ref]))[ref], provider_id=provider_id, bound_at=now)
        change = apply_observation(
            vm, Observation(provider_id=provider_id, **facts), source, runtime.refresh_policy, Policy()
        )
        await vms.save_changes(conn, [change.vm], [change])
    return change.vm


async def test_a_vm_is_found_by_its_own_name_and_by_the_providers(api: Api, runtime: Runtime) -> None:
    made = await api.submit(count=2)
    await seen(runtime, made, 2, 4711, status="ACTIVE", name="vm-2", region="CANADA-1", fixed_ip="10.0.0.2")
    by_ours = await api.get(f"/v1/vms/{made['submission_id']}.2")
    assert by_ours == await api.get("/v1/vms/4711")
    assert by_ours["submission_id"] == made["submission_id"]
    assert (by_ours["vm_no"], by_ours["provider_id"], by_ours["name"]) == (2, 4711, "vm-2")
    assert (by_ours["state"], by_ours["ready"], by_ours["assignment"]) == ("ACTIVE", True, "none")
    assert (by_ours["region"], by_ours["fixed_ip"], by_ours["floating_ip"]) == ("CANADA-1", "10.0.0.2", None)
    assert by_ours["ready_at"] == by_ours["created_at"] == "2026-03-02T12:00:00Z"


async def test_the_contract_shown_is_the_one_that_the_provider_shows(api: Api, runtime: Runtime) -> None:
    made = await api.submit(count=2, contract_id=41)
    await seen(runtime, made, 1, 1, status="ACTIVE", contract_id=41)
    await seen(runtime, made, 2, 2, status="ACTIVE", contract_id=None)
    on, off = await api.every("/v1/vms")
    assert (on["contract_id"], on["contract_requested"], on["assignment"]) == (41, 41, "assigned")
    assert (off["contract_id"], off["contract_requested"], off["assignment"]) == (None, 41, "retrying")
    assert [vm["vm_no"] for vm in await api.every("/v1/vms?contract_id=41")] == [1]
    assert [vm["vm_no"] for vm in await api.every("/v1/vms?contract_requested=41")] == [1, 2]
    assert await api.every("/v1/vms?contract_id=41&assignment=retrying") == []
    assert await api.every("/v1/vms?contract_id=41&contract_requested=42") == []


async def test_the_time_on_demand_is_shown_while_it_runs(api: Api, runtime: Runtime) -> None:
    made = await api.submit(contract_id=41)
    await seen(runtime, made, 1, 1, status="ACTIVE", contract_id=None)
    runtime.clock.advance(10 * 86400)
    assert (await api.get("/v1/vms/1"))["on_demand_seconds"] == 864000.0
    assert [vm["on_demand_seconds"] for vm in await api.every("/v1/vms")] == [864000.0]
    wished = await api.request("DELETE", "/v1/vms/1")
    assert wished.json["on_demand_seconds"] == 864000.0
    await seen(runtime, made, 1, 1, status="DELETED")
    runtime.clock.advance(60)
    assert (await api.get("/v1/vms/1"))["on_demand_seconds"] == 864000.0


async def test_vms_are_listed_in_pages_and_each_once(api: Api) -> None:
    first, second = await api.submit(count=7), await api.submit(count=4)
    listed = await api.every("/v1/vms?limit=3")
    assert sorted(vm["ref"] for vm in listed) == sorted(
        f"{made['submission_id']}.{n}" for made in (first, second) for n in range(1, made["count"] + 1)
    )


async def test_vms_are_narrowed_by_filters_together(api: Api, runtime: Runtime) -> None:
    made = await api.submit(count=3)
    await api.submit(count=2)
    await seen(runtime, made, 1, 1, status="ACTIVE", region="CANADA-1", name="alpha")
    await seen(runtime, made, 2, 2, status="BUILD", region="CANADA-1", name="beta")
    within = f"/v1/vms?submission_id={made['submission_id']}"
    assert [vm["vm_no"] for vm in await api.every(f"{within}&region=CANADA-1")] == [1, 2]
    assert [vm["vm_no"] for vm in await api.every(f"{within}&region=CANADA-1&ready=true")] == [1]
    assert [vm["vm_no"] for vm in await api.every(f"{within}&ready=false")] == [2, 3]
    assert [vm["vm_no"] for vm in await api.every("/v1/vms?name=ET")] == [2]
    assert [vm["vm_no"] for vm in await api.every("/v1/vms?name=%25")] == []
    await seen(runtime, made, 2, 2, status="DELETED")
    assert [vm["vm_no"] for vm in await api.every(f"{within}&alive=true&limit=1")] == [1, 3]
    assert [vm["vm_no"] for vm in await api.every(f"{within}&alive=false")] == [2]


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        ("state=ACTIV", "state", "ACTIVE"),
        ("limit=0", "limit", "at least 1"),
        ("limit=many", "limit", ""),
        ("ready=yes", "ready", "true or false"),
        ("stat=ACTIVE", "stat", "did you mean state?"),
        ("cursor=backwards", "cursor", ""),
        ("submission_id=7", "submission_id", ""),
        ("contract_id=99999999999", "contract_id", "at most"),
        ("name=a%00b", "name", ""),
        ("limit=1&limit=2", "limit", "more than once"),
    ],
)
async def test_a_wrong_filter_is_a_mistake_and_not_passed_over(api: Api, query: str, field: str, words: str) -> None:
    answer = await api.request("GET", f"/v1/vms?{query}")
    assert answer.status == 422
    assert [mistake["field"] for mistake in answer.json["errors"]] == [field]
    assert words in answer.json["errors"][0]["message"]


@pytest.mark.parametrize("ref", ["4712", "9" * 18, "9" * 40, "x", "00000000-0000-7000-8000-000000000000.1"])
async def test_a_vm_that_is_not_ours_is_not_found(api: Api, ref: str) -> None:
    for method, path in (("GET", ref), ("GET", f"{ref}/timeline"), ("DELETE", ref)):
        assert (await api.request(method, f"/v1/vms/{path}")).status == 404


async def test_a_provider_id_that_fits_two_vms_is_said_to(api: Api, runtime: Runtime) -> None:
    for made in (await api.submit(), await api.submit()):
        await seen(runtime, made, 1, 4711, status="ACTIVE")
    answer = await api.request("GET", "/v1/vms/4711")
    assert answer.status == 422
    assert f"{made['submission_id']}.1" in answer.json["errors"][0]["message"]


async def test_deleting_a_vm_keeps_the_wish(api: Api, runtime: Runtime) -> None:
    made = await api.submit(contract_id=41)
    await seen(runtime, made, 1, 4711, status="ACTIVE", contract_id=41)
    answer = await api.request("DELETE", "/v1/vms/4711")
    assert answer.status == 202
    assert (answer.json["desired_state"], answer.json["deletion_reason"]) == ("deleted", "requested by tests")
    assert answer.json["ready"] is False
    runtime.clock.advance(60)
    assert (await api.request("DELETE", "/v1/vms/4711")).json == answer.json


async def test_deleting_a_vm_that_has_ended_is_success(api: Api) -> None:
    made = await api.submit()
    await api.request("POST", f"/v1/submissions/{made['submission_id']}/cancel")
    answer = await api.request("DELETE", f"/v1/vms/{made['submission_id']}.1")
    assert (answer.status, answer.json["state"]) == (200, "CANCELLED")


async def test_orphans_are_listed_newest_first_in_pages(api: Api, runtime: Runtime) -> None:
    made = UUID((await api.submit())["submission_id"])
    for number in range(1, 6):
        async with begin(runtime.engine) as conn:
            await orphans.note(
                conn,
                submission_id=made,
                provider_id=number,
                creation_no=1,
                state="found",
                reason="of a test",
                now=runtime.clock.now() + timedelta(seconds=number // 2),
                due_at=None,
            )
    assert [one["provider_id"] for one in await api.every("/v1/orphans?limit=2")] == [5, 4, 3, 2, 1]
    assert await api.every("/v1/orphans?submission_id=00000000-0000-7000-8000-000000000000") == []


async def test_the_fleet_is_counted(api: Api, runtime: Runtime) -> None:
    made = await api.submit(count=4, contract_id=41)
    await seen(runtime, made, 1, 1, status="ACTIVE", contract_id=41, region="CANADA-1")
    await seen(runtime, made, 2, 2, status="ACTIVE", contract_id=None, region="NORWAY-1")
    runtime.clock.advance(90)
    counted = await api.get("/v1/fleet")
    fleet = counted["fleet"]
    assert counted["evidence_counts"] is None
    assert fleet["by_state"] == {VmState.ACTIVE: 2, VmState.REQUESTED: 2}
    assert fleet["by_assignment"] == {Assignment.ASSIGNED: 1, Assignment.RETRYING: 1, Assignment.WANTED: 2}
    assert fleet["by_region"] == {"CANADA-1": 1, "NORWAY-1": 1, "none": 2}
    assert fleet["by_contract"] == {"41": 1, "none": 3}
    assert (fleet["alive"], fleet["ready"], fleet["off_contract"]) == (4, 1, 1)
    assert fleet["on_demand_seconds"] == 90.0
    assert fleet["seconds_to_ready"] == {"p50": 0.0, "p95": 0.0, "max": 0.0}


async def test_one_submission_is_counted_with_what_it_rests_on(api: Api, runtime: Runtime) -> None:
    made = await api.submit(count=2)
    await api.submit(count=3)
    await seen(runtime, made, 1, 1, status="ACTIVE")
    counted = await api.get(f"/v1/fleet?submission_id={made['submission_id']}")
    assert counted["fleet"]["by_state"] == {"ACTIVE": 1, "REQUESTED": 1}
    assert counted["evidence_counts"] == {"events": {}, "moves": {"observation": 1}, "calls": {}}
    nobody = await api.request("GET", "/v1/fleet?submission_id=00000000-0000-7000-8000-000000000000")
    assert nobody.status == 404

"""The past over HTTP: moments and periods are read strictly, lists are paged, and each answer has one shape."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from clock import NOON
from operator_api import Api, serving

from service.core.vm import AssignmentStep
from service.runtime.runtime import Runtime
from service.storage import assignments
from service.storage.engine import begin


@pytest.fixture
async def api(runtime: Runtime) -> AsyncIterator[Api]:
    async with serving(runtime) as api:
        yield api


async def note(runtime: Runtime, submission: dict[str, Any], vm_no: int, outcome: str) -> None:
    """A note on a contract that is made now."""
    made = AssignmentStep(
        submission_id=UUID(submission["submission_id"]),
        vm_no=vm_no,
        attempt=0,
        at=runtime.clock.now(),
        step="refresh",
        outcome=outcome,
        contract_id=41,
        reason="of a test",
    )
    async with begin(runtime.engine) as conn:
        await assignments.insert(conn, [made])


def at(seconds: float) -> str:
    """A time that many seconds after noon, as a query has it."""
    return (NOON + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


async def test_the_fleet_is_counted_as_it_was_and_what_came_later_is_left_out(api: Api, runtime: Runtime) -> None:
    first = await api.submit(count=3)
    runtime.clock.advance(60)
    await api.submit(count=2)
    await api.request("POST", f"/v1/submissions/{first['submission_id']}/cancel")
    runtime.clock.advance(60)
    nothing, three, all_ = [await api.get(f"/v1/fleet/at?time={at(s)}") for s in (-1, 59, 60)]
    assert nothing["fleet"]["by_state"] == {}
    assert three["fleet"] == {
        "at": "2026-03-02T12:00:59Z",
        "by_state": {"REQUESTED": 3},
        "by_region": {"none": 3},
        "by_flavor": {"n3-A100x1": 3},
        "alive": 3,
        "ever_ready": 0,
        "off_contract": 0,
    }
    assert all_["fleet"]["by_state"] == {"CANCELLED": 3, "REQUESTED": 2}
    assert all_["fleet"]["alive"] == 2
    of_first = await api.get(f"/v1/fleet/at?time={at(60)}&submission_id={first['submission_id']}")
    assert of_first["fleet"]["by_state"] == {"CANCELLED": 3}


async def test_the_vms_of_a_moment_are_listed_in_pages_with_their_evidence(api: Api, runtime: Runtime) -> None:
    first = await api.submit(count=5, contract_id=41)
    await note(runtime, first, 2, "on_demand")
    runtime.clock.advance(60)
    await api.request("DELETE", f"/v1/vms/{first['submission_id']}.1")
    await api.request("POST", f"/v1/submissions/{first['submission_id']}/cancel")
    await api.submit(count=4)
    before = await api.every(f"/v1/vms/at?time={at(30)}&limit=2")
    assert [vm["ref"] for vm in before] == [f"{first['submission_id']}.{n}" for n in range(1, 6)]
    assert [vm["off_contract"] for vm in before] == [False, True, False, False, False]
    assert (before[1]["contract_requested"], before[1]["contract_outcome"]) == (41, "on_demand")
    assert before[0]["evidence"] == {"kind": "record", "id": before[0]["ref"]}
    assert before[0]["since"] == at(0)
    after = await api.every(f"/v1/vms/at?time={at(60)}&state=CANCELLED")
    assert [vm["evidence"]["kind"] for vm in after] == ["decision"] * 5
    assert len(await api.every(f"/v1/vms/at?time={at(60)}&limit=3")) == 9
    assert len(await api.every(f"/v1/vms/at?time={at(60)}&submission_id={first['submission_id']}")) == 5


async def test_the_times_off_contract_are_cut_to_the_period_paged_and_summed(api: Api, runtime: Runtime) -> None:
    made = await api.submit(count=3, contract_id=41)
    for vm_no in (1, 2, 3):
        await note(runtime, made, vm_no, "on_demand")
    runtime.clock.advance(100)
    await note(runtime, made, 1, "assigned")
    runtime.clock.advance(100)
    whole = await api.get("/v1/off-contract")
    assert (whole["since"], whole["until"]) == (None, at(200))
    assert [(one["since"], one["until"], one["seconds"]) for one in whole["items"]] == [
        (at(0), at(100), 100.0),
        (at(0), None, 200.0),
        (at(0), None, 200.0),
    ]
    assert whole["total"] == {
        "vms": 3,
        "times": 3,
        "seconds": 500.0,
        "gpu_seconds": 0.0,
        "seconds_of_unknown_gpus": 500.0,
    }
    part = f"/v1/off-contract?since={at(50)}&until={at(150)}"
    assert [one["seconds"] for one in (await api.get(part))["items"]] == [50.0, 100.0, 100.0]
    page = await api.get(f"{part}&limit=2")
    assert (len(page["items"]), page["total"]["seconds"]) == (2, 250.0)
    assert [one["ref"] for one in await api.every(f"{part}&limit=1")] == [
        f"{made['submission_id']}.{n}" for n in (1, 2, 3)
    ]
    later = await api.get(f"/v1/off-contract?since={at(100)}")
    assert [one["ref"][-2:] for one in later["items"]] == [".2", ".3"]


async def test_any_zone_will_do(api: Api) -> None:
    await api.submit()
    for same in ("2026-03-02T13:00:00+01:00", "2026-03-02t12:00:00.000z", "2026-03-02T00:00:00-12:00"):
        found = await api.get(f"/v1/fleet/at?time={quote(same)}")
        assert (found["fleet"]["at"], found["fleet"]["alive"]) == ("2026-03-02T12:00:00Z", 1)


@pytest.mark.parametrize(
    "time",
    [
        "2026-03-02T11:00:00",
        "2026-03-02",
        "1700000000",
        "yesterday",
        "2026-02-30T12:00:00Z",
        "2026-03-02T13:00:00+01:00",  # + is a space in a query
        "0001-01-01T00:00:00%2B12:00",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/v1/fleet/at?time=", "/v1/vms/at?time=", "/v1/off-contract?since="])
async def test_a_time_that_is_none_or_has_no_zone_is_a_mistake(api: Api, path: str, time: str) -> None:
    answer = await api.request("GET", path + time)
    assert answer.status == 422
    assert [one["field"] for one in answer.json["errors"]] == [path.rpartition("?")[2].rstrip("=")]
    assert "2026-11-01T12:00:00Z" in answer.json["errors"][0]["message"]


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        (f"/v1/fleet/at?time={at(1)}", ["time"]),
        (f"/v1/vms/at?time={at(1)}", ["time"]),
        (f"/v1/off-contract?since={at(1)}&until={at(2)}", ["since", "until"]),
        (f"/v1/off-contract?since={at(0)}", ["since"]),
        (f"/v1/off-contract?since={at(-1)}&until={at(-2)}", ["since"]),
        ("/v1/fleet/at", ["time"]),
        ("/v1/vms/at?state=ACTIV", ["time", "state"]),
        (f"/v1/vms/at?time={at(0)}&ready=true", ["ready"]),
        ("/v1/off-contract?cursor=nonsense", ["cursor"]),
    ],
)
async def test_what_cannot_be_answered_is_refused_with_every_mistake(api: Api, query: str, fields: list[str]) -> None:
    answer = await api.request("GET", query)
    assert answer.status == 422
    assert [one["field"] for one in answer.json["errors"]] == fields


async def test_a_submission_that_is_none_is_not_answered_with_nothing(api: Api) -> None:
    nobody = "submission_id=00000000-0000-7000-8000-000000000000"
    assert (await api.request("GET", f"/v1/fleet/at?time={at(0)}&{nobody}")).status == 404
    assert (await api.request("GET", f"/v1/off-contract?{nobody}")).status == 404


async def test_the_moment_is_a_parameter_that_has_to_be_given(api: Api) -> None:
    document = await api.get("/openapi.json")
    given = {one["name"]: one for one in document["paths"]["/v1/fleet/at"]["get"]["parameters"]}
    assert (given["time"]["required"], given["submission_id"]["required"]) == (True, False)
    assert given["time"]["schema"] == {"format": "date-time", "type": "string"}

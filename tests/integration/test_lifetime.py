"""Submissions that end by themselves: announced, withdrawn through the standing deletion, extended."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from operator_api import TOKEN, Api, serving
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import START, Stage
from structlog.testing import capture_logs


@pytest.fixture
async def stage(engine: AsyncEngine) -> Stage:
    return Stage(engine, api_tokens=(f"tests={TOKEN}",))


@pytest.fixture
async def api(stage: Stage) -> AsyncIterator[Api]:
    async with serving(stage.rt) as api:
        yield api


async def ready(stage: Stage, **policy: Any) -> str:
    submission_id = await stage.submit(count=2, policy=policy)
    await stage.until(lambda: has_state(stage, "ready"))
    return str(submission_id)


async def has_state(stage: Stage, state: str) -> bool:
    return (await stage.submission()).state == state


async def gone(stage: Stage) -> bool:
    return set(await stage.states()) == {"DELETED"}


async def test_a_lifetime_begins_when_the_submission_is_ready_and_ends_its_vms(stage: Stage) -> None:
    await ready(stage, lifetime="10m")
    found = await stage.submission()
    assert found.expires_at == found.ended_at + timedelta(minutes=10)
    await stage.live(590, step=59)
    assert await stage.states() == ["ACTIVE", "ACTIVE"]
    await stage.until(lambda: gone(stage))
    found = await stage.submission()
    assert (found.state, found.cancel_reason) == ("ready", "its lifetime of 10m is over")
    assert {vm.deletion_reason for vm in await stage.vms()} == {"its lifetime of 10m is over"}


async def test_a_time_of_expiry_ends_also_what_is_not_ready(stage: Stage) -> None:
    stage.world.cloud.fleet.stock.change("n3-A100x1", 0)
    await stage.submit(policy={"expires_at": (START + timedelta(minutes=5)).isoformat().replace("+00:00", "Z")})
    assert (await stage.submission()).deadline_at == START + timedelta(minutes=5)
    await stage.until(lambda: has_state(stage, "cancelled"), step=60)
    assert await stage.states() in (["CANCELLED"], ["REFUSED"])


async def test_the_end_is_announced_once_before_it_comes(stage: Stage) -> None:
    await ready(stage, lifetime="10h", deadline_seconds="1h")
    with capture_logs() as logs:
        await stage.live(8 * 3600, step=1200)
        announced = [one for one in logs if one["event"].startswith("submission expires soon")]
        assert announced == []
        await stage.live(5400, step=600)
        announced = [one for one in logs if one["event"].startswith("submission expires soon")]
    assert [one["expires_at"] for one in announced] == [(await stage.submission()).expires_at.isoformat()]


async def test_an_extension_moves_the_end_and_can_be_repeated(stage: Stage, api: Api) -> None:
    submission_id = await ready(stage, lifetime="10m")
    for _ in range(2):
        answer = await api.request("PATCH", f"/v1/submissions/{submission_id}", {"lifetime": "30m"})
        assert answer.status == 200
        assert answer.json["policy"]["lifetime"] == 1800
    found = await stage.submission()
    assert found.expires_at == found.ended_at + timedelta(minutes=30)
    assert [one["kind"] for one in answer.json["actions"]] == ["submit", "change", "change"]
    await stage.live(1200, step=300)
    assert await stage.states() == ["ACTIVE", "ACTIVE"]


async def test_null_means_never(stage: Stage, api: Api) -> None:
    submission_id = await ready(stage, lifetime="10m")
    assert (await api.request("PATCH", f"/v1/submissions/{submission_id}", {"lifetime": None})).status == 200
    await stage.live(1200, step=300)
    assert await stage.states() == ["ACTIVE", "ACTIVE"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({}, "body"),
        ({"lifetime": "1s"}, "lifetime"),
        ({"lifetime": "soon"}, "lifetime"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"lifetime": "2h", "expires_at": "2030-01-01T00:00:00Z"}, "expires_at"),
        ({"state": "ready"}, "state"),
    ],
)
async def test_a_change_that_makes_no_sense_is_refused(stage: Stage, api: Api, change: dict, field: str) -> None:
    submission_id = await ready(stage, lifetime="10m")
    answer = await api.request("PATCH", f"/v1/submissions/{submission_id}", change)
    assert answer.status == 422
    assert [one["field"] for one in answer.json["errors"]] == [field]


async def test_what_is_being_deleted_cannot_be_extended(stage: Stage, api: Api) -> None:
    submission_id = await ready(stage, lifetime="10m")
    await stage.live(610, step=61)
    answer = await api.request("PATCH", f"/v1/submissions/{submission_id}", {"lifetime": "30m"})
    assert (answer.status, answer.json["type"]) == (409, "/problems/not-allowed")


async def test_an_expiry_in_the_past_is_refused_when_submitting(api: Api) -> None:
    policy = {"expires_at": "2020-01-01T00:00:00Z"}
    answer = await api.request("POST", "/v1/submissions", {**BODY, "policy": policy})
    assert [one["field"] for one in answer.json["errors"]] == ["policy.expires_at"]


BODY = {
    "name": "train", "environment_name": "test1", "flavor_name": "n3-A100x1", "key_name": "example-key", "count": 1,
    "image_name": "Ubuntu Server 22.04 LTS R535 CUDA 12.2",
}  # fmt: skip

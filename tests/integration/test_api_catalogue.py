"""Submissions compared with the provider's catalogue: read on record, kept a while, never insisted on."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from cloud_transport import CloudTransport, connected
from operator_api import Api, body, serving
from simulated import Caller
from sqlalchemy import select

from service.runtime.runtime import Runtime
from service.simulator.config import KeypairConfig
from service.storage.engine import begin
from service.storage.tables import call_ends, calls


@pytest.fixture
def provider() -> CloudTransport:
    return CloudTransport(Caller())


@pytest.fixture
def with_provider(runtime: Runtime, provider: CloudTransport) -> Runtime:
    return connected(runtime, provider)


@pytest.fixture
async def api(with_provider: Runtime) -> AsyncIterator[Api]:
    async with serving(with_provider) as api:
        yield api


async def test_a_request_that_fits_is_kept_without_a_warning(api: Api) -> None:
    assert (await api.submit(environment_name="default-CANADA-1"))["warnings"] == []


async def test_a_request_that_can_never_fit_is_refused_with_near_misses(api: Api) -> None:
    answer = await api.request("POST", "/v1/submissions", body(flavor_name="n3-A100x2", key_name="exmaple-key"))
    assert answer.status == 422
    assert {mistake["field"] for mistake in answer.json["errors"]} == {"flavor_name", "key_name"}
    assert "did you mean n3-A100x4 or n3-A100x1" in str(answer.json["errors"])
    assert (await api.get("/v1/submissions"))["items"] == []


async def test_the_catalogue_is_read_once_for_many_and_again_when_it_is_old(
    api: Api, provider: CloudTransport, with_provider: Runtime
) -> None:
    for _ in range(3):
        await api.submit(environment_name="default-CANADA-1")
    assert sorted(provider.asked) == [
        "GET /v1/core/environments",
        "GET /v1/core/flavors",
        "GET /v1/core/images",
        "GET /v1/core/keypairs",
    ]
    with_provider.clock.advance(301)
    await api.submit(environment_name="default-CANADA-1")
    assert len(provider.asked) == 8


async def test_nothing_is_refused_on_the_word_of_an_old_catalogue(
    api: Api, provider: CloudTransport, with_provider: Runtime
) -> None:
    await api.submit(environment_name="default-CANADA-1")
    config = provider.caller.cloud.fleet.config
    provider.caller.cloud.fleet.config = replace(
        config, keypairs=(KeypairConfig(name="example-key"), KeypairConfig(name="brand-new"))
    )
    with_provider.clock.advance(30)
    assert (await api.submit(key_name="brand-new"))["count"] == 1


async def test_the_reading_is_on_record_and_out_of_the_budget(api: Api, with_provider: Runtime) -> None:
    await api.submit()
    async with begin(with_provider.engine) as conn:
        ended = await conn.execute(
            select(calls.c.operation, call_ends.c.outcome).join(call_ends, calls.c.call_id == call_ends.c.call_id)
        )
        told = sorted(map(tuple, ended))
    assert told == [("environments", "ok"), ("flavors", "ok"), ("images", "ok"), ("keypairs", "ok")]
    assert 'rollcall_rate_limit_used{operation="read"} 4.0' in (await api.request("GET", "/metrics")).json


async def test_a_repeated_request_is_answered_whatever_the_catalogue_says_by_now(
    api: Api, provider: CloudTransport, with_provider: Runtime
) -> None:
    first = await api.request("POST", "/v1/submissions", body(), Idempotency_Key="k-1")
    config = provider.caller.cloud.fleet.config
    provider.caller.cloud.fleet.config = replace(config, keypairs=(KeypairConfig(name="another-key"),))
    with_provider.clock.advance(301)
    again = await api.request("POST", "/v1/submissions", body(), Idempotency_Key="k-1")
    assert (again.status, again.json["submission_id"]) == (200, first.json["submission_id"])


async def test_without_a_provider_a_request_is_kept_with_a_warning(runtime: Runtime) -> None:
    async with serving(runtime) as api:
        (warning,) = (await api.submit(flavor_name="nonsense"))["warnings"]
    assert "could not be read" in warning


async def test_a_rejected_key_is_a_warning_and_no_more_readings(runtime: Runtime) -> None:
    runtime.health.report("provider key", "rejected")
    async with serving(runtime) as api:
        (warning,) = (await api.submit())["warnings"]
    assert "could not be read" in warning


async def test_a_slow_provider_does_not_hold_a_request_up_for_long(
    api: Api, provider: CloudTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.catalogue._TIMEOUT", 0.01)
    provider.before = asyncio.Event().wait
    (warning,) = (await api.submit(flavor_name="nonsense"))["warnings"]
    assert "could not be read" in warning

"""The operator listener's door: tokens, errors in JSON, health, metrics."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from operator_api import Api, serving
from pydantic import SecretStr

from service.api.access import who
from service.runtime.runtime import Runtime
from service.storage.engine import create_engine

CALLERS = {"ops": SecretStr("token-of-ops-0001"), "ci": SecretStr("token-of-ci-00001")}


@pytest.fixture
async def api(runtime: Runtime) -> AsyncIterator[Api]:
    async with serving(runtime) as api:
        yield api


@pytest.fixture
async def api_without_database(runtime: Runtime) -> AsyncIterator[Api]:
    engine = create_engine("postgresql://nobody@127.0.0.1:9/nothing")
    async with serving(replace(runtime, engine=engine)) as api:
        yield api
    await engine.dispose()


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Bearer token-of-ops-0001", "ops"),
        ("bearer  token-of-ci-00001 ", "ci"),
        ("Bearer token-of-ops-0002", None),
        ("Basic token-of-ops-0001", None),
        ("token-of-ops-0001", None),
        ("Bearer ", None),
        ("", None),
        ("Bearer \udcff", None),
    ],
)
def test_a_token_tells_who_is_asking(given: str, name: str | None) -> None:
    assert who(given, CALLERS) == name


def test_without_any_token_nobody_gets_in() -> None:
    assert who("Bearer ", {}) is None


@pytest.mark.parametrize("path", ["/v1/submissions", "/v1/vms/1", "/metrics", "/openapi.json", "/no/such/path", "/"])
async def test_everything_but_health_needs_a_token(api: Api, path: str) -> None:
    for token in (None, "a-wrong-token-of-tests"):
        answer = await api.request("GET", path, token=token)
        assert answer.status == 401
        assert answer.json["error"] == "unauthorized"
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_health_needs_no_token(api: Api) -> None:
    alive = await api.request("GET", "/livez", token=None)
    ready = await api.request("GET", "/readyz", token=None)
    assert (alive.status, alive.json) == (200, {"alive": True})
    assert (ready.status, ready.json) == (200, {"ready": True, "issues": {}})


async def test_a_trouble_is_said_and_makes_the_daemon_not_ready(api: Api, runtime: Runtime) -> None:
    runtime.health.report("provider key", "the provider rejects the API key")
    ready = await api.request("GET", "/readyz", token=None)
    assert ready.status == 503
    assert ready.json == {"ready": False, "issues": {"provider key": "the provider rejects the API key"}}


async def test_without_the_database_it_is_not_ready_and_says_so(api_without_database: Api) -> None:
    ready = await api_without_database.request("GET", "/readyz", token=None)
    assert ready.status == 503
    assert ready.json["issues"].keys() == {"database"}


async def test_without_the_database_a_request_is_to_be_tried_again(api_without_database: Api) -> None:
    answer = await api_without_database.request("GET", "/v1/vms")
    assert answer.status == 503
    assert answer.json["error"] == "storage_unavailable"
    assert answer.headers["Retry-After"] == "1"


async def test_without_the_database_the_counters_are_served(api_without_database: Api) -> None:
    text = (await api_without_database.request("GET", "/metrics")).json
    assert "rollcall_inbox_events NaN" in text
    assert "rollcall_callback_seconds_count 0.0" in text


async def test_an_unknown_path_and_method_are_answered_in_json(api: Api) -> None:
    path = await api.request("GET", "/v1/nothing")
    method = await api.request("PUT", "/v1/submissions")
    assert (path.status, path.json["error"]) == (404, "not_found")
    assert (method.status, method.json["error"]) == (405, "method_not_allowed")
    assert set(method.headers["Allow"].split(",")) == {"GET", "HEAD", "POST"}


async def test_a_failure_of_ours_says_nothing_of_its_cause(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(*_args: object, **_more: object) -> None:
        raise RuntimeError("secret-of-a-user")

    monkeypatch.setattr("service.storage.vms.page", fail)
    answer = await api.request("GET", "/v1/vms")
    assert answer.status == 500
    assert answer.json["error"] == "internal"
    assert "secret-of-a-user" not in str(answer.json)


async def test_the_metrics_count_the_fleet(api: Api) -> None:
    made = await api.submit(count=3)
    before = (await api.request("GET", "/metrics")).json
    await api.request("POST", f"/v1/submissions/{made['submission_id']}/cancel")
    after = (await api.request("GET", "/metrics")).json
    assert 'rollcall_vms{state="REQUESTED"} 3.0' in before
    assert 'rollcall_vms{state="REQUESTED"}' not in after
    assert 'rollcall_vms{state="CANCELLED"} 3.0' in after
    assert 'rollcall_submissions{state="cancelled"} 1.0' in after
    assert "rollcall_rate_limit_calls 495.0" in after

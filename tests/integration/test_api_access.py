"""The operator listener: tokens, problems, health, metrics."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from clock import NOON
from operator_api import Api, serving
from pydantic import SecretStr
from structlog.testing import capture_logs

from service.api.callers import Callers
from service.api.problems import TYPES
from service.api.wrong_tokens import WrongTokens, delay_after
from service.runtime.runtime import Runtime
from service.storage.engine import create_engine


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
    ("authorization", "status"),
    [
        ("Bearer a-token-of-tests", 200),
        ("bearer  a-token-of-tests ", 200),
        ("Bearer a-token-of-test", 401),
        ("Basic a-token-of-tests", 401),
        ("a-token-of-tests", 401),
        ("Bearer ", 401),
        ("Bearer", 401),
        ("", 401),
        ("Bearer \udcff", 401),
    ],
)
async def test_a_token_is_sent_as_a_bearer(api: Api, authorization: str, status: int) -> None:
    answer = await api.request("GET", "/v1/vms", token=None, Authorization=authorization)
    assert answer.status == status


async def test_without_any_token_nobody_gets_in(runtime: Runtime) -> None:
    for given in ({}, {"broken": SecretStr("")}):
        assert await Callers(runtime, given).find("") is None


@pytest.mark.parametrize("path", ["/v1/submissions", "/v1/vms/1", "/metrics", "/no/such/path", "/v1"])
async def test_everything_but_health_needs_a_token(api: Api, path: str) -> None:
    for token in (None, "a-wrong-token-of-tests"):
        answer = await api.request("GET", path, token=token)
        assert answer.status == 401
        assert answer.json["type"] == "/problems/unauthorized"
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_health_needs_no_token(api: Api) -> None:
    alive = await api.request("GET", "/livez", token=None)
    ready = await api.request("GET", "/readyz", token=None)
    assert (alive.status, alive.json) == (200, {"alive": True})
    assert (ready.status, ready.json) == (200, {"ready": True})
    assert await api.get("/readyz") == {"ready": True, "issues": {}}


async def test_only_a_token_shows_the_health_issues(api: Api, runtime: Runtime) -> None:
    runtime.health.report("provider key", "the provider rejects the API key")
    for token in (None, "a-wrong-token-of-tests"):
        ready = await api.request("GET", "/readyz", token=token)
        assert (ready.status, ready.json) == (503, {"ready": False})
    ready = await api.request("GET", "/readyz")
    assert ready.status == 503
    assert ready.json == {"ready": False, "issues": {"provider key": "the provider rejects the API key"}}


async def test_wrong_tokens_are_counted_slowed_and_logged_once_a_minute(api: Api, runtime: Runtime) -> None:
    def counted() -> float:
        return runtime.metrics.registry.get_sample_value("rollcall_api_wrong_tokens_total") or 0.0

    with capture_logs() as logs:
        for _ in range(20):
            assert (await api.request("GET", "/v1/vms", token="a-wrong-token-of-tests")).status == 401
        slept = list(runtime.clock.slept)
        assert (await api.request("GET", "/v1/vms")).status == 200
        assert runtime.clock.slept == slept  # the right token is not slowed, whatever came before it
        runtime.clock.advance(60)
        await api.request("GET", "/readyz", token="a-wrong-token-of-tests")
    assert counted() == 21
    assert slept == sorted(slept)
    assert slept[-1] >= 1
    wrong = [one for one in logs if one.get("action") == "authorize"]
    assert [(one["source"], one["in_the_minute_before"]) for one in wrong] == [("127.0.0.1", 0), ("127.0.0.1", 20)]
    assert "a-wrong-token-of-tests" not in str(logs)


async def test_a_request_without_a_token_is_not_a_wrong_token(api: Api, runtime: Runtime) -> None:
    for _ in range(5):
        await api.request("GET", "/readyz", token=None)
    assert runtime.metrics.registry.get_sample_value("rollcall_api_wrong_tokens_total") == 0
    assert runtime.clock.slept == []


def test_the_delay_grows_to_a_bound() -> None:
    delays = [delay_after(count) for count in range(1, 2000)]
    assert delays[0] == 0
    assert delays == sorted(delays)
    assert delays[-1] <= 2


def test_sources_of_wrong_tokens_are_bounded_and_those_beyond_are_slowed_together() -> None:
    tokens = WrongTokens()
    for number in range(WrongTokens.MAX_SOURCES):
        tokens.add(f"source {number}", NOON)
    assert [tokens.add(f"another {number}", NOON)[0] for number in range(3)] == [1, 2, 3]
    later = NOON + timedelta(minutes=1)
    assert tokens.add("source 0", later) == (1, 1)
    assert tokens.add("yet another", later) == (1, 0)


async def test_without_the_database_it_is_not_ready_and_says_so(api_without_database: Api) -> None:
    ready = await api_without_database.request("GET", "/readyz")
    assert ready.status == 503
    assert ready.json["issues"].keys() == {"database"}


async def test_every_error_is_a_problem(api: Api) -> None:
    answers = [
        await api.request("GET", "/v1/vms", token=None),
        await api.request("GET", "/v1/nothing"),
        await api.request("PUT", "/v1/submissions"),
        await api.request("POST", "/v1/submissions", b"x" * 1_100_000),
        await api.request("POST", "/v1/submissions", {}),
        await api.request("GET", "/v1/vms/1"),
    ]
    assert [one.status for one in answers] == [401, 404, 405, 413, 422, 404]
    for one in answers:
        assert one.headers["Content-Type"] == "application/problem+json"
        assert one.json["status"] == one.status
        assert one.json["type"] in {kind.uri for kind in TYPES}
        assert one.json["title"]
        assert one.json["detail"]
    assert [sorted(one.json.keys() - {"type", "title", "status", "detail"}) for one in answers] == [
        [], [], [], [], ["errors"], [],
    ]  # fmt: skip


async def test_without_the_database_a_request_is_to_be_tried_again(api_without_database: Api) -> None:
    answer = await api_without_database.request("GET", "/v1/vms")
    assert answer.status == 503
    assert answer.json["type"] == "/problems/unavailable"
    assert answer.headers["Retry-After"] == "1"


async def test_without_the_database_the_counters_are_served(api_without_database: Api) -> None:
    text = (await api_without_database.request("GET", "/metrics")).json
    assert "rollcall_inbox_events NaN" in text
    assert "rollcall_callback_seconds_count 0.0" in text


async def test_an_unknown_path_and_method_are_answered_in_json(api: Api) -> None:
    path = await api.request("GET", "/v1/nothing")
    method = await api.request("PUT", "/v1/submissions")
    assert (path.status, path.json["type"]) == (404, "/problems/not-found")
    assert (method.status, method.json["type"]) == (405, "/problems/method-not-allowed")
    assert set(method.headers["Allow"].split(",")) == {"GET", "HEAD", "POST"}


async def test_a_failure_of_ours_says_nothing_of_its_cause(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(*_args: object, **_more: object) -> None:
        raise RuntimeError("secret-of-a-user")

    monkeypatch.setattr("service.storage.vms.page", fail)
    answer = await api.request("GET", "/v1/vms")
    assert answer.status == 500
    assert answer.json["type"] == "/problems/internal-error"
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

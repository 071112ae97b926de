"""The API under requests drawn from its own OpenAPI document, valid and not, with a token of every role (schemathesis)."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import hypothesis
import pytest
import requests
import schemathesis
import tokens
from cloud_transport import CloudTransport, connected
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from operator_api import Api, serving
from schemathesis import APIOperation, Case, GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    missing_required_header,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from simulated import Caller
from stored_events import store_dead_letter
from structlog.testing import capture_logs

from service.api.openapi import document
from service.api.routes import ROUTES
from service.core.api_token import ALLOWED, Role
from service.runtime.runtime import Runtime

DOCUMENT = document(ROUTES)
ROLES = {(route.method, route.path): ALLOWED[route.role] if route.role else tuple(Role) for route in ROUTES}
#: Not that everything the schema allows is accepted: rules between fields, and times that have passed, are in no schema.
CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    response_headers_conformance, missing_required_header, negative_data_rejection,
]  # fmt: skip
LONGEST_URL = 8000
Known = Mapping[str, list[str]]


@pytest.fixture
async def api(runtime: Runtime) -> AsyncIterator[Api]:
    # The clock stands still, so that no call to the provider is ever forgotten.
    runtime.settings = runtime.settings.model_copy(update={"calls_per_minute": 100_000})
    with capture_logs():
        async with serving(connected(runtime, CloudTransport(Caller()))) as api:
            yield api


async def test_every_answer_to_any_request_is_documented_and_none_is_a_failure(
    api: Api, runtime: Runtime, request: pytest.FixtureRequest
) -> None:
    known = await record(api, runtime)
    by_role = await tokens.of_each_role(runtime)
    examples, seed = (int(request.config.getoption(name)) for name in ("--api-examples", "--api-seed"))
    judge = Judge(api.url, by_role, known)
    await asyncio.to_thread(judge.send_all, examples, seed)
    assert not judge.wrong, "\n".join(f"{what}: {how}" for what, how in judge.wrong.items())
    assert {(mode, status) for mode in GenerationMode for status in (200, 403, 422)} - {
        (GenerationMode.NEGATIVE, 200)
    } <= judge.seen


async def record(api: Api, runtime: Runtime) -> Known:
    """Something to ask for: the names that paths may hold."""
    made = [await api.submit(name=f"fuzzed-{number}", count=2) for number in range(3)]
    ids = [one["submission_id"] for one in made]
    event_id = await store_dead_letter(runtime)
    await tokens.created(runtime, "nightly", Role.SUBMIT)
    message = await api.request("POST", "/v1/notifications/test", {"target": "log"})
    # A read of the provider that takes 5 s is 502, as documented, and on a busy machine the first one may. Later ones are cached.
    for route in (one for one in ROUTES if one.path.startswith("/v1/catalogue/")):
        while (await api.request("GET", route.path)).status == 502:
            pass
    return {
        "id": [*ids, ids[0][:8], "fuzzed-1"],
        "ref": [f"{one}.{number}" for one in ids for number in (1, 2)],
        "event_id": [str(event_id)],
        "name": ["nightly"],
        "message_id": [message.json["message_id"]],
    }


class Judge:
    """Sends requests that the document allows, and that it does not, and keeps what is wrong with the answers."""

    def __init__(self, url: str, by_role: Mapping[Role, str], known: Known) -> None:
        self.wrong: dict[str, str] = {}
        self.seen: set[tuple[GenerationMode, int]] = set()
        self._url, self._by_role, self._known = url, by_role, known
        self._session = requests.Session()

    def send_all(self, examples: int, seed: int) -> None:
        config = schemathesis.Config.from_dict({"generation": {"with-security-parameters": False}})
        with self._session:
            for found in schemathesis.openapi.from_dict(DOCUMENT, config=config).get_all_operations():
                operation = found.ok()
                if "text/event-stream" in str(operation.definition.raw["responses"]):  # it has no end
                    continue
                self._send(operation, GenerationMode.POSITIVE, examples, seed)
                if operation.body or operation.query:  # any text is a name in a path
                    self._send(operation, GenerationMode.NEGATIVE, examples // 2, seed)

    def _send(self, operation: APIOperation, mode: GenerationMode, examples: int, seed: int) -> None:
        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=examples,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(
            operation.as_strategy(generation_mode=mode), st.sampled_from(Role), st.booleans(), st.integers(min_value=0)
        )
        def send_one(case: Case, role: Role, is_known: bool, which: int) -> None:
            for name in case.path_parameters if is_known else ():
                case.path_parameters[name] = self._known[name][which % len(self._known[name])]
            response = case.call(self._url, self._session, headers={"Authorization": f"Bearer {self._by_role[role]}"})
            if len(response.request.url or "") > LONGEST_URL:  # the HTTP server refuses it before we see it
                return
            self.seen.add((mode, response.status_code))
            self._judge(case, response, role)

        send_one()

    def _judge(self, case: Case, response: Response, role: Role) -> None:
        operation = case.operation
        may = role in ROLES[operation.method.upper(), operation.path]
        if may == (response.status_code in {401, 403}):
            self.wrong.setdefault(f"{operation.label} with the role {role}", f"{response.status_code}")
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as failures:
            for one in failures.exceptions:
                self.wrong.setdefault(
                    f"{operation.label}: {one.title}", f"{one.message} {case.as_curl_command()}"[:600]
                )

"""The page about the API: complete, open to everybody, and with examples that are true."""

import ast
import re
import shlex
from collections.abc import AsyncIterator
from html import unescape
from urllib.parse import urlsplit

import pytest
from cloud_transport import CloudTransport, connected
from operator_api import TOKEN, Api, serving
from simulated import Caller
from structlog.testing import capture_logs

from service.api.openapi import document
from service.api.routes import ROUTES
from service.client.operations import NAMES, Operations
from service.runtime.runtime import Runtime
from service.web.api_docs import BODIES, VALUES, DocOperation, operations

DOCUMENTED = list(operations(document(ROUTES)))


@pytest.fixture
async def api(runtime: Runtime) -> AsyncIterator[Api]:
    with capture_logs():
        async with serving(connected(runtime, CloudTransport(Caller()))) as api:
            yield api


async def test_anybody_may_read_it_and_it_has_every_operation_and_runs_no_script_of_others(api: Api) -> None:
    async with api.client.get("/docs") as page:
        text = unescape(await page.text())
        assert page.status == 200
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert re.findall(r'<details id="(?!type-)(\w+)"', text) == [one.name for one in DOCUMENTED]
    assert {(one.method, one.path) for one in DOCUMENTED} == set(NAMES)
    for one in DOCUMENTED:
        assert one.python in text
        assert one.curl.splitlines()[-1].strip() in text
    assert set(re.findall(r'(?:src|href)="([^"]+)"', text)) <= {
        "/", "/docs", "/openapi.json", "#content", "/static/icon.svg", "/static/dashboard.css", "/static/dashboard.js",
        "https://www.rfc-editor.org/rfc/rfc9457",
    }  # fmt: skip


@pytest.mark.parametrize("one", DOCUMENTED, ids=lambda one: one.name)
def test_an_example_in_python_is_a_call_that_the_client_takes(one: DocOperation) -> None:
    call = ast.parse(one.python, mode="eval").body
    assert isinstance(call, ast.Call)
    arguments = [ast.literal_eval(argument) for argument in call.args]
    named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    request = getattr(Operations, one.name).prepare(*arguments, **named)
    url, body = parsed(one)
    assert (request.method, request.target) == (one.method, url)
    assert (request.body is not None) is (body is not None)


async def test_every_example_with_curl_is_a_request_that_the_api_accepts(api: Api, runtime: Runtime) -> None:
    """At most it does not find what the example names, or may not do that to it."""
    for one in sorted(DOCUMENTED, key=lambda one: one.name != "create_submission"):
        target, body = parsed(one)
        if one.name == "stream":  # it has no end
            assert await api.status_of_stream(target, TOKEN) == 200
            continue
        headers = {"Idempotency_Key": VALUES["Idempotency-Key"]} if "Idempotency-Key" in one.curl else {}
        answer = await api.request(one.method, target, body, **headers)
        names_nothing = answer.status in {404, 409} or one.name in {"test_notification", "import_vms"}
        assert answer.status < 300 or names_nothing, (one.name, answer)


def test_every_body_has_an_example() -> None:
    assert {route.body for route in ROUTES if route.body} == set(BODIES)


def parsed(one: DocOperation) -> tuple[str, bytes | None]:
    words = shlex.split(one.curl.replace("\\\n", ""))
    url = urlsplit(words[-1].removeprefix("$ROLLCALL_API_URL"))
    body = words[words.index("-d") + 1].encode() if "-d" in words else None
    return url.geturl(), body

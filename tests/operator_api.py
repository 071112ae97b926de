"""The operator API for tests: served on a socket of its own, asked with a token."""

import io
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import jsonschema_rs
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from service.api.access_record import AccessRecord
from service.api.app import make_app
from service.api.context import ACCESS_RECORD
from service.api.openapi import document
from service.api.routes import ROUTES
from service.runtime.runtime import Runtime
from service.web.dashboard import add_dashboard

_JSON = ("/json", "+json")
TOKEN = "a-token-of-tests"


def body(**changes: Any) -> dict[str, Any]:
    """The body of a submission that is accepted; what is set to None is left out."""
    full = {
        "name": "vm",
        "environment_name": "test1",
        "flavor_name": "n3-A100x1",
        "image_name": "Ubuntu Server 22.04 LTS R535 CUDA 12.2",
        "key_name": "example-key",
        "count": 1,
    }
    return {name: value for name, value in (full | changes).items() if value is not None}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    json: Any


class Documented:
    """The OpenAPI document as a judge: every answer that a test gets has to be as it says."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._paths = {path: re.compile(re.sub(r"{\w+}", "[^/]+", path)) for path in document["paths"]}

    def judge(self, method: str, path: str, answer: Answer) -> None:
        operation = self._operation(method, path.partition("?")[0])
        if operation is None or answer.status == 500:
            return
        content = operation["responses"][str(answer.status)]["content"]
        content_type = answer.headers["Content-Type"].partition(";")[0]
        assert content_type in content, (method, path, answer)
        if content_type.endswith(_JSON):
            schema = {**content[content_type]["schema"], "components": self._document["components"]}
            jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(answer.json)

    def _operation(self, method: str, path: str) -> dict[str, Any] | None:
        found = [self._document["paths"][known] for known, form in self._paths.items() if form.fullmatch(path)]
        return found[0].get(method.lower()) if found else None


class Api:
    """Asks, and reads the whole answer."""

    def __init__(self, client: TestClient) -> None:
        self._client = client
        self._documented = Documented(document(ROUTES))
        self.app = client.app
        self.client = client
        self.url = str(client.make_url("/")).rstrip("/")

    @property
    def access_record(self) -> AccessRecord:
        return self._client.app[ACCESS_RECORD]

    async def settled(self) -> None:
        """Wait for what the API writes in the background."""
        await self.access_record.close()

    async def status_of_stream(self, path: str, token: str) -> int:
        """The status of an answer that does not end."""
        async with self._client.get(path, headers={"Authorization": f"Bearer {token}"}) as got:
            return got.status

    async def request(
        self, method: str, path: str, content: Any = None, *, token: str | None = TOKEN, **headers: str
    ) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            named["Authorization"] = f"Bearer {token}"
        raw = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
        async with self._client.request(method, path, headers=named, data=io.BytesIO(raw)) as got:
            answer = Answer(got.status, got.headers, await _json(got))
        self._documented.judge(method, path, answer)
        return answer

    async def get(self, path: str) -> Any:
        """The JSON of an answer that has to be 200."""
        answer = await self.request("GET", path)
        assert answer.status == 200, answer
        return answer.json

    async def submit(self, **changes: Any) -> dict[str, Any]:
        """The submission that an accepted request made."""
        answer = await self.request("POST", "/v1/submissions", body(**changes))
        assert answer.status == 201, answer
        return answer.json

    async def every(self, path: str) -> list[Any]:
        """All items of a list, page by page."""
        joined = "&" if "?" in path else "?"
        page = await self.get(path)
        items = page["items"]
        while page["next"] is not None:
            page = await self.get(f"{path}{joined}cursor={page['next']}")
            items += page["items"]
        return items


async def _json(got: ClientResponse) -> Any:
    return json.loads(await got.read()) if got.content_type.endswith(_JSON) else await got.text()


@asynccontextmanager
async def serving(rt: Runtime) -> AsyncIterator[Api]:
    app = make_app(rt, rt.settings.callers)
    add_dashboard(app)
    async with TestClient(TestServer(app)) as client:
        yield Api(client)

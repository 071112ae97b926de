"""The OpenAPI document: whole, consistent, and true of what is answered."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import jsonschema_rs
import pytest
from operator_api import Api, body, serving

from service.api.app import make_app
from service.runtime.runtime import Runtime


@pytest.fixture
async def api(runtime: Runtime) -> AsyncIterator[Api]:
    async with serving(runtime) as api:
        yield api


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (one for key, one in value.items() if key == "$ref")
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from references(child)


async def test_every_route_is_documented_and_nothing_else(api: Api, runtime: Runtime) -> None:
    document = await api.get("/openapi.json")
    routes = make_app(runtime, {}).router.routes()
    served = {(route.method.lower(), route.resource.canonical) for route in routes if route.resource}
    documented = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert documented == {one for one in served if one[0] != "head"}


async def test_every_reference_leads_somewhere(api: Api) -> None:
    document = await api.get("/openapi.json")
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= known


async def test_operations_have_names_of_their_own(api: Api) -> None:
    document = await api.get("/openapi.json")
    names = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
    assert len(set(names)) == len(names)


async def test_the_schema_of_a_request_takes_what_the_api_takes(api: Api) -> None:
    document = await api.get("/openapi.json")
    schema = {"$ref": "#/components/schemas/SubmissionRequest", "components": document["components"]}
    judge = jsonschema_rs.Draft202012Validator(schema)
    for content, valid in (
        (body(count=60, contract_id=41, policy={"on_orphan": "adopt", "retry": {"means": "replace"}}), True),
        (body(count=0), False),
        (body(callback_url="https://example.com/mine"), True),
        (body(callback_url=7), False),
        (body(flavour_name="n3"), False),
        (body(policy={"lifetime": "2h", "deadline_seconds": 60}), True),
        (body(policy={"lifetime": -1}), False),
        (body(policy={"lifetime": 1e12}), False),
        (body(policy={"deadline_seconds": 0}), False),
        (body(policy={"deadline_seconds": "soon"}), False),
    ):
        assert judge.is_valid(content) is valid
        answer = await api.request("POST", "/v1/submissions", content)
        assert answer.status == (201 if valid else 422)


async def test_what_needs_no_token_is_marked_so(api: Api) -> None:
    document = await api.get("/openapi.json")
    unlocked = [path for path, methods in document["paths"].items() if methods.get("get", {}).get("security") == []]
    assert unlocked == ["/openapi.json", "/livez", "/readyz"]
    assert (await api.request("GET", "/openapi.json", token=None)).json == document

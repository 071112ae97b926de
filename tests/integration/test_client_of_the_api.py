"""The typed client: equal to the OpenAPI document, and the same with and without an event loop."""

import asyncio
import inspect
import types
from collections.abc import AsyncIterator, Mapping
from typing import Any, NotRequired, Required, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from operator_api import TOKEN, Api, body, serving

from service.api.openapi import document
from service.api.routes import ROUTES
from service.client import ApiError, AsyncRollcall, ErrorKind, NotReady, Rollcall
from service.client.operation import Declared, Lines, Listing
from service.client.operations import NAMES, Operations
from service.runtime.runtime import Runtime

DOCUMENT = document(ROUTES)
SCHEMAS = DOCUMENT["components"]["schemas"]
DECLARED: dict[str, Declared[Any]] = {name: getattr(Operations, name) for name in NAMES.values()}
KINDS = {str: "string", int: "integer", float: "number", bool: "boolean", types.NoneType: "null", list: "array"}
#: Parameters that the client leaves out: its results are JSON.
LEFT_OUT = {("cost", "format"), ("statistics", "format")}


@pytest.fixture
async def api(runtime: Runtime) -> AsyncIterator[Api]:
    async with serving(runtime) as api:
        yield api


def operations() -> dict[str, dict[str, Any]]:
    return {one["operationId"]: one for methods in DOCUMENT["paths"].values() for one in methods.values()}


def test_each_operation_of_the_document_is_one_method_and_each_method_one_operation() -> None:
    assert set(NAMES) == {(route.method, route.path) for route in ROUTES}
    assert set(operations()) == set(NAMES.values())
    assert len(DECLARED) == len(NAMES)


@pytest.mark.parametrize("name", DECLARED)
def test_a_method_takes_the_parameters_of_its_operation(name: str) -> None:
    found = inspect.signature(DECLARED[name].function).parameters
    given = {key.removesuffix("_"): value for key, value in found.items() if key != "self"}
    assert (given.pop("body", None) is not None) is ("requestBody" in operations()[name])
    wanted = {
        "idempotency_key" if one["in"] == "header" else one["name"]: one
        for one in operations()[name]["parameters"]
        if one["name"] != "cursor" and (name, one["name"]) not in LEFT_OUT
    }
    assert set(given) == set(wanted)
    for key, one in wanted.items():
        assert (given[key].default is inspect.Parameter.empty) is (one.get("required") or one["in"] == "header"), key
        assert one["schema"].get("type", "string") in {kind_of(arm) for arm in arms(given[key].annotation)}, key


@pytest.mark.parametrize("name", DECLARED)
def test_bodies_and_results_have_the_types_of_the_document(name: str) -> None:
    one, operation = DECLARED[name], operations()[name]
    hints = get_type_hints(one.function)
    if "body" in hints:
        same(operation["requestBody"]["content"]["application/json"]["schema"], hints["body"], name)
    good = [answer for status, answer in operation["responses"].items() if int(status) in one.statuses]
    schemas = [
        found["content"]["application/json"]["schema"] for found in good if "application/json" in found["content"]
    ]
    if one.is_text or isinstance(one, Lines):
        assert not schemas or name == "cost"
    elif isinstance(one, Listing):
        properties = resolved(schemas[0])["properties"]
        same(properties.pop("items")["items"], hints["return"], name)
        assert properties.pop("next")
        same({"type": "object", "properties": properties, "required": list(properties)}, one.head, name)
    else:
        same(max(schemas, key=lambda schema: len(resolved(schema).get("anyOf", ()))), hints["return"], name)


def same(schema: Mapping[str, Any], hint: Any, where: str) -> None:
    """That a hint says what a schema says, down to every field."""
    schemas, hints = choices(schema), arms(hint)
    assert {kind for kind, _ in schemas} == {kind_of(one) for one in hints}, (where, schema, hint)
    for kind in ("object", "array"):
        pairs = zip(
            [found for known, found in schemas if known == kind],
            [one for one in hints if kind_of(one) == kind],
            strict=True,
        )
        for found, one in pairs:
            if kind == "array":
                same(found.get("items", {}), get_args(one)[0], f"{where}[]")
            elif is_typeddict(get_origin(one) or one):
                same_fields(found, one, where)
            elif get_args(one) and get_args(one)[1] is not Any:
                for value in [*found.get("properties", {}).values(), found.get("additionalProperties")]:
                    if isinstance(value, dict):
                        same(value, get_args(one)[1], f"{where}{{}}")


def same_fields(schema: Mapping[str, Any], hint: Any, where: str) -> None:
    kind = get_origin(hint) or hint
    fields = get_type_hints(kind, include_extras=True)
    assert set(schema["properties"]) == set(fields), where
    assert set(schema.get("required", ())) == kind.__required_keys__, where
    for name, field in fields.items():
        value = get_args(field)[0] if get_origin(field) in {NotRequired, Required} else field
        filled = list[get_args(hint)[0]] if get_args(value) and isinstance(get_args(value)[0], TypeVar) else value
        same(schema["properties"][name], filled, f"{where}.{name}")


def resolved(schema: Mapping[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return resolved(SCHEMAS[schema["$ref"].rpartition("/")[2]])
    if "allOf" in schema:
        parts = [resolved(one) for one in schema["allOf"]]
        return {
            "type": "object",
            "properties": {name: value for part in parts for name, value in part["properties"].items()},
            "required": [name for part in parts for name in part.get("required", ())],
        }
    return dict(schema)


def choices(schema: Mapping[str, Any]) -> list[tuple[str | None, dict[str, Any]]]:
    found = resolved(schema)
    if "anyOf" in found:
        return [one for arm in found["anyOf"] for one in choices(arm)]
    kind = found.get("type") or ("boolean" if "const" in found else "string" if "enum" in found else None)
    return [(kind, found)]


def arms(hint: Any) -> list[Any]:
    return (
        [one for arm in get_args(hint) for one in arms(arm)] if get_origin(hint) in {Union, types.UnionType} else [hint]
    )


def kind_of(hint: Any) -> str | None:
    if hint is Any:
        return None
    kind = get_origin(hint) or hint
    return "object" if is_typeddict(kind) or kind is dict else KINDS.get(kind, "string")


async def test_both_clients_submit_list_change_and_delete_alike(api: Api) -> None:
    await asyncio.to_thread(used, Rollcall(api.url, TOKEN))
    async with AsyncRollcall(api.url, TOKEN) as client:
        made = await client.submit(body(name="async", count=3))
        assert (await client.preview(body(count=30)))["count"] == 30
        found = [one async for one in client.vms(submission_id=made["submission_id"])]
        assert [one["ref"] for one in found] == [f"{made['submission_id']}.{number}" for number in (1, 2, 3)]
        assert (await client.vm(found[0]["ref"]))["corroboration"]
        changed = await client.change_submission(made["submission_id"], {"expires_at": "2027-01-01T00:00:00Z"})
        assert changed["expires_at"] == "2027-01-01T00:00:00Z"
        period = client.off_contract()
        assert (await period.head())["total"]["vms"] == 0
        assert [one async for one in period] == []
        assert (await client.delete_vm(found[0]["ref"]))["desired_state"] == "deleted"
        await client.cancel_submission(made["submission_id"])
        with pytest.raises(NotReady) as ended:
            await client.wait(made["submission_id"])
        assert ended.value.submission["state"] == "cancelled"
        assert "rollcall_" in await client.metrics()
        assert (await client.ready())["ready"] in {True, False}
        with pytest.raises(ApiError) as raised:
            await client.vm("no-such-vm")
        assert (raised.value.kind, raised.value.type) == (ErrorKind.NOT_FOUND, "/problems/not-found")
        rows = [line async for lines in client.export(table="vms", format_="ndjson") for line in lines]
        assert len(rows) == 6


def used(client: Rollcall) -> None:
    made = client.submit(body(name="sync", count=3))
    assert client.preview(body(count=30))["count"] == 30
    found = list(client.vms(submission_id=made["submission_id"]))
    assert [one["ref"] for one in found] == [f"{made['submission_id']}.{number}" for number in (1, 2, 3)]
    assert client.vm(found[0]["ref"])["corroboration"]
    changed = client.change_submission(made["submission_id"], {"expires_at": "2027-01-01T00:00:00Z"})
    assert changed["expires_at"] == "2027-01-01T00:00:00Z"
    period = client.off_contract()
    assert period.head["total"]["vms"] == 0
    assert list(period) == []
    assert client.delete_vm(found[0]["ref"])["desired_state"] == "deleted"
    client.cancel_submission(made["submission_id"])
    with pytest.raises(NotReady) as ended:
        client.wait(made["submission_id"])
    assert ended.value.submission["state"] == "cancelled"
    assert "rollcall_" in client.metrics()
    assert client.ready()["ready"] in {True, False}
    with pytest.raises(ApiError) as raised:
        client.vm("no-such-vm")
    assert (raised.value.kind, raised.value.type) == (ErrorKind.NOT_FOUND, "/problems/not-found")
    rows = [line for lines in client.export(table="vms", format_="ndjson") for line in lines]
    assert len(rows) == 3


async def test_an_answer_that_is_lost_makes_no_second_submission(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    real, pauses = Rollcall.send, []

    def losing(client: Rollcall, *request: Any) -> Any:
        response = real(client, *request)
        if not pauses:
            raise ApiError(ErrorKind.UNREACHABLE, "the connection was lost before the answer came")
        return response

    monkeypatch.setattr(Rollcall, "send", losing)
    made = await asyncio.to_thread(Rollcall(api.url, TOKEN, pause=pauses.append).submit, body())
    assert len(pauses) == 1
    assert [one["submission_id"] for one in await api.every("/v1/submissions")] == [made["submission_id"]]


async def test_a_list_is_read_page_by_page(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.submit(count=7)
    monkeypatch.setattr("service.client.exchange._LARGEST_PAGE", 2)
    async with AsyncRollcall(api.url, TOKEN) as client:
        assert [one["vm_no"] async for one in client.vms()] == [1, 2, 3, 4, 5, 6, 7]
        assert [one["vm_no"] async for one in client.vms(limit=5)] == [1, 2, 3, 4, 5]

"""The OpenAPI document, made from the table of routes."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from pydantic import BaseModel

from service import __version__
from service.api import problems
from service.api.openapi_schemas import REF, listed, schemas
from service.api.route import Route
from service.api.schema_parts import TEXT, Json
from service.client.operations import NAMES
from service.core.api_token import ALLOWED, roles_text

_FAILS: Final = {
    401: "the token is missing, or not valid",
    403: "the role of the token does not allow this",
    404: "there is no such resource",
    409: "the idempotency key was used for another request, or the state does not allow this",
    413: "the body is too large",
    422: "the request is invalid; `errors` lists every invalid field",
    429: "the token has sent more requests than it may; try again after `Retry-After` seconds",
    502: "the provider does not answer; try again",
    503: "the database does not answer; try again",
}
_NAMES: Final = {
    "id": "the submission's id, a unique prefix of it of at least 6 digits, or its name",
    "event_id": "the event's id",
    "message_id": "the message's id",
    "name": "the name of the token",
    "ref": "the provider's id, SUBMISSION.N (SUBMISSION may be a unique prefix), or the VM's name",
}


def document(routes: Iterable[Route]) -> Json:
    """The whole document."""
    paths: Json = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Rollcall", "version": __version__, "description": "Times are RFC 3339 in UTC."},
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _operation(route: Route) -> Json:
    operation: Json = {
        "operationId": NAMES[route.method, route.path],
        "summary": route.summary,
        "parameters": [*_path(route.path), *_headers(route.headers), *_query(route.query)],
        "responses": {str(status): _good(status, schema) for status, schema in route.answers.items()},
    }
    if route.csv:
        operation["responses"]["200"]["content"]["text/csv"] = {"schema": TEXT}
    if route.streams:
        operation["responses"]["200"]["content"] = {kind: {"schema": TEXT} for kind in route.streams}
    fails = () if route.role is None else (401, 403, 429, 503, *route.fails)
    operation["responses"] |= {str(status): _problem(_FAILS[status]) for status in sorted(fails)}
    if route.body:
        operation["requestBody"] = {"required": True, "content": _json({"$ref": REF + route.body})}
    # OpenAPI 3.1 lets a security requirement name roles; each of these suffices.
    roles = () if route.role is None else ALLOWED[route.role]
    operation["security"] = [{"token": [role]} for role in roles]
    operation["x-roles"] = list(roles)
    if route.role is not None:
        operation["description"] = f"Needs a token with the role {roles_text(route.role)}."
    return operation


def _path(path: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "description": _NAMES[name], "schema": TEXT}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _headers(headers: Mapping[str, str]) -> list[Json]:
    schema = {"type": "string", "minLength": 1, "maxLength": 255}
    return [{"name": name, "in": "header", "description": text, "schema": schema} for name, text in headers.items()]


def _query(model: type[BaseModel] | None) -> list[Json]:
    if model is None:
        return []
    schema = model.model_json_schema()
    known = schema.get("$defs", {})
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "description": one.get("description", ""),
            "schema": _given(one, known),
        }
        for name, one in schema["properties"].items()
    ]


def _given(schema: Json, known: Json) -> Json:
    # A query cannot hold null: a parameter that may be None may be left out.
    arms = [arm for arm in schema.get("anyOf", [schema]) if arm.get("type") != "null"]
    (arm,) = arms
    found: Json = known[arm["$ref"].rpartition("/")[2]] if "$ref" in arm else arm
    return {key: value for key, value in found.items() if key not in {"title", "description"}}


def _good(status: int, schema: str | None) -> Json:
    text = {200: "done", 201: "created", 202: "accepted; it takes a while", 503: "the daemon is not ready"}[status]
    if schema is None:
        return {"description": text, "content": {"text/plain": {"schema": TEXT}}}
    return {
        "description": text,
        "content": _json(listed(schema) if schema.endswith("[]") else {"$ref": REF + schema}),
    }


def _problem(text: str) -> Json:
    return {"description": text, "content": {problems.CONTENT_TYPE: {"schema": {"$ref": REF + "Problem"}}}}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}

"""The page about the API, for people: made from the OpenAPI document, with an example of each operation."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from service.api.context import DOCUMENT
from service.api.openapi_schemas import REF
from service.web.rendering import html

Json = dict[str, Any]

#: What an example gives for a parameter.
VALUES: Final[Mapping[str, str]] = {
    "id": "train",
    "ref": "507279",
    "event_id": "0198c0de-0000-7000-8000-000000000000",
    "message_id": "0198c0de-0000-7000-8000-000000000000",
    "name": "nightly",
    "time": "2026-03-01T12:00:00Z",
    "from": "2026-03-01T00:00:00Z",
    "to": "2026-03-02T00:00:00Z",
    "table": "vms",
    "Idempotency-Key": "nightly-17",
}
#: What an example gives as a body.
BODIES: Final[Mapping[str, Json]] = {
    "SubmissionRequest": {
        "name": "train",
        "environment_name": "default-CANADA-1",
        "flavor_name": "n3-A100x1",
        "image_name": "Ubuntu Server 22.04 LTS R535 CUDA 12.2",
        "key_name": "example-key",
        "count": 2,
        "policy": {"lifetime": "6h"},
    },
    "SubmissionChange": {"lifetime": "12h"},
    "ImportRequest": {"name_pattern": "train-*"},
    "TestRequest": {"target": "ops"},
    "TokenRequest": {"name": "nightly", "role": "submit"},
    "TokenRotation": {"grace": "24h"},
    "TokenChange": {"max_vms": 60},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DocField:
    """A parameter, or a field of JSON: its name, its type, and what it means."""

    name: str
    kind: str
    is_required: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DocOperation:
    """An operation as the page shows it."""

    name: str
    method: str
    path: str
    summary: str
    roles: tuple[str, ...]
    parameters: list[DocField]
    body: list[DocField]
    answers: list[tuple[str, str, str]]  #: status, description, schema
    curl: str
    python: str


async def show(request: web.Request) -> web.Response:
    """The page. Anybody may read it, as anybody may read the document."""
    document = request.app[DOCUMENT]()
    schemas = document["components"]["schemas"]
    return html(
        request,
        "api.html",
        sections=[(name, list(found)) for name, found in groupby(operations(document), _section)],
        schemas={name: fields(schema, schemas) for name, schema in schemas.items() if "properties" in schema},
        at=request.url.origin(),
    )


def operations(document: Json) -> Iterator[DocOperation]:
    """Every operation of the document, those of a section together."""
    found = [(path, method, one) for path, methods in document["paths"].items() for method, one in methods.items()]
    for path, method, one in sorted(found, key=lambda item: (not item[0].startswith("/v1/"), _part(item[0]))):
        body = _content(one.get("requestBody", {}))
        parameters = [(found["in"], _field(found["name"], found["schema"], found)) for found in one["parameters"]]
        yield DocOperation(
            name=one["operationId"],
            method=method.upper(),
            path=path,
            summary=one["summary"],
            roles=tuple(one["x-roles"]),
            parameters=[field for _, field in parameters],
            body=fields(_schema(body, document), document["components"]["schemas"]) if body else [],
            answers=[
                (status, found["description"], _kind(_content(found))) for status, found in one["responses"].items()
            ],
            curl=_curl(method.upper(), path, parameters, body, needs_token=bool(one["x-roles"])),
            python=_python(one["operationId"], parameters, body),
        )


def fields(schema: Json, schemas: Json) -> list[DocField]:
    """The fields of an object."""
    required = schema.get("required", ())
    return [
        _field(name, one, {"required": name in required, "description": _described(one, schemas)})
        for name, one in schema.get("properties", {}).items()
    ]


def _curl(method: str, path: str, parameters: list[tuple[str, DocField]], body: Json, *, needs_token: bool) -> str:
    in_path = {field.name: VALUES[field.name] for where, field in parameters if where == "path"}
    query = {field.name: VALUES[field.name] for where, field in parameters if where == "query" and field.is_required}
    target = "$ROLLCALL_API_URL" + path.format(**in_path) + (f"?{urlencode(query)}" if query else "")
    parts = ["curl"] + ([f"-X {method}"] if method != "GET" else [])
    parts += ['-H "Authorization: Bearer $ROLLCALL_API_TOKEN"'] if needs_token else []
    parts += [f"-H '{field.name}: {VALUES[field.name]}'" for where, field in parameters if where == "header"]
    parts += [f"-d {shlex.quote(json.dumps(_body(body)))}"] if body else []
    return " \\\n  ".join([*parts, f'"{target}"'])


def _python(name: str, parameters: list[tuple[str, DocField]], body: Json) -> str:
    given = [repr(VALUES[field.name]) for where, field in parameters if where == "path"]
    given += [json.dumps(_body(body)).replace("true", "True")] if body else []
    for where, field in parameters:
        if where == "header":
            given.append(f"idempotency_key={VALUES[field.name]!r}")
        elif where == "query" and field.is_required:
            given.append(f"{field.name}{'_' * (field.name == 'from')}={VALUES[field.name]!r}")
    return f"client.{name}({', '.join(given)})"


def _body(schema: Json) -> Json:
    return BODIES.get(_kind(schema), {})


def _section(one: DocOperation) -> str:
    return _part(one.path)


def _part(path: str) -> str:
    return path.split("/")[2] if path.startswith("/v1/") else "the process"


def _content(found: Json) -> Json:
    content = found.get("content", {})
    schema: Json = next(iter(content.values()))["schema"] if content else {}
    return schema


def _schema(schema: Json, document: Json) -> Json:
    found: Json = document["components"]["schemas"].get(_kind(schema), schema)
    return found


def _field(name: str, schema: Json, about: Json) -> DocField:
    text = about.get("description") or schema.get("description", "")
    return DocField(name=name, kind=_kind(schema), is_required=bool(about.get("required")), text=text)


def _described(schema: Json, schemas: Json) -> str:
    one = schemas.get(schema.get("$ref", "").removeprefix(REF), schema)
    return str(schema.get("description") or one.get("description", ""))


def _kind(schema: Json) -> str:
    """What a schema asks for, in a few words: `integer`, `Vm`, `list of Vm`, `text or null`."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(REF)
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    for name in ("anyOf", "oneOf", "allOf"):
        if name in schema:
            return " or ".join(dict.fromkeys(_kind(arm) for arm in schema[name]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if "items" in schema.get("properties", {}):
        return f"page: {_kind(schema['properties']['items'])}"
    return {"string": "text"}.get(schema.get("type", ""), str(schema.get("type", "any")))

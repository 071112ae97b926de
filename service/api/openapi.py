"""The OpenAPI document, made from the table of routes and from the types of requests and of the record."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import NODEFAULT, Struct, structs
from pydantic import BaseModel, TypeAdapter, create_model

from service import __version__
from service.api import cost, problems, serializers
from service.api.imports import ImportReport
from service.api.offers import ContractOffer, EnvironmentOffer, FlavorOffer, ImageOffer, KeyOffer
from service.api.preflight import Choice, StockLevel
from service.api.route import Route
from service.api.tokens import CreatedToken, TokenInfo
from service.core.api_token import ALLOWED, roles_text
from service.core.importing import ImportRequest
from service.core.lifetime import SubmissionChange
from service.core.submission import SubmissionRequest
from service.core.vm import Vm
from service.operations.tokens import TokenRequest, TokenRotation
from service.queries.as_of import FleetAsOf, OffContract, OffContractTotal, VmAsOf
from service.queries.calls import CallSummary
from service.queries.diff import VmDifference
from service.queries.events import EventDetail, EventSummary
from service.queries.fleet import EvidenceCounts, Fleet
from service.queries.search_scope import SearchResult
from service.storage.actions import Action
from service.storage.orphans import Orphan
from service.storage.submissions import Submission

Json = dict[str, Any]

_REF: Final = "#/components/schemas/"
_TEXT: Final[Json] = {"type": "string"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_MAYBE_INT: Final[Json] = {"anyOf": [{"type": "integer"}, {"type": "null"}]}
_TIME: Final[Json] = {"type": "string", "format": "date-time"}
_MAYBE_TIME: Final[Json] = {"anyOf": [_TIME, {"type": "null"}]}
_MAYBE_TEXT: Final[Json] = {"anyOf": [{"type": "string"}, {"type": "null"}]}
_EVIDENCE: Final[Json] = {"type": "object", "description": "the kind and the id of the row that says so"}
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
_BOUNDS: Final = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
_REQUESTS: Final = (SubmissionRequest, SubmissionChange, ImportRequest, TokenRequest, TokenRotation)
_ANSWERS: Final = (
    FlavorOffer, ImageOffer, EnvironmentOffer, KeyOffer, ContractOffer, StockLevel, ImportReport, CreatedToken,
)  # fmt: skip
_NAMES: Final = {
    "id": "the submission's id, a unique prefix of it of at least 6 digits, or its name",
    "event_id": "the event's id",
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
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _operation(route: Route) -> Json:
    operation: Json = {
        "operationId": f"{route.method.lower()}{re.sub(r'[^a-z0-9]+', '_', route.path)}".rstrip("_"),
        "summary": route.summary,
        "parameters": [*_path(route.path), *_headers(route.headers), *_query(route.query)],
        "responses": {str(status): _good(status, schema) for status, schema in route.answers.items()},
    }
    if route.csv:
        operation["responses"]["200"]["content"]["text/csv"] = {"schema": _TEXT}
    if route.streams:
        operation["responses"]["200"]["content"] = {kind: {"schema": _TEXT} for kind in route.streams}
    fails = () if route.role is None else (401, 403, 429, 503, *route.fails)
    operation["responses"] |= {str(status): _problem(_FAILS[status]) for status in sorted(fails)}
    if route.body:
        operation["requestBody"] = {"required": True, "content": _json({"$ref": _REF + route.body})}
    # OpenAPI 3.1 lets a security requirement name roles; each of these suffices.
    roles = () if route.role is None else ALLOWED[route.role]
    operation["security"] = [{"token": [role]} for role in roles]
    operation["x-roles"] = list(roles)
    if route.role is not None:
        operation["description"] = f"Needs a token with the role {roles_text(route.role)}."
    return operation


def _path(path: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "description": _NAMES[name], "schema": _TEXT}
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
        return {"description": text, "content": {"text/plain": {"schema": _TEXT}}}
    return {
        "description": text,
        "content": _json(_listed(schema) if schema.endswith("[]") else {"$ref": _REF + schema}),
    }


def _listed(schema: str) -> Json:
    return _object({
        "items": {"type": "array", "items": {"$ref": _REF + schema.removesuffix("[]")}},
        "next": {"anyOf": [_TEXT, {"type": "null"}], "description": "the cursor of the next page"},
    })  # fmt: skip


def _problem(text: str) -> Json:
    return {"description": text, "content": {problems.CONTENT_TYPE: {"schema": {"$ref": _REF + "Problem"}}}}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _current() -> Json:
    text = "how many of its VMs are ready now, and how many have not ended; `state` does not go back"
    return {**_object({"ready": _COUNT, "count": _COUNT}), "description": text}


def _schemas() -> Json:
    defs: Json = {}
    vm = _of(Vm, defs)
    submission = _of(Submission, defs)
    orphan = _of(Orphan, defs)
    counts = {"type": "object", "additionalProperties": _COUNT}
    return {
        **{kind.__name__: _of(kind, defs, mode="validation") for kind in _REQUESTS},
        "Submission": _object({
            **_only(submission, serializers.SUBMISSION_FIELDS),
            "counts": {**counts, "description": "VMs by state"},
            "current": _current(),
            **dict.fromkeys(("ready", "on_contract", "on_demand", "stuck"), _COUNT),
            "next_attempt_at": {**_MAYBE_TIME, "description": "when the next create call or lookup is due"},
            "actions": {
                "type": "array",
                "items": _object(_only(_of(Action, defs), serializers.ACTION_FIELDS)),
                "description": "what callers did to it as a whole, oldest first",
            },
        }),
        "SubmissionOrDryRun": {"anyOf": [{"$ref": _REF + "Submission"}, {"$ref": _REF + "DryRun"}]},
        "DryRun": _dry_run(defs),
        **{kind.__name__: _of(kind, defs) for kind in _ANSWERS},
        "Vm": _object({
            **_only(vm, serializers.VM_FIELDS),
            "ref": {**_TEXT, "description": "SUBMISSION.N"},
            "contract_id": {**_MAYBE_INT, "description": "the contract it is on, as the provider shows it"},
            "contract_requested": {**_MAYBE_INT, "description": "the contract it should be on"},
        }),
        "TimelineItem": _object({
            "at": _TIME,
            "kind": _TEXT,
            "text": {**_TEXT, "description": "what happened, for people"},
            "evidence": _EVIDENCE,
        }),
        "Event": _of(EventSummary, defs),
        "WholeEvent": _of(EventDetail, defs),
        "Call": _of(CallSummary, defs),
        "Orphan": _object(_only(orphan, serializers.ORPHAN_FIELDS)),
        **_of_audit(defs),
        "FleetNow": _object({"fleet": _of(Fleet, defs), "evidence_counts": {"anyOf": [_of(EvidenceCounts, defs), {"type": "null"}]}}),
        **_of_the_past(defs),
        **cost.SCHEMAS,
        "Token": _of(TokenInfo, defs),
        "Alive": _object({"alive": {"type": "boolean"}}),
        "Ready": {
            **_object({"ready": {"type": "boolean"}}),
            "properties": {
                "ready": {"type": "boolean"},
                "issues": {
                    "type": "object",
                    "additionalProperties": _TEXT,
                    "description": "health issues by name; only for callers with a token",
                },
            },
        },
        "Problem": _problem_schema(),
        "Document": {"type": "object"},
        **defs,
    }  # fmt: skip


def _of_audit(defs: Json) -> Json:
    export = _object({
        "started_at": _TIME,
        "snapshot": {**_MAYBE_TEXT, "description": "what the rows may see; null: they are as they are read"},
        "server": {**_TEXT, "description": "the system identifier of the Postgres"},
        "log": {"anyOf": [{"type": "object"}, {"type": "null"}], "description": "the log that verifies it"},
        "tables": {"type": "array", "items": _TEXT},
    })  # fmt: skip
    found = _of(SearchResult, defs)["properties"]
    vm = {**_of(VmDifference, defs)["properties"], "ref": {**_TEXT, "description": "SUBMISSION.N"}}
    difference = {
        "from": _TIME,
        "to": _TIME,
        "total": _object(dict.fromkeys(("appeared", "gone", "changed"), _COUNT)),
        **_listed("VmDifference[]")["properties"],
    }
    return {
        "Export": export,
        "SearchResult": _object({name: found[name] for name in found if name != "key"}),
        "VmDifference": _object(vm),
        "Difference": _object(difference),
    }


def _dry_run(defs: Json) -> Json:
    creation = {"creation_no": {"type": "integer"}, "vm_count": {"type": "integer"}}
    return _object({
        "dry_run": {"const": True},
        "count": {"type": "integer"},
        "creations": {"type": "array", "items": _object(creation), "description": "the create calls"},
        "first_body": {"type": "object", "description": "the body of the first call, secrets left out"},
        "choices": {
            "type": "array",
            "items": _of(Choice, defs),
            "description": "what the VMs are made from, the stock, and the room of the contract; null is not known",
        },
        "warnings": {"type": "array", "items": _TEXT},
        "policy": {"type": "object", "description": "every field, with defaults"},
    })  # fmt: skip


def _problem_schema() -> Json:
    """RFC 9457: the type URI says which kind of error it is."""
    kinds = "\n".join(f"- `{one.uri}` ({one.status}): {one.title}" for one in problems.TYPES)
    properties = {
        "type": {"type": "string", "format": "uri-reference", "description": f"which kind of error:\n{kinds}"},
        "title": {**_TEXT, "description": "the kind of error, for people"},
        "status": {"type": "integer", "description": "the HTTP status"},
        "detail": {**_TEXT, "description": "what is wrong with this request, for people"},
    }
    fields = {
        "type": "array",
        "items": _object({"field": _TEXT, "message": _TEXT}),
        "description": "every invalid field of the request; only with `/problems/invalid-request`",
    }
    return {**_object(properties), "properties": {**properties, "errors": fields}}


def _of_the_past(defs: Json) -> Json:
    vm, off_contract = _of(VmAsOf, defs), _of(OffContract, defs)
    return {
        "FleetAt": _object({"fleet": _of(FleetAsOf, defs)}),
        "VmAsOf": _object({
            **_only(vm, serializers.VM_AS_OF_FIELDS),
            "ref": {**_TEXT, "description": "SUBMISSION.N"},
            "evidence": _EVIDENCE,
        }),
        "OffContract": _object({
            **_only(off_contract, serializers.OFF_CONTRACT_FIELDS),
            "ref": {**_TEXT, "description": "SUBMISSION.N"},
        }),
        "OffContractPeriod": _object({
            "since": _MAYBE_TIME,
            "until": _TIME,
            "total": {**_of(OffContractTotal, defs), "description": "of the whole period, not of this page"},
            **_listed("OffContract[]")["properties"],
        }),
    }  # fmt: skip


def _of(kind: Any, defs: Json, *, mode: Any = "serialization") -> Json:
    """The schema of a type; what it refers to goes into `defs`."""
    if isinstance(kind, type) and issubclass(kind, Struct):  # which pydantic does not know
        members: dict[str, Any] = {
            one.name: (one.type, ... if one.required else _default_of(one)) for one in structs.fields(kind)
        }
        kind = create_model(kind.__name__, **members)
    schema: Json = TypeAdapter(kind).json_schema(mode=mode, ref_template=_REF + "{model}")
    schema = _bounded(schema)
    defs |= schema.pop("$defs", {})
    return schema


def _bounded(schema: Any) -> Any:
    """The schema with bounds under their JSON names, which pydantic forgets for fields that may be null. They bind numbers only."""
    if isinstance(schema, list):
        return [_bounded(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        _BOUNDS.get(name, name) if isinstance(value, int | float) else name: _bounded(value)
        for name, value in schema.items()
    }


def _default_of(one: structs.FieldInfo) -> Any:
    return one.default if one.default is not NODEFAULT else one.default_factory()


def _only(schema: Json, names: Iterable[str]) -> Json:
    return {name: schema["properties"][name] for name in names}


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": sorted(properties)}

"""The schemas of the OpenAPI document, made from the types of requests and of the record."""

from collections.abc import Iterable
from typing import Any, Final, get_args

from msgspec import NODEFAULT, Struct, structs
from pydantic import TypeAdapter, create_model

from service.api import cost, problems, serializers
from service.api.imports import ImportReport
from service.api.offers import ContractOffer, EnvironmentOffer, FlavorOffer, ImageOffer, KeyOffer
from service.api.preflight import Choice, StockLevel
from service.api.schema_parts import TEXT, TIME, Json, object_of
from service.api.tokens import CreatedToken, TokenInfo
from service.audit.log_state import CheckpointState, LogState
from service.core.importing import ImportRequest
from service.core.lifetime import SubmissionChange
from service.core.submission import SubmissionRequest
from service.core.vm import Vm
from service.operations.tokens import TokenChange, TokenRequest, TokenRotation
from service.queries.as_of import FleetAsOf, OffContract, OffContractTotal, VmAsOf
from service.queries.availability import FleetAvailability, TotalAvailability
from service.queries.callback_statistics import CallbackStatistics
from service.queries.calls import CallSummary
from service.queries.corroboration import Corroboration
from service.queries.diff import VmDifference
from service.queries.events import EventDetail, EventSummary
from service.queries.fleet import EvidenceCounts, Fleet
from service.queries.search_scope import SearchResult
from service.queries.statistics import Failure, TimesToState
from service.storage.actions import Action
from service.storage.messages import Message
from service.storage.orphans import Orphan
from service.storage.submissions import Submission

REF: Final = "#/components/schemas/"
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_MAYBE_TEXT: Final[Json] = {"anyOf": [TEXT, {"type": "null"}]}
_MAYBE_INT: Final[Json] = {"anyOf": [{"type": "integer"}, {"type": "null"}]}
_MAYBE_TIME: Final[Json] = {"anyOf": [TIME, {"type": "null"}]}
_EVIDENCE: Final[Json] = {"type": "object", "description": "the kind and the id of the row that says so"}
_BOUNDS: Final = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
_REQUESTS: Final = (SubmissionRequest, SubmissionChange, ImportRequest)
_ANSWERS: Final = (FlavorOffer, ImageOffer, EnvironmentOffer, KeyOffer, ContractOffer, StockLevel, ImportReport)


def listed(schema: str) -> Json:
    return object_of({
        "items": {"type": "array", "items": {"$ref": REF + schema.removesuffix("[]")}},
        "next": {"anyOf": [TEXT, {"type": "null"}], "description": "the cursor of the next page"},
    })  # fmt: skip


def _current() -> Json:
    text = "how many of its VMs are ready now, and how many have not ended; `state` does not go back"
    return {**object_of({"ready": _COUNT, "count": _COUNT}), "description": text}


def schemas() -> Json:
    defs: Json = {}
    vm = _of(Vm, defs)
    submission = _of(Submission, defs)
    orphan = _of(Orphan, defs)
    counts = {"type": "object", "additionalProperties": _COUNT}
    return {
        **{kind.__name__: _of(kind, defs, mode="validation") for kind in _REQUESTS},
        "Submission": object_of({
            **_only(submission, serializers.SUBMISSION_FIELDS),
            "notify_url": {**_MAYBE_TEXT, "description": "where messages about it go; only the host is shown"},
            "counts": {**counts, "description": "VMs by state"},
            "current": _current(),
            **dict.fromkeys(("ready", "on_contract", "on_demand", "stuck"), _COUNT),
            "next_attempt_at": {**_MAYBE_TIME, "description": "when the next create call or lookup is due"},
            "actions": {
                "type": "array",
                "items": object_of(_only(_of(Action, defs), serializers.ACTION_FIELDS)),
                "description": "what callers did to it as a whole, oldest first",
            },
        }, optional={"notify_secret": {**TEXT, "description": "verifies its messages; only in the answer to a request with a notify_url"}}),
        "SubmissionOrDryRun": {"anyOf": [{"$ref": REF + "Submission"}, {"$ref": REF + "DryRun"}]},
        "DryRun": _dry_run(defs),
        **{kind.__name__: _of(kind, defs) for kind in _ANSWERS},
        "Vm": object_of({
            **_only(vm, serializers.VM_FIELDS),
            "ref": {**TEXT, "description": "SUBMISSION.N"},
            "contract_id": {**_MAYBE_INT, "description": "the contract it is on, as the provider shows it"},
            "contract_requested": {**_MAYBE_INT, "description": "the contract it should be on"},
        }),
        "VmInFull": {"allOf": [{"$ref": REF + "Vm"}, _corroboration()]},
        "TimelineItem": _timeline_item(),
        "Event": _of(EventSummary, defs),
        "WholeEvent": _of(EventDetail, defs),
        "Call": _of(CallSummary, defs),
        **_of_notifications(defs),
        "Orphan": object_of(_only(orphan, serializers.ORPHAN_FIELDS)),
        **_of_audit(defs),
        "FleetNow": object_of({"fleet": _of(Fleet, defs), "evidence_counts": {"anyOf": [_of(EvidenceCounts, defs), {"type": "null"}]}}),
        **_of_the_past(defs),
        **cost.SCHEMAS,
        **_of_tokens(defs),
        "Alive": object_of({"alive": {"type": "boolean"}}),
        "Ready": {
            **object_of({"ready": {"type": "boolean"}}),
            "properties": {
                "ready": {"type": "boolean"},
                "issues": {
                    "type": "object",
                    "additionalProperties": TEXT,
                    "description": "health issues by name; only for callers with a token",
                },
            },
        },
        "Problem": _problem_schema(),
        "Document": {"type": "object"},
        **defs,
    }  # fmt: skip


def _corroboration() -> Json:
    text = "how well its state is known: by callbacks only, by callbacks and the provider's answers, …"
    return object_of({"corroboration": {"enum": list(get_args(Corroboration)), "description": text}})


def _of_audit(defs: Json) -> Json:
    export = object_of({
        "started_at": TIME,
        "snapshot": {**_MAYBE_TEXT, "description": "what the rows may see; null: they are as they are read"},
        "server": {**TEXT, "description": "the system identifier of the Postgres"},
        "log": {"anyOf": [{"type": "object"}, {"type": "null"}], "description": "the log that verifies it"},
        "tables": {"type": "array", "items": TEXT},
    })  # fmt: skip
    found = _of(SearchResult, defs)["properties"]
    vm = {**_of(VmDifference, defs)["properties"], "ref": {**TEXT, "description": "SUBMISSION.N"}}
    difference = {
        "from": TIME,
        "to": TIME,
        "total": object_of(dict.fromkeys(("appeared", "gone", "changed"), _COUNT)),
        **listed("VmDifference[]")["properties"],
    }
    statistics = {
        "since": TIME,
        "until": TIME,
        "times": {"type": "array", "items": _of(TimesToState, defs)},
        "failures": {"type": "array", "items": _of(Failure, defs)},
        "callbacks": _of(CallbackStatistics, defs),
        "availability": _of(TotalAvailability, defs),
    }
    return {
        "Statistics": object_of(statistics),
        "Log": _log(defs),
        "FleetAvailability": _of(FleetAvailability, defs),
        "Export": export,
        "SearchResult": object_of({name: found[name] for name in found if name != "key"}),
        "VmDifference": object_of(vm),
        "Difference": object_of(difference),
    }


def _log(defs: Json) -> Json:
    log = _of(LogState, defs)
    checkpoint = {"anyOf": [_of(CheckpointState, defs), {"type": "null"}], "description": "the last one"}
    return {**log, "properties": {**log["properties"], "checkpoint": checkpoint}}


def _timeline_item() -> Json:
    text = {**TEXT, "description": "what happened, for people"}
    return object_of({"at": TIME, "kind": TEXT, "text": text, "evidence": _EVIDENCE})


def _of_notifications(defs: Json) -> Json:
    return {
        "Notification": object_of(_message(defs)),
        "WholeNotification": object_of({
            **_message(defs),
            "body": {"type": "object", "description": "the message as it is signed and sent"},
        }),
        "NotifyTarget": object_of({
            "name": TEXT,
            "to": {**TEXT, "description": "where it leads, without what may be a secret"},
            **{name: {"type": "array", "items": TEXT} for name in ("events", "labels")},
            "failures": {**_COUNT, "description": "in a row"},
            "error": {**_MAYBE_TEXT, "description": "of the latest failure"},
            "due_at": {**_MAYBE_TIME, "description": "when it is tried next; null if nothing waits"},
        }),
        "TestRequest": object_of({"target": {**TEXT, "description": "its name"}}),
    }  # fmt: skip


def _message(defs: Json) -> Json:
    fleet = {"anyOf": [{"type": "string", "format": "uuid"}, {"type": "null"}], "description": "null: the whole fleet"}
    return {**_only(_of(Message, defs), serializers.MESSAGE_FIELDS), "submission_id": fleet}


def _of_tokens(defs: Json) -> Json:
    return {
        "TokenRequest": _of(TokenRequest, defs, mode="validation"),
        "TokenChange": _of(TokenChange, defs, mode="validation"),
        "TokenRotation": _of(TokenRotation, defs, mode="validation"),
        "Token": _of(TokenInfo, defs),
        "CreatedToken": _of(CreatedToken, defs),
    }


def _dry_run(defs: Json) -> Json:
    creation = {"creation_no": {"type": "integer"}, "vm_count": {"type": "integer"}}
    return object_of({
        "dry_run": {"const": True},
        "count": {"type": "integer"},
        "creations": {"type": "array", "items": object_of(creation), "description": "the create calls"},
        "first_body": {"type": "object", "description": "the body of the first call, secrets left out"},
        "choices": {
            "type": "array",
            "items": _of(Choice, defs),
            "description": "what the VMs are made from, the stock, and the room of the contract; null is not known",
        },
        "warnings": {"type": "array", "items": TEXT},
        "policy": {"type": "object", "description": "every field, with defaults"},
    })  # fmt: skip


def _problem_schema() -> Json:
    """RFC 9457: the type URI says which kind of error it is."""
    kinds = "\n".join(f"- `{one.uri}` ({one.status}): {one.title}" for one in problems.TYPES)
    properties = {
        "type": {"type": "string", "format": "uri-reference", "description": f"which kind of error:\n{kinds}"},
        "title": {**TEXT, "description": "the kind of error, for people"},
        "status": {"type": "integer", "description": "the HTTP status"},
        "detail": {**TEXT, "description": "what is wrong with this request, for people"},
    }
    fields = {
        "type": "array",
        "items": object_of({"field": TEXT, "message": TEXT}),
        "description": "every invalid field of the request; only with `/problems/invalid-request`",
    }
    return {**object_of(properties), "properties": {**properties, "errors": fields}}


def _of_the_past(defs: Json) -> Json:
    vm, off_contract = _of(VmAsOf, defs), _of(OffContract, defs)
    return {
        "FleetAt": object_of({"fleet": _of(FleetAsOf, defs)}),
        "VmAsOf": object_of({
            **_only(vm, serializers.VM_AS_OF_FIELDS),
            "ref": {**TEXT, "description": "SUBMISSION.N"},
            "evidence": _EVIDENCE,
            **_corroboration()["properties"],
        }),
        "OffContract": object_of({
            **_only(off_contract, serializers.OFF_CONTRACT_FIELDS),
            "ref": {**TEXT, "description": "SUBMISSION.N"},
        }),
        "OffContractPeriod": object_of({
            "since": _MAYBE_TIME,
            "until": TIME,
            "total": {**_of(OffContractTotal, defs), "description": "of the whole period, not of this page"},
            **listed("OffContract[]")["properties"],
        }),
    }  # fmt: skip


def _of(kind: Any, defs: Json, *, mode: Any = "serialization") -> Json:
    """The schema of a type; what it refers to goes into `defs`."""
    if isinstance(kind, type) and issubclass(kind, Struct):  # which pydantic does not know
        members: dict[str, Any] = {
            one.name: (one.type, ... if one.required else _default_of(one)) for one in structs.fields(kind)
        }
        kind = create_model(kind.__name__, **members)
    schema: Json = TypeAdapter(kind).json_schema(mode=mode, ref_template=REF + "{model}")
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

"""What the API answers about the record, as JSON: events, calls, the past, exports and notifications."""

from typing import Any, TypedDict


class DeadLetterInfoJson(TypedDict):
    kind: str
    reason: str


class EventBodyJson(TypedDict):
    encoding: str
    content: str
    redacted: bool


class EventJson(TypedDict):
    event_id: str
    submission_id: str
    creation_no: int | None
    received_at: str
    source: str | None
    peer: str | None
    size: int | None
    digest: str | None
    provider_id: int | None
    operation: str | None
    status: str | None
    dead_letter: DeadLetterInfoJson | None
    waiting: bool


class WholeEventJson(TypedDict):
    event: EventJson
    headers: dict[str, str] | None
    body: EventBodyJson | None


class CallJson(TypedDict):
    call_id: str
    begun_at: str
    operation: str
    submission_id: str | None
    creation_no: int | None
    vm_no: int | None
    provider_id: int | None
    attempt: int | None
    outcome: str | None
    ms: int | None
    status: int | None
    error: str | None


class TimelineItemJson(TypedDict):
    at: str
    kind: str
    text: str
    evidence: dict[str, Any]


class SearchResultJson(TypedDict):
    kind: str
    at: str
    submission_id: str | None
    vm_no: int | None
    provider_id: int | None
    id: str
    text: str


class ExportJson(TypedDict):
    started_at: str
    snapshot: str | None
    server: str
    log: dict[str, Any] | None
    tables: list[str]


class VmDifferenceJson(TypedDict):
    change: str
    submission_id: str
    vm_no: int
    provider_id: int | None
    name: str | None
    flavor: str
    region: str | None
    state_from: str | None
    state_to: str
    since: str
    changed: list[str]
    ref: str


DifferenceHeadJson = TypedDict("DifferenceHeadJson", {"from": str, "to": str, "total": dict[str, int]})


class VmAsOfJson(TypedDict):
    submission_id: str
    vm_no: int
    provider_id: int | None
    name: str | None
    flavor: str
    region: str | None
    state: str
    since: str
    contract_requested: int | None
    contract_outcome: str | None
    off_contract: bool
    ref: str
    evidence: dict[str, Any]
    corroboration: str


class FleetAtJson(TypedDict):
    fleet: dict[str, Any]


class OffContractJson(TypedDict):
    submission_id: str
    vm_no: int
    provider_id: int | None
    name: str | None
    flavor: str
    gpu_model: str | None
    gpu_count: int | None
    contract_requested: int | None
    since: str
    until: str | None
    seconds: float
    ref: str


class OffContractPeriodHeadJson(TypedDict):
    since: str | None
    until: str
    total: dict[str, Any]


class NotificationJson(TypedDict):
    message_id: str
    submission_id: str | None
    target: str
    seq: int
    kind: str
    text: str
    state: str
    attempts: int
    status: int | None
    error: str | None
    created_at: str
    due_at: str | None
    give_up_at: str
    ended_at: str | None


class WholeNotificationJson(NotificationJson):
    body: dict[str, Any]


class NotifyTargetJson(TypedDict):
    name: str
    to: str
    events: list[str]
    labels: list[str]
    failures: int
    error: str | None
    due_at: str | None


class StatisticsJson(TypedDict):
    since: str
    until: str
    times: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    callbacks: dict[str, int]
    availability: dict[str, Any]


class FleetAvailabilityJson(TypedDict):
    submission_id: str
    name: str
    asked: int
    seconds: float
    available_seconds: float
    starting_seconds: float
    share: float


class CheckpointStateJson(TypedDict):
    size: int
    signed_at: str
    published_at: str | None
    note: str
    found: str


class LogJson(TypedDict):
    log_id: str
    origin: str
    begun_at: str
    reason: str
    size: int
    keys: list[str]
    checkpoint: CheckpointStateJson | None
    issue: str | None

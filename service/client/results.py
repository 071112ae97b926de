"""What the API answers about the present, as JSON: submissions, VMs, money, offers and tokens.

Times are RFC 3339 in UTC, amounts of money are decimal text. Fields may be added within /v1; a test compares these types with
the OpenAPI document.
"""

from typing import Any, Generic, NotRequired, TypedDict, TypeVar

Item = TypeVar("Item")


class PageJson(TypedDict, Generic[Item]):
    """A list that is one page."""

    items: list[Item]
    next: str | None


class CoveredGpusJson(TypedDict):
    gpu_model: str | None
    gpus: int | None
    left: int | None


class ContractForecastJson(TypedDict):
    contract_id: int
    description: str | None
    status: str | None
    end_date: str | None
    covers: list[CoveredGpusJson]
    requested: int
    fit: int | None
    shortfall: str | None


class ImportedJson(TypedDict):
    provider_id: int
    name: str | None
    status: str | None
    callback: str
    vm_no: NotRequired[int | None]


class SkippedJson(TypedDict):
    provider_id: int
    name: str | None
    reason: str


class CostRowJson(TypedDict):
    key: str
    vms: int
    billed_seconds: str
    unknown_seconds: str
    estimate: str
    off_contract_seconds: str
    off_contract_unknown_seconds: str
    off_contract_estimate: str


class SubmissionJson(TypedDict):
    submission_id: str
    name: str
    origin: str
    state: str
    count: int
    reasons: list[str]
    warnings: list[str]
    requested_by: str
    created_at: str
    deadline_at: str
    ended_at: str | None
    cancelled_at: str | None
    limit_reached_at: str | None
    limit_issue: str | None
    expires_at: str | None
    maintain_stopped_at: str | None
    spec: dict[str, Any]
    policy: dict[str, Any]
    notify_url: str | None
    counts: dict[str, int]
    current: dict[str, int]
    ready: int
    on_contract: int
    on_demand: int
    stuck: int
    next_attempt_at: str | None
    actions: list[dict[str, str]]
    notify_secret: NotRequired[str]


class DryRunJson(TypedDict):
    dry_run: bool
    count: int
    creations: list[dict[str, int]]
    first_body: dict[str, Any]
    choices: list[dict[str, Any]]
    warnings: list[str]
    policy: dict[str, Any]


class FlavorOfferJson(TypedDict):
    name: str
    region: str | None
    gpu_model: str | None
    gpu_count: int
    in_stock: bool | None
    price_per_hour: str | None
    currency: str


class ImageOfferJson(TypedDict):
    name: str
    region: str | None


class EnvironmentOfferJson(TypedDict):
    name: str
    region: str | None


class KeyOfferJson(TypedDict):
    name: str
    environment: str | None


class ContractOfferJson(TypedDict):
    contract_id: int
    description: str
    status: str | None
    start_date: str | None
    end_date: str | None
    covers: list[CoveredGpusJson]


class StockLevelJson(TypedDict):
    gpu_model: str
    region: str | None
    gpus: int
    more: bool


class ImportReportJson(TypedDict):
    dry_run: bool
    submission_id: str | None
    vms: list[ImportedJson]
    skipped: list[SkippedJson]


class VmJson(TypedDict):
    submission_id: str
    vm_no: int
    creation_no: int
    provider_id: int | None
    name: str | None
    state: str
    provider_status: str | None
    state_since: str
    ready: bool
    stuck: bool
    reason: str | None
    assignment: str
    flavor: str
    environment: str
    alternative: int
    region: str | None
    gpu_model: str | None
    gpu_count: int | None
    wants_address: bool
    fixed_ip: str | None
    floating_ip: str | None
    on_demand_since: str | None
    on_demand_seconds: float
    desired_state: str
    deletion_reason: str | None
    member: bool
    replaces: int | None
    replaced_by: int | None
    created_at: str
    bound_at: str | None
    active_at: str | None
    ready_at: str | None
    ended_at: str | None
    next_refresh_at: str | None
    ref: str
    contract_id: int | None
    contract_requested: int | None


class VmInFullJson(VmJson):
    corroboration: str


class OrphanJson(TypedDict):
    submission_id: str
    creation_no: int
    provider_id: int
    name: str | None
    state: str
    reason: str
    found_at: str
    ended_at: str | None


class FleetNowJson(TypedDict):
    fleet: dict[str, Any]
    evidence_counts: dict[str, Any] | None


class VmCostJson(TypedDict):
    ref: str
    currency: str
    billed: str
    per_hour: str | None
    per_hour_on_contract: str | None
    price: dict[str, str] | None
    discount: dict[str, Any] | None
    since: str
    until: str
    total: CostRowJson


class HoldingsJson(TypedDict):
    vms: int
    gpus: int
    price_per_hour: str
    currency: str
    unpriced_vms: int
    uncounted_vms: int


class TokenJson(TypedDict):
    token_id: str | None
    name: str
    role: str
    source: str
    state: str
    max_vms: NotRequired[int | None]
    max_gpus: NotRequired[int | None]
    max_price_per_hour: NotRequired[str | None]
    holds: NotRequired[HoldingsJson | None]
    requests_per_minute: NotRequired[int | None]
    created_at: NotRequired[str | None]
    created_by: NotRequired[str | None]
    expires_at: NotRequired[str | None]
    revoked_at: NotRequired[str | None]
    revoked_by: NotRequired[str | None]
    last_used_at: NotRequired[str | None]


class CreatedTokenJson(TokenJson):
    token: str


class AliveJson(TypedDict):
    alive: bool


class ReadyJson(TypedDict):
    ready: bool
    issues: NotRequired[dict[str, str]]


class CostReportHeadJson(TypedDict):
    by: str
    since: str
    until: str
    currency: str
    total: CostRowJson

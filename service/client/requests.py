"""The bodies of requests, as JSON. `docs/reference/api.md` says what the fields mean."""

from typing import NotRequired, TypedDict


class ProfileJson(TypedDict):
    name: str
    description: NotRequired[str | None]


class SecurityRuleJson(TypedDict):
    direction: str
    protocol: str
    ethertype: str
    remote_ip_prefix: str
    port_range_min: NotRequired[int | None]
    port_range_max: NotRequired[int | None]


class CustomFlavorJson(TypedDict, total=False):
    cpu: int | None
    ram: float | None
    disk: int | None
    gpu: str | None
    gpu_count: int | None


class AlternativeJson(TypedDict):
    flavor_name: str
    environment_name: str
    image_name: NotRequired[str | None]
    key_name: NotRequired[str | None]
    contract_id: NotRequired[int | None]
    on_demand: NotRequired[bool]
    max_price_per_hour: NotRequired[float | str | None]


class ContractRetryJson(TypedDict, total=False):
    means: str
    attempts: int
    deadline_seconds: float | str
    first_wait_seconds: float | str
    max_wait_seconds: float | str
    replace_grace_seconds: float | str
    replace_order: str
    max_replacing: int
    then: str


class MaintainJson(TypedDict, total=False):
    enabled: bool
    max_per_hour: int
    grace_seconds: float | str
    stable_seconds: float | str
    stop_after: int


class PolicyJson(TypedDict, total=False):
    on_contract_error: str
    require_contract: bool
    retry: ContractRetryJson
    on_orphan: str
    on_stuck: str
    stuck_after_seconds: float | str
    alternatives: list[AlternativeJson]
    max_price_per_hour: float | str | None
    max_cost: float | str | None
    on_limit: str
    maintain: MaintainJson
    lifetime: float | str | None
    expires_at: str | None
    deadline_seconds: float | str


class SubmissionRequestJson(TypedDict):
    name: str
    environment_name: str
    image_name: NotRequired[str | None]
    flavor_name: str
    key_name: str
    assign_floating_ip: NotRequired[bool | None]
    enable_port_randomization: NotRequired[bool | None]
    security_rules: NotRequired[list[SecurityRuleJson] | None]
    create_bootable_volume: NotRequired[bool | None]
    volume_name: NotRequired[str | None]
    user_data: NotRequired[str | None]
    profile: NotRequired[ProfileJson | None]
    labels: NotRequired[list[str] | None]
    contract_id: NotRequired[int | None]
    flavor: NotRequired[CustomFlavorJson | None]
    enhanced_monitoring_enabled: NotRequired[bool | None]
    count: int
    policy: NotRequired[PolicyJson]
    callback_url: NotRequired[str | None]
    notify_url: NotRequired[str | None]


class SubmissionChangeJson(TypedDict, total=False):
    lifetime: float | str | None
    expires_at: str | None
    maintain: MaintainJson | None


class ImportRequestJson(TypedDict, total=False):
    name: str
    ids: list[int]
    name_pattern: str | None
    environment: str | None
    label: str | None
    replace_callbacks: bool


class TokenRequestJson(TypedDict):
    name: str
    role: str
    lifetime: NotRequired[float | str | None]
    max_vms: NotRequired[int | None]
    max_gpus: NotRequired[int | None]
    max_price_per_hour: NotRequired[float | str | None]
    requests_per_minute: NotRequired[int | None]


class TokenChangeJson(TypedDict, total=False):
    max_vms: int | None
    max_gpus: int | None
    max_price_per_hour: float | str | None
    requests_per_minute: int | None


class TokenRotationJson(TypedDict, total=False):
    grace: float | str
    lifetime: float | str | None


class TestRequestJson(TypedDict):
    target: str

"""A simulated VM and its form in the provider's answers. fleet.py changes it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from service.simulator.config import CloudConfig, EnvironmentConfig, FlavorConfig
from service.simulator.lifecycle import MACHINE, Family

NO_ADDRESS = "NO FLOATING IP"


@dataclass(slots=True, kw_only=True)
class SimulatedVm:
    """Times are simulated seconds. `ended` is deleted or vanished, None while the VM exists.

    `epoch` counts operations, so that steps of a replaced operation do nothing; `address_epoch` does the same for the
    public address. `create_call` is the number of the call that created the VM.
    """

    id: int
    name: str
    base_name: str
    environment: EnvironmentConfig
    flavor: FlavorConfig
    image: str | None
    key_name: str
    labels: list[str]
    callback_url: str | None
    wants_address: bool
    port_randomization: bool
    family: Family
    create_call: int
    created_at: float
    listed_from: float
    contract_requested: int | None = None
    contract_id: int | None = None
    contract_history: list[tuple[float, int | None]] = field(default_factory=list)
    status: str = "CREATING"
    fixed_ip: str | None = None
    floating_ip: str | None = None
    floating_ip_status: str = NO_ADDRESS
    security_rules: list[dict[str, Any]] = field(default_factory=list)
    history: list[tuple[float, str]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    epoch: int = 0
    address_epoch: int = 0
    next_rule: int = 0
    boot_error: bool = False
    stuck: bool = False
    slow_build: bool = False
    #: Shown instead of `status`, in answers and callbacks.
    reported_status: str | None = None
    ended: str | None = None
    deleted_at: float | None = None

    def is_visible(self, now: float, *, visible_for: float = 0.0) -> bool:
        """Whether a GET finds it."""
        return self.deleted_at is None or now < self.deleted_at + visible_for


@dataclass(frozen=True, slots=True)
class Calendar:
    """Converts simulated seconds to the provider's timestamps: UTC, with or without a zone (section 8.7)."""

    start: datetime
    zoned: bool

    def at(self, now: float) -> datetime:
        return (self.start + timedelta(seconds=now)).astimezone(UTC).replace(tzinfo=None)

    def text(self, now: float) -> str:
        return self.at(now).isoformat(timespec="seconds") + ("Z" if self.zoned else "")


# Fields that appear in examples or in the newest schema (section 10). GET of one VM adds `excluded_billing`.
EXTRA_VALUES: dict[str, Any] = {
    "is_snapshotting": False,
    "enhanced_metrics": {"enabled": False},
    "dedicated_inference_id": None,
}
FLAVOR_FEATURES = (
    "network_optimised",
    "no_reboot",
    "no_hibernation",
    "no_snapshot",
    "local_storage_only",
    "api_only",
)


def flavor_features(flavor: FlavorConfig, config: CloudConfig) -> dict[str, bool]:
    features = {name: bool(getattr(flavor, name)) for name in FLAVOR_FEATURES}
    return features if config.flavor_features == "all" else {name: True for name, value in features.items() if value}


def instance(vm: SimulatedVm, config: CloudConfig, calendar: Calendar) -> dict[str, Any]:
    """The VM in the answers of create, list and get: infrahub-api.md section 3.4."""
    power_state, vm_state = MACHINE[vm.status]
    no_address = None if config.empty_address == "null" else ""
    return {
        "id": vm.id,
        "name": vm.name,
        "status": vm.reported_status or vm.status,
        "environment": _environment(vm.environment, config),
        "image": None if vm.image is None else {"name": vm.image},
        "flavor": _flavor(vm.flavor, config),
        "os": vm.image or "",
        "keypair": {"name": vm.key_name},
        "volume_attachments": [],
        "security_rules": list(vm.security_rules),
        "power_state": power_state,
        "vm_state": vm_state,
        "fixed_ip": vm.fixed_ip or no_address,
        "floating_ip": vm.floating_ip or no_address,
        "floating_ip_status": vm.floating_ip_status,
        "port_randomization": vm.port_randomization,
        "port_randomization_status": _randomization(vm),
        "requires_public_ip": vm.wants_address,
        "callback_url": vm.callback_url,
        "locked": False,
        "contract_id": vm.contract_id,
        "cluster_id": None,
        "features": _features(vm) if config.instance_features == "full" else {},
        "labels": list(vm.labels),
        "created_at": calendar.text(vm.created_at),
        **{name: value for name, value in EXTRA_VALUES.items() if name in config.extra_fields},
    }


def _environment(environment: EnvironmentConfig, config: CloudConfig) -> dict[str, Any]:
    return {
        "id": 668 + config.environments.index(environment),
        "name": environment.name,
        "org_id": config.org_id,
        "region": environment.region,
        "features": {"network_optimised": False, "green_status": "GREEN"},
    }


def _features(vm: SimulatedVm) -> dict[str, Any]:
    return {"network_optimised": vm.flavor.network_optimised, "green_status": "GREEN"}


def _flavor(flavor: FlavorConfig, config: CloudConfig) -> dict[str, Any]:
    return {
        "id": 106 + config.flavors.index(flavor),
        "name": flavor.name,
        "cpu": flavor.cpu,
        "ram": flavor.ram,
        "disk": flavor.disk,
        "ephemeral": flavor.ephemeral,
        "gpu": flavor.gpu,
        "gpu_count": flavor.gpu_count,
        "labels": [],
        "features": flavor_features(flavor, config),
    }


def _randomization(vm: SimulatedVm) -> str:
    # Only ENABLING and NO_FLOATING_IP are documented; ENABLED and DISABLED are guesses (section 2.2).
    if not vm.wants_address or not vm.port_randomization:
        return "NO_FLOATING_IP" if not vm.wants_address else "DISABLED"
    return "ENABLED" if vm.floating_ip else "ENABLING"

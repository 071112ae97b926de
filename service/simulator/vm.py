"""One simulated VM: all that is true of it, and how the provider shows it. It does not move itself; fleet.py does."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from service.simulator.config import CloudConfig, Environment, Flavor
from service.simulator.lifecycle import MACHINE, Family

NO_ADDRESS = "NO FLOATING IP"


@dataclass(slots=True, kw_only=True)
class Vm:
    """Times are simulated seconds. `ended` says how it went: deleted or vanished, or None while it is there.

    `epoch` counts the operations begun, so that a step of an operation that was overtaken does nothing;
    `address_epoch` is the same for the public address. `create_call` is the number of the call that made it.
    """

    id: int
    name: str
    environment: Environment
    flavor: Flavor
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
    wanted_contract: int | None = None
    contract_id: int | None = None
    status: str = "CREATING"
    fixed_ip: str | None = None
    floating_ip: str | None = None
    floating_ip_status: str = NO_ADDRESS
    security_rules: list[dict[str, Any]] = field(default_factory=list)
    history: list[tuple[float, str]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    epoch: int = 0
    address_epoch: int = 0
    boot_error: bool = False
    stuck: bool = False
    ended: str | None = None
    deleted_at: float | None = None

    def there(self, now: float, *, visible_for: float = 0.0) -> bool:
        """Whether a GET finds it."""
        return self.deleted_at is None or now < self.deleted_at + visible_for


@dataclass(frozen=True, slots=True)
class Calendar:
    """Simulated seconds as the provider's timestamps: with or without a zone (section 8.7), always UTC."""

    start: datetime
    zoned: bool

    def at(self, now: float) -> datetime:
        return (self.start + timedelta(seconds=now)).astimezone(UTC).replace(tzinfo=None)

    def text(self, now: float) -> str:
        return self.at(now).isoformat(timespec="seconds") + ("Z" if self.zoned else "")


def instance(vm: Vm, config: CloudConfig, calendar: Calendar) -> dict[str, Any]:
    """The VM as create, list and get show it: infrahub-api.md section 3.4."""
    power_state, vm_state = MACHINE[vm.status]
    missing = None if config.empty_address == "null" else ""
    return {
        "id": vm.id,
        "name": vm.name,
        "status": vm.status,
        "environment": _environment(vm.environment, config),
        "image": None if vm.image is None else {"name": vm.image},
        "flavor": _flavor(vm.flavor, config),
        "os": vm.image or "",
        "keypair": {"name": vm.key_name},
        "volume_attachments": [],
        "security_rules": list(vm.security_rules),
        "power_state": power_state,
        "vm_state": vm_state,
        "fixed_ip": vm.fixed_ip or missing,
        "floating_ip": vm.floating_ip or missing,
        "floating_ip_status": vm.floating_ip_status,
        "port_randomization": vm.port_randomization,
        "port_randomization_status": _randomization(vm),
        "requires_public_ip": vm.wants_address,
        "callback_url": vm.callback_url,
        "locked": False,
        "contract_id": vm.contract_id,
        "cluster_id": None,
        "features": {},
        "labels": list(vm.labels),
        "created_at": calendar.text(vm.created_at),
    }


def _environment(environment: Environment, config: CloudConfig) -> dict[str, Any]:
    return {
        "id": 668 + config.environments.index(environment),
        "name": environment.name,
        "org_id": config.org_id,
        "region": environment.region,
        "features": {"network_optimised": False, "green_status": "GREEN"},
    }


def _flavor(flavor: Flavor, config: CloudConfig) -> dict[str, Any]:
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
        "features": {"no_hibernation": True} if flavor.no_hibernation else {},
    }


def _randomization(vm: Vm) -> str:
    # Only ENABLING and NO_FLOATING_IP are documented; ENABLED is our guess (section 2.2).
    if not vm.wants_address or not vm.port_randomization:
        return "NO_FLOATING_IP" if not vm.wants_address else "DISABLED"
    return "ENABLED" if vm.floating_ip else "ENABLING"

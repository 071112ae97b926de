"""What the provider says about a VM or a contract at one moment. `provider/answers.py` makes these from its answers.

`raw` holds the whole answer, so that fields nobody knows today are there when somebody needs them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec.structs import force_setattr

from service.core import storable

_TEXTS: Final = (
    "name", "status", "power_state", "vm_state", "environment", "region", "flavor", "gpu_model", "fixed_ip", "floating_ip",
    "floating_ip_status", "callback_url",
)  # fmt: skip


# gc=False: a list of a large fleet is 100,000 of them, and the collector would go through all, on the event loop.
class Observation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One VM as the provider shows it (infrahub-api.md section 3.4).

    `status` is upper case without surrounding space, or None if it was absent, null or not text. Addresses are None
    if the provider sent null or an empty string. `contract_id` is None unless the assignment succeeded. Times are
    aware, in UTC. Every field but `raw` fits its column: text is clipped, and a number out of range is None.
    """

    provider_id: int
    name: str | None = None
    status: str | None = None
    power_state: str | None = None
    vm_state: str | None = None
    environment: str | None = None
    region: str | None = None
    flavor: str | None = None
    gpu_model: str | None = None
    gpu_count: int | None = None
    fixed_ip: str | None = None
    floating_ip: str | None = None
    floating_ip_status: str | None = None
    callback_url: str | None = None
    labels: tuple[str, ...] = ()
    contract_id: int | None = None
    locked: bool = False
    created_at: datetime | None = None
    raw: Mapping[str, Any] = {}

    def __post_init__(self) -> None:
        for name in _TEXTS:
            value = getattr(self, name)
            if value is not None and (fitting := storable.text(value)) != value:
                force_setattr(self, name, fitting)
        force_setattr(self, "gpu_count", storable.int4(self.gpu_count))
        force_setattr(self, "contract_id", storable.int8(self.contract_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateAnswer:
    """A successful answer to a create call: the VMs, in the provider's order, and why a contract was not assigned.

    `contract_errors` are the provider's texts as they came. They are shown to people and never matched, since only
    one of them is known (infrahub-api.md section 3.5).
    """

    vms: tuple[Observation, ...]
    message: str = ""
    contract_errors: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class VmPage:
    """One page of the provider's list. `count` may be the total or that of the page: the provider does not say.

    `unreadable` is how many items have no readable id. If there are any, a VM's absence means nothing.
    """

    vms: tuple[Observation, ...]
    unreadable: int = 0
    count: int | None = None
    page: int | None = None
    page_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One entry of a VM's events history (infrahub-api.md section 5.3). `at` is aware, in UTC, or None."""

    at: datetime | None
    reason: str
    message: str = ""
    kind: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discount:
    """A contract's line for one resource: how many GPUs of a model it covers, and how many are left."""

    resource_name: str | None = None
    resource_count: int | None = None
    remaining_count: int | None = None
    status: str | None = None
    discount_type: str | None = None
    percent: Decimal | None = None
    amount: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """A contract as the price book shows it (infrahub-api.md section 4.1). Times are aware, in UTC."""

    contract_id: int
    description: str = ""
    status: str | None = None
    start_date: datetime | None = None
    end_date: datetime | None = None
    expiration_policy: int | None = None
    discounts: tuple[Discount, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A price-book line: what one unit of a resource costs per hour. `currency` is None if the line names none."""

    name: str
    value: Decimal
    currency: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavor:
    """A flavor of the catalogue, in one region."""

    name: str
    region: str | None = None
    gpu_model: str | None = None
    gpu_count: int = 0
    stock_available: bool | None = None

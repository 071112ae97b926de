"""The simulator's settings: the catalogue, durations, and a choice for each contradiction in the provider's documents.

Section numbers refer to infrahub-api.md; the contradictions are listed in its section 8. Faults are in faults.py.

In JSON a config is one object with the fields of `CloudConfig`; every field is optional and has the default below.
Objects within it have the fields of their dataclass:

    {"seed": 7,
     "api_keys": ["secret"],
     "environments": [{"name": "test1", "region": "CANADA-1"}],
     "flavors": [{"name": "n3-A100x1", "gpu": "A100-80G-PCIe", "gpu_count": 1, "stock": 20}],
     "keypairs": ["in-every-environment", {"name": "mine", "environment": "test1"}],
     "contracts": [{"id": 41, "discounts": [{"resource_name": "A100-80G-PCIe", "resource_count": 8}]}],
     "contract_changes": [{"at": 600, "contract_id": 41, "resource_count": 16}],
     "stock_changes": [{"at": 300, "flavor": "n3-A100x1", "stock": null}],
     "price_changes": [{"at": 300, "resource": "A100-80G-PCIe", "price": 1.5}],
     "timing": {"creating": 3, "build": [20, 90]},
     "faults": {"create": {"lost": [2], "hang": 0.1, "hang_seconds": 70},
                "delete": {"error_before": {"probability": 1, "since": 60, "until": 120}},
                "list": {"bad_fields": 0.2, "bad_field_names": ["id", "name"], "bad_field_values": ["null", ""]}}}

A `Range` is a number or a pair of numbers. A `Trigger` is a probability, a list of occasions, or an object with
probability, nth, since and until. loading.py reports all errors at once, with the path of each field.
"""

# ruff: noqa: RUF009 - the defaults are frozen, so sharing them is safe

from dataclasses import dataclass
from typing import Literal

from service.simulator.faults import Faults
from service.simulator.rng import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class FlavorConfig:
    """A flavor. The booleans from `network_optimised` on are its `features`.

    `stock` is how many VMs of it can exist at once; None means unlimited. `price` is per hour and GPU (or VM, without
    GPU). VMs of a `spot` flavor take `Timing.spot_build` seconds in BUILD.
    """

    name: str
    gpu: str = ""
    gpu_count: int = 0
    cpu: int = 28
    ram: float = 120.0
    disk: int = 100
    ephemeral: int | None = 750
    region: str = "CANADA-1"
    stock: int | None = None
    price: float = 1.35
    spot: bool = False
    network_optimised: bool = False
    no_reboot: bool = False
    no_hibernation: bool = False
    no_snapshot: bool = False
    local_storage_only: bool = False
    api_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentConfig:
    name: str
    region: str = "CANADA-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeypairConfig:
    """An SSH keypair. Without `environment` each environment has one of this name. In JSON a string is a name."""

    name: str
    environment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscountConfig:
    """The GPUs of one model on a contract. `remaining_count` None means all of them."""

    resource_name: str
    resource_count: int
    remaining_count: int | None = None
    discount_percent: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractConfig:
    """Dates are ISO 8601 in UTC. `expiration_policy` 0 deletes the VMs when the contract ends, 1 keeps them at market rate."""

    id: int
    description: str = ""
    start_date: str = "2020-01-01T00:00:00"
    end_date: str = "2099-12-31T23:59:59"
    expiration_policy: int = 1
    status: str = "active"
    discounts: tuple[DiscountConfig, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractChange:
    """A change of a contract at `at` simulated seconds. None leaves a field as it is; without a resource all lines change."""

    at: float
    contract_id: int
    resource_name: str | None = None
    resource_count: int | None = None
    remaining_count: int | None = None
    status: str | None = None
    end_date: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StockChange:
    """The new stock of a flavor from `at` simulated seconds; None means unlimited."""

    at: float
    flavor: str
    stock: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceChange:
    """The new price per hour of a GPU model, or of a flavor without a GPU, from `at` simulated seconds."""

    at: float
    resource: str
    price: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Durations in simulated seconds."""

    answer: Range = Range(0, 0)
    callback: Range = Range(0.05, 0.5)
    creating: Range = Range(2, 10)
    build: Range = Range(20, 90)
    spot_build: Range = Range(300, 900)
    address: Range = Range(2, 15)
    starting: Range = Range(5, 20)
    stopping: Range = Range(5, 20)
    rebooting: Range = Range(10, 40)
    hibernating: Range = Range(20, 60)
    restoring: Range = Range(20, 60)
    deleting: Range = Range(3, 15)
    security_rule: Range = Range(1, 5)


DEFAULT_FLAVORS = (
    FlavorConfig(name="n3-A100x1", gpu="A100-80G-PCIe", gpu_count=1),
    FlavorConfig(name="n3-A100x4", gpu="A100-80G-PCIe", gpu_count=4, cpu=124, ram=480.0),
    FlavorConfig(name="n3-H100x1", gpu="H100-80G-PCIe", gpu_count=1, cpu=28, ram=180.0, price=1.9),
    FlavorConfig(name="n1-L40x1-spot", gpu="L40", gpu_count=1, price=0.4, spot=True, no_hibernation=True),
    FlavorConfig(name="n1-cpu-small", cpu=4, ram=4.0, ephemeral=None, price=0.05, no_hibernation=True),
)
DEFAULT_CONTRACTS = (
    ContractConfig(
        id=41, description="64x A100", discounts=(DiscountConfig(resource_name="A100-80G-PCIe", resource_count=64),)
    ),
)
DEFAULT_IMAGES = ("Ubuntu Server 22.04 LTS R535 CUDA 12.2", "Ubuntu Server 24.04 LTS R570 CUDA 12.8")


ExtraField = Literal["is_snapshotting", "excluded_billing", "enhanced_metrics", "dedicated_inference_id"]
EXTRA_FIELDS: tuple[ExtraField, ...] = (
    "is_snapshotting",
    "excluded_billing",
    "enhanced_metrics",
    "dedicated_inference_id",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudConfig:
    """All settings of a simulated cloud.

    api_keys            accepted keys; if empty, any key that is not empty
    name_pattern        names of the VMs of one create, from {name} and {i}; with a count of 1, the name itself
    unique_names        whether a create is refused if a living VM has one of its names, or was created with the same
                        base name (sections 3.2 and 10)
    taken_name          how: 400 `This name is not available`, or the documented 409 `already_exist`
    enforce_scopes      whether a create is refused with 400 if its flavor belongs to another region, or its keypair to
                        another environment (section 10)
    unpaged             what a list without page and pageSize contains (section 8.5)
    count_means         the meaning of `count` in any list (sections 8.5 and 10): documented as the number on the page,
                        used as a total by clients; mixed draws it for each answer
    contract_key        the key in the answer of GET /pricebook/contracts/{id} (section 8.4)
    contract_errors     whether errors.contract is a string or a list of strings (section 3.5)
    partial_assignment  whether some VMs of a create can be on the contract and others not (section 3.5)
    families            naming families of callbacks (section 1.4), one drawn for each VM
    callback_ids        the type of resource.id in callbacks (section 8.2)
    callback_variety    how often a callback differs from the full form: missing name, type or data; unusual case
    zoned_times         whether timestamps end in Z (section 8.7)
    empty_address       the value of a missing address (section 8.7)
    attach_existing     what attach-callback does if the VM has a callback (section 5.4: not documented)
    deleted_visible     for this many seconds a deleted VM can be read with status DELETED (section 8.9)
    restored_address    what a restored VM gets if hibernation released its address (section 10)
    repeated_delete     what DELETE answers while an earlier delete is being processed (section 10): 409 or 200
    price_format        `value` in the price book: strings such as "1.350000000" (section 10), in scientific notation
                        (section 6), a mix of both, or numbers as the SDK expects
    flavor_features     whether a flavor has all six booleans in `features`, or only those that are true (section 10)
    instance_features   whether an instance has network_optimised and green_status in `features` (section 10)
    extra_fields        undocumented fields of an instance (section 10); excluded_billing appears only in GET of one VM
    default_rules       whether a new VM has two security rules that allow all egress (section 10)
    api_key_headers     the headers that may contain the API key (section 10: whether api-key works is a guess)
    rate_limit          calls per window and source IP; 0 means no limit (section 6)
    rate_window         in simulated seconds; the server multiplies it by its speed, so it lasts as many real seconds
    first_vm_id         ids count up from here
    """

    seed: int = 0
    api_keys: tuple[str, ...] = ()
    org_id: int = 112
    user_id: int = 7
    environments: tuple[EnvironmentConfig, ...] = (
        EnvironmentConfig(name="default-CANADA-1"),
        EnvironmentConfig(name="test1"),
    )
    flavors: tuple[FlavorConfig, ...] = DEFAULT_FLAVORS
    images: tuple[str, ...] = DEFAULT_IMAGES
    keypairs: tuple[KeypairConfig, ...] = (KeypairConfig(name="example-key"),)
    volumes: tuple[str, ...] = ("boot-volume",)
    contracts: tuple[ContractConfig, ...] = DEFAULT_CONTRACTS
    contract_changes: tuple[ContractChange, ...] = ()
    stock_changes: tuple[StockChange, ...] = ()
    price_changes: tuple[PriceChange, ...] = ()
    timing: Timing = Timing()
    name_pattern: str = "{name}-{i}"
    unique_names: bool = True
    taken_name: Literal["bad_request", "conflict"] = "bad_request"
    enforce_scopes: bool = True
    max_count: int = 20
    max_page_size: int = 100
    unpaged: Literal["all", "first_10"] = "all"
    count_means: Literal["page", "total", "mixed"] = "page"
    contract_key: Literal["contracts", "contract"] = "contracts"
    contract_errors: Literal["string", "list"] = "string"
    partial_assignment: bool = False
    families: tuple[Literal["A", "B", "C"], ...] = ("A", "B", "C")
    callback_ids: Literal["text", "number", "mixed"] = "mixed"
    callback_variety: float = 0.2
    zoned_times: bool = False
    empty_address: Literal["null", "text"] = "null"
    attach_existing: Literal["replaced", "refused"] = "replaced"
    deleted_visible: float = 0.0
    restored_address: Literal["new", "none"] = "new"
    repeated_delete: Literal["conflict", "accepted"] = "conflict"
    price_format: Literal["mixed", "decimal", "scientific", "number"] = "mixed"
    flavor_features: Literal["all", "some"] = "all"
    instance_features: Literal["full", "empty"] = "full"
    extra_fields: tuple[ExtraField, ...] = EXTRA_FIELDS
    default_rules: bool = True
    api_key_headers: tuple[str, ...] = ("api_key", "api-key")
    rate_limit: int = 500
    rate_window: float = 60.0
    first_vm_id: int = 507279
    faults: Faults = Faults()

"""The simulator's settings: the catalogue, durations, and a choice for each contradiction in the provider's documents.

The contradictions are listed in infrahub-api.md section 8. Faults are in faults.py.
"""

# ruff: noqa: RUF009 - the defaults are frozen, so sharing them is safe

from dataclasses import dataclass
from typing import Literal

from service.simulator.faults import Faults
from service.simulator.rng import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class FlavorConfig:
    """`stock` is how many VMs of it can exist at once; None means unlimited. `price` is per hour and GPU (or VM, without GPU)."""

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
    no_hibernation: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentConfig:
    name: str
    region: str = "CANADA-1"


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
class Timing:
    """Durations in simulated seconds."""

    answer: Range = Range(0, 0)
    callback: Range = Range(0.05, 0.5)
    creating: Range = Range(2, 10)
    build: Range = Range(20, 90)
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
    FlavorConfig(name="n1-cpu-small", cpu=4, ram=4.0, ephemeral=None, price=0.05, no_hibernation=True),
)
DEFAULT_CONTRACTS = (
    ContractConfig(
        id=41, description="64x A100", discounts=(DiscountConfig(resource_name="A100-80G-PCIe", resource_count=64),)
    ),
)
DEFAULT_IMAGES = ("Ubuntu Server 22.04 LTS R535 CUDA 12.2", "Ubuntu Server 24.04 LTS R570 CUDA 12.8")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudConfig:
    """All settings of a simulated cloud.

    api_keys            accepted keys; if empty, any key that is not empty
    name_pattern        names of the VMs of one create, from {name} and {i}; with a count of 1, the name itself
    unique_names        whether a name in use is refused with 409 (section 3.2: not known)
    unpaged             what a list without page and pageSize contains (section 8.5)
    count_means         the meaning of `count` in a list (section 8.5)
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
    prices_as_text      prices as strings, some in scientific notation (section 6), which the SDK cannot parse
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
    keypairs: tuple[str, ...] = ("example-key",)
    volumes: tuple[str, ...] = ("boot-volume",)
    contracts: tuple[ContractConfig, ...] = DEFAULT_CONTRACTS
    contract_changes: tuple[ContractChange, ...] = ()
    stock_changes: tuple[StockChange, ...] = ()
    timing: Timing = Timing()
    name_pattern: str = "{name}-{i}"
    unique_names: bool = False
    max_count: int = 20
    max_page_size: int = 100
    unpaged: Literal["all", "first_10"] = "all"
    count_means: Literal["total", "page"] = "total"
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
    prices_as_text: bool = False
    rate_limit: int = 500
    rate_window: float = 60.0
    first_vm_id: int = 507279
    faults: Faults = Faults()

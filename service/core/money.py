"""Money: what a VM costs per hour, and what its life comes to over a period. An estimate, in exact decimals.

A price that is not known is None and never 0: the seconds it would apply to are counted as unknown. All arithmetic is
exact until an estimate is rounded for display. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from enum import StrEnum
from itertools import pairwise
from typing import Final, Protocol, TypeVar

from service.core.lifecycle import VmState

#: The price book names no currency (infrahub-api.md section 6), so a line that names none is taken to be in this one.
ASSUMED_CURRENCY: Final = "USD"
#: Estimates are rounded to this many decimal places.
PLACES: Final = 6
# Wide enough for a price of 60 digits over any number of seconds, so that no sum or product is ever rounded.
_EXACT: Final = Context(prec=200)
_HUNDRED: Final = Decimal(100)
_SECONDS_PER_HOUR: Final = Decimal(3600)
_MICROSECOND: Final = timedelta(microseconds=1)

S = VmState


class Billing(StrEnum):
    """What the provider charges for a state."""

    FULL = "full"
    UNKNOWN = "unknown"  #: charged, at a price that cannot be read anywhere
    FREE = "free"


#: infrahub-api.md section 2.3: ACTIVE and SHUTOFF full, as are the states between them; HIBERNATED partial, for storage
#: and address, whose prices are not known; HIBERNATING, RESTORING, ERROR and DELETED free. Section 2.3 does not list the
#: others: nothing runs before ACTIVE, a delete was accepted, or the provider no longer knows the VM.
BILLING: Final[Mapping[VmState, Billing]] = {
    S.REQUESTED: Billing.FREE,
    S.CREATING: Billing.FREE,
    S.BUILD: Billing.FREE,
    S.ACTIVE: Billing.FULL,
    S.STARTING: Billing.FULL,
    S.STOPPING: Billing.FULL,
    S.SHUTOFF: Billing.FULL,
    S.REBOOTING: Billing.FULL,
    S.HIBERNATING: Billing.FREE,
    S.HIBERNATED: Billing.UNKNOWN,
    S.RESTORING: Billing.FREE,
    S.DELETING: Billing.FREE,
    S.DELETED: Billing.FREE,
    S.ERROR: Billing.FREE,
    S.REFUSED: Billing.FREE,
    S.CANCELLED: Billing.FREE,
    S.LOST: Billing.FREE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPrice:
    """One row of `prices`: what a resource costs per hour from `read_at` until the next row of the same resource.

    `resource` is a GPU model (the value is per GPU) or a flavor (the value is per VM), as the price book names it.
    """

    resource: str
    read_at: datetime
    value: Decimal
    currency: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractDiscount:
    """One row of `contract_discounts`: what a contract takes off the list price of a resource from `read_at` on.

    `kind` is "percent" or "flat" (an amount per unit and hour); None if the contract's line could not be understood,
    and then the price of VMs on the contract is unknown.
    """

    contract_id: int
    resource: str
    read_at: datetime
    kind: str | None
    value: Decimal | None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """What a VM is, as far as its price depends on it. `contract_id` is the contract that it is on."""

    flavor: str
    gpu_model: str | None
    gpu_count: int | None
    contract_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePeriod:
    """The price per hour of a VM from `since` to before `until`; None if it is unknown."""

    since: datetime
    until: datetime
    per_hour: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a period comes to. `hour_seconds` is the exact sum of price per hour times seconds."""

    billed_seconds: Decimal = Decimal(0)  #: charged at a known price
    unknown_seconds: Decimal = Decimal(0)  #: charged at a price that is not known; not part of the estimate
    hour_seconds: Decimal = Decimal(0)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            billed_seconds=_EXACT.add(self.billed_seconds, other.billed_seconds),
            unknown_seconds=_EXACT.add(self.unknown_seconds, other.unknown_seconds),
            hour_seconds=_EXACT.add(self.hour_seconds, other.hour_seconds),
        )

    @property
    def estimate(self) -> Decimal:
        return estimate(self.hour_seconds)


def estimate(hour_seconds: Decimal) -> Decimal:
    """An amount of money from an exact sum of price per hour times seconds, rounded half to even to `PLACES`."""
    amount = _EXACT.divide(hour_seconds, _SECONDS_PER_HOUR)
    return amount.quantize(Decimal(1).scaleb(-PLACES), rounding=ROUND_HALF_EVEN, context=_EXACT)


def price_per_hour(
    vm: Resource, prices: Iterable[ListPrice], discounts: Iterable[ContractDiscount], *, at: datetime, currency: str
) -> Decimal | None:
    """What a VM in a fully charged state costs per hour at a moment, or None if any part of that is unknown.

    A price of the flavor itself goes before that of its GPU model. Amounts in another currency count as unknown.
    """
    units = _units(vm)
    listed = _latest([one for one in prices if one.resource.lower() in units], at)
    found = next((listed[name] for name in units if name in listed), None)
    if found is None or found.currency != currency:
        return None
    full = _times(found.value, units[found.resource.lower()])
    if vm.contract_id is None or full is None:
        return full
    mine = [one for one in discounts if one.contract_id == vm.contract_id and one.resource.lower() in units]
    terms = _latest(mine, at)
    discount = next((terms[name] for name in units if name in terms), None)
    return None if discount is None else discounted(full, discount, units[discount.resource.lower()])


def discounted(full: Decimal, discount: ContractDiscount, units: int | None) -> Decimal | None:
    """A list price with a contract's discount, never below 0; None if the discount cannot be applied."""
    value = discount.value
    if value is None or value < 0:
        return None
    if discount.kind == "percent":
        return _EXACT.multiply(full, _EXACT.subtract(_HUNDRED, value)).scaleb(-2, _EXACT) if value <= _HUNDRED else None
    off = _times(value, units) if discount.kind == "flat" else None
    return None if off is None else max(Decimal(0), _EXACT.subtract(full, off))


def rate_periods(
    vm: Resource,
    prices: Sequence[ListPrice],
    discounts: Sequence[ContractDiscount],
    *,
    since: datetime,
    until: datetime,
    currency: str,
) -> list[RatePeriod]:
    """The price of a VM over a period, without gaps, one item per time at which it may have changed."""
    changes = {at for at in _read_at(prices, discounts) if since < at < until}
    return [
        RatePeriod(
            since=lower, until=upper, per_hour=price_per_hour(vm, prices, discounts, at=lower, currency=currency)
        )
        for lower, upper in pairwise([since, *sorted(changes), until])
    ]


def cost_of(
    vm: Resource,
    states: Sequence[tuple[datetime, VmState]],
    contracts: Sequence[tuple[datetime, int | None]],
    prices: Sequence[ListPrice],
    discounts: Sequence[ContractDiscount],
    *,
    since: datetime,
    until: datetime,
    currency: str,
) -> Cost:
    """The cost of one VM over a period: the definition that `queries/cost.py` computes for many VMs at once.

    `states` and `contracts` are the changes of the VM's state and of the contract that it was on, oldest first, each
    until the next. Before the first one it is free, and on no contract.
    """
    changes = {at for at, _ in states} | {at for at, _ in contracts} | _read_at(prices, discounts)
    total = Cost()
    for lower, upper in pairwise([since, *sorted(at for at in changes if since < at < until), until]):
        billing = BILLING[_at(states, lower) or S.REQUESTED]
        if billing is Billing.FREE:
            continue
        placed = Resource(
            flavor=vm.flavor, gpu_model=vm.gpu_model, gpu_count=vm.gpu_count, contract_id=_at(contracts, lower)
        )
        rate = price_per_hour(placed, prices, discounts, at=lower, currency=currency)
        total += _part(seconds_of(upper - lower), rate if billing is Billing.FULL else None)
    return total


def seconds_of(span: timedelta) -> Decimal:
    """A length of time in seconds, exact to the microsecond."""
    return Decimal(span // _MICROSECOND).scaleb(-6, _EXACT)


def _part(seconds: Decimal, rate: Decimal | None) -> Cost:
    if rate is None:
        return Cost(unknown_seconds=seconds)
    return Cost(billed_seconds=seconds, hour_seconds=_EXACT.multiply(rate, seconds))


def _units(vm: Resource) -> dict[str, int | None]:
    """How many units of each resource a VM is, the name that goes first in front; None if that is unknown."""
    units: dict[str, int | None] = {vm.flavor.lower(): 1}
    if vm.gpu_model:
        units.setdefault(vm.gpu_model.lower(), vm.gpu_count or None)
    return units


def _times(value: Decimal, units: int | None) -> Decimal | None:
    return None if units is None else _EXACT.multiply(value, Decimal(units))


class _Dated(Protocol):
    @property
    def resource(self) -> str: ...

    @property
    def read_at(self) -> datetime: ...


Dated = TypeVar("Dated", bound=_Dated)
Value = TypeVar("Value")


def _latest(history: Iterable[Dated], at: datetime) -> dict[str, Dated]:
    """The item of each resource that holds at a moment, by the resource's name in lower case."""
    known = sorted((one for one in history if one.read_at <= at), key=lambda one: one.read_at)
    return {one.resource.lower(): one for one in known}


def _read_at(prices: Iterable[ListPrice], discounts: Iterable[ContractDiscount]) -> set[datetime]:
    return {one.read_at for one in prices} | {one.read_at for one in discounts}


def _at(history: Sequence[tuple[datetime, Value]], at: datetime) -> Value | None:
    return next((value for since, value in reversed(history) if since <= at), None)

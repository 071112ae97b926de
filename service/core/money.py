"""Money: what a VM costs per hour, on demand and on a contract. An estimate, in exact decimals.

A price that is not known is None and never 0. All arithmetic is exact until an amount is rounded for display. Pure.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from itertools import pairwise
from typing import Final, Protocol, TypeVar

from msgspec import Struct

from service.core.lifecycle import VmState

# Section 2.3 of infrahub-api.md: ACTIVE and SHUTOFF full, HIBERNATED partial; HIBERNATING, RESTORING, ERROR and DELETED
# free. It does not list the states between ACTIVE and SHUTOFF, which are billed as both of them are. Nor does it list what
# comes before ACTIVE, and DELETING and LOST: nothing runs yet, or any more.
BILLED_IN_FULL: Final = frozenset(map(VmState, ("ACTIVE", "STARTING", "STOPPING", "SHUTOFF", "REBOOTING")))
#: Billed for storage and address only, at prices that are not known. All states that are in neither set are free.
BILLED_IN_PART: Final = frozenset({VmState.HIBERNATED})
#: The price book names no currency (infrahub-api.md section 6), so a line that names none is taken to be in this one.
ASSUMED_CURRENCY: Final = "USD"
#: Estimates are rounded to this many decimal places.
PLACES: Final = 6
# Wide enough for a price of 60 digits over any number of seconds, so that no sum or product is ever rounded.
_EXACT: Final = Context(prec=200)
_HUNDRED: Final = Decimal(100)
_SECONDS_PER_HOUR: Final = Decimal(3600)


class ListPrice(Struct, frozen=True):
    """One row of `prices`: what a resource costs per hour from `read_at` until the next row of the same resource.

    `resource` is a GPU model (the value is per GPU) or a flavor (the value is per VM), as the price book names it.
    """

    resource: str
    read_at: datetime
    value: Decimal
    currency: str
    source: str


class ContractDiscount(Struct, frozen=True):
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


class Resource(Struct, frozen=True):
    """What a VM is, as far as its price depends on it. `contract_id` is the contract that it is on."""

    flavor: str
    gpu_model: str | None
    gpu_count: int | None
    contract_id: int | None = None


class Quote(Struct, frozen=True):
    """The price per hour of a VM at a moment, and what it rests on; None is what is not known."""

    per_hour: Decimal | None = None  #: on the contract, if it is on one
    list_per_hour: Decimal | None = None
    price: ListPrice | None = None
    discount: ContractDiscount | None = None  #: of the contract


class RatePeriod(Struct, frozen=True):
    """The price per hour of a VM from `since` to before `until`; None if it is unknown."""

    since: datetime
    until: datetime
    per_hour: Decimal | None


class _Dated(Protocol):
    @property
    def resource(self) -> str: ...

    @property
    def read_at(self) -> datetime: ...


Dated = TypeVar("Dated", bound=_Dated)


def currency_of(prices: Iterable[ListPrice]) -> str:
    """The currency to count in: that of most prices. Amounts in any other count as unknown: there is no exchange rate here."""
    counted = Counter(one.currency for one in prices)
    return min(counted, key=lambda name: (-counted[name], name), default=ASSUMED_CURRENCY)


def estimate(hour_seconds: Decimal) -> Decimal:
    """An amount of money from an exact sum of price per hour times seconds, rounded half to even to `PLACES`."""
    amount = _EXACT.divide(hour_seconds, _SECONDS_PER_HOUR)
    return amount.quantize(Decimal(1).scaleb(-PLACES), rounding=ROUND_HALF_EVEN, context=_EXACT)


def quote(
    vm: Resource, prices: Iterable[ListPrice], discounts: Iterable[ContractDiscount], *, at: datetime, currency: str
) -> Quote:
    """What a VM that is billed in full costs per hour at a moment.

    A price of the flavor itself goes before that of its GPU model. Amounts in another currency count as unknown.
    """
    units = _units(vm)
    price = _newest(prices, units, at)
    if price is None or price.currency != currency:
        return Quote()
    full = _times(price.value, units[price.resource.lower()])
    if full is None or vm.contract_id is None:
        return Quote(full, full, price)
    terms = _newest([one for one in discounts if one.contract_id == vm.contract_id], units, at)
    per_hour = None if terms is None else discounted(full, terms, units[terms.resource.lower()])
    return Quote(per_hour, full, price, terms)


def discounted(full: Decimal, terms: ContractDiscount, units: int | None) -> Decimal | None:
    """A list price with a contract's discount, never below 0; None if the discount cannot be applied."""
    value = terms.value
    if value is None or value < 0:
        return None
    if terms.kind == "percent":
        return _EXACT.multiply(full, _EXACT.subtract(_HUNDRED, value)).scaleb(-2, _EXACT) if value <= _HUNDRED else None
    off = _times(value, units) if terms.kind == "flat" else None
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
    changes = {
        at for at in ({one.read_at for one in prices} | {one.read_at for one in discounts}) if since < at < until
    }
    return [
        RatePeriod(lower, upper, quote(vm, prices, discounts, at=lower, currency=currency).per_hour)
        for lower, upper in pairwise([since, *sorted(changes), until])
    ]


def _units(vm: Resource) -> dict[str, int | None]:
    """How many units of each resource a VM is, the name that goes first in front; None if that is unknown."""
    units: dict[str, int | None] = {vm.flavor.lower(): 1}
    if vm.gpu_model:
        units.setdefault(vm.gpu_model.lower(), vm.gpu_count or None)
    return units


def _newest(history: Iterable[Dated], names: Iterable[str], at: datetime) -> Dated | None:
    """What holds at a moment for the first of the names that anything holds for."""
    known = {one.resource.lower(): one for one in sorted(history, key=lambda one: one.read_at) if one.read_at <= at}
    return next((known[name] for name in names if name in known), None)


def _times(value: Decimal, units: int | None) -> Decimal | None:
    return None if units is None else _EXACT.multiply(value, Decimal(units))

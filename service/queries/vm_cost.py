"""What one VM costs: per hour now, with the price and the discount behind it, and in its whole life. An estimate."""

from datetime import datetime
from decimal import Decimal

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.contract import Assignment
from service.core.money import (
    BILLED_IN_FULL,
    BILLED_IN_PART,
    ContractDiscount,
    ListPrice,
    Quote,
    Resource,
    currency_of,
    quote,
)
from service.core.vm import Vm
from service.queries import cost
from service.queries.cost import CostRow, Period
from service.storage.prices import latest_discounts, latest_prices


class VmCost(Struct, frozen=True):
    """The money of a VM. Prices are per hour while it is billed in full; None is not known."""

    currency: str
    billed: str  #: now: full, partial or free
    per_hour: Decimal | None  #: as it is assigned now
    per_hour_on_contract: Decimal | None  #: on the contract that it requested; None if it requested none, too
    price: ListPrice | None
    discount: ContractDiscount | None  #: of the contract that it requested
    since: datetime
    until: datetime
    total: CostRow


async def of_vm(conn: AsyncConnection, vm: Vm, *, now: datetime) -> VmCost:
    prices, discounts = await latest_prices(conn), await latest_discounts(conn)
    currency, until = currency_of(prices), vm.ended_at or now

    def quoted(contract_id: int | None) -> Quote:
        resource = Resource(vm.flavor, vm.gpu_model, vm.gpu_count, contract_id)
        return quote(resource, prices, discounts, at=now, currency=currency)

    wanted = quoted(vm.contract_id)
    current = wanted if vm.assignment is Assignment.ASSIGNED else quoted(None)
    period = Period(since=vm.created_at, until=until, submission_id=vm.submission_id, vm_no=vm.vm_no, currency=currency)
    return VmCost(
        currency=currency,
        billed=_billed(vm),
        per_hour=current.per_hour,
        per_hour_on_contract=wanted.per_hour if vm.contract_id is not None else None,
        price=current.price,
        discount=wanted.discount,
        since=vm.created_at,
        until=until,
        total=await cost.total(conn, period),
    )


def _billed(vm: Vm) -> str:
    if vm.state in BILLED_IN_FULL:
        return "full"
    return "partial" if vm.state in BILLED_IN_PART else "free"

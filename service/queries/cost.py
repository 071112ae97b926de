"""What VMs cost in a period, by several keys, and what the living ones cost per hour now. An estimate.

The rules are those of `core/money.py`: it computes the price of each kind of VM over the period, and one statement
joins these with the states and contracts that the record has. Reads only VMs that were alive in the period.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core import money
from service.core.money import (
    BILLED_IN_FULL,
    BILLED_IN_PART,
    ContractDiscount,
    ListPrice,
    Resource,
)
from service.queries.cost_statements import KINDS, NOW, statement
from service.queries.typed import typed
from service.storage.prices import latest_discounts, latest_prices
from service.storage.rows import from_rows
from service.storage.tables import contract_discounts, prices

By = Literal["vm", "submission", "contract", "label", "caller", "flavor", "region", "day"]
Params = Mapping[str, Any]

_UNPRICED: Final = sorted(BILLED_IN_PART)
_BILLED: Final = sorted(BILLED_IN_FULL | BILLED_IN_PART)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """What one key comes to in a period. Seconds are VM seconds; money is in the currency of the report.

    `unknown_seconds` were charged at a price that is not known, and are in no estimate. What ran off contract, on
    demand though a contract was requested, is part of the rest.
    """

    key: str
    vms: int
    billed_seconds: Decimal  #: at a known price
    unknown_seconds: Decimal
    estimate: Decimal
    off_contract_seconds: Decimal
    off_contract_unknown_seconds: Decimal
    off_contract_estimate: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A period of the record, of the whole fleet or of one submission, and the currency of its report."""

    since: datetime
    until: datetime
    submission_id: UUID | None
    currency: str
    vm_no: int | None = None  #: only this VM of the submission


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPerHour:
    """What the VMs that are charged now cost per hour. `unknown_vms` are charged at a price that is not known."""

    currency: str
    on_contract: Decimal
    on_demand: Decimal
    unknown_vms: int
    off_contract: Decimal  #: of all this, what VMs cost that run off the contract that was requested
    off_contract_unknown_vms: int


async def currency(conn: AsyncConnection, *, at: datetime) -> str:
    """The currency of reports until a moment: that of most prices at that moment."""
    return money.currency_of(await latest_prices(conn, at=at))


async def page(conn: AsyncConnection, period: Period, *, by: By, after: str | None, limit: int) -> list[CostRow]:
    """A page of the cost in a period by key, in the order of the keys; `after` is the last key of the page before."""
    params = {**await _params(conn, period), "after": after, "limit": limit}
    if by == "vm" and after is not None:
        params["after"], _, vm_no = after.partition(".")
        params["after_vm_no"] = int(vm_no)
    mine = period.submission_id is not None
    rows = await conn.execute(typed(statement(by, after=after is not None, paged=True, of_submission=mine)), params)
    return [_row(row) for row in rows.mappings()]


async def total(conn: AsyncConnection, period: Period) -> CostRow:
    """What a whole period comes to. Its key is `total`."""
    rows = await conn.execute(
        typed(statement("total", of_submission=period.submission_id is not None)), await _params(conn, period)
    )
    found = rows.mappings().one_or_none()
    return _row(found) if found is not None else _row({})


async def per_hour(conn: AsyncConnection, *, now: datetime, submission_id: UUID | None = None) -> CostPerHour:
    """What the living VMs, or those of one submission, cost per hour now."""
    known, terms = await latest_prices(conn), await latest_discounts(conn)
    unit = money.currency_of(known)
    sums = {True: Decimal(0), False: Decimal(0)}
    off_contract = Decimal(0)
    unknown = off_contract_unknown = 0
    rows = await conn.execute(typed(NOW), {"billed": _BILLED, "unpriced": _UNPRICED, "submission_id": submission_id})
    for row in rows:
        vm = Resource(flavor=row.flavor, gpu_model=row.gpu_model, gpu_count=row.gpu_count, contract_id=row.contract_id)
        rate = None if row.unpriced else money.quote(vm, known, terms, at=now, currency=unit).per_hour
        if rate is None:
            unknown += row.vms
            off_contract_unknown += row.vms if row.off_contract else 0
        else:
            sums[row.contract_id is not None] += rate * row.vms
            off_contract += rate * row.vms if row.off_contract else 0
    return CostPerHour(
        currency=unit,
        on_contract=sums[True],
        on_demand=sums[False],
        unknown_vms=unknown,
        off_contract=off_contract,
        off_contract_unknown_vms=off_contract_unknown,
    )


async def _params(conn: AsyncConnection, period: Period) -> dict[str, Any]:
    scope = {"since": period.since, "until": period.until, "submission_id": period.submission_id, "vm_no": period.vm_no}
    kinds = [
        Resource(flavor=row.flavor, gpu_model=row.gpu_model, gpu_count=row.gpu_count)
        for row in await conn.execute(typed(KINDS), scope)
    ]
    rates = _rates(kinds, await _prices(conn, period.until), await _discounts(conn, period.until), period)
    return {**scope, "billed": _BILLED, "unpriced": _UNPRICED, "rates": json.dumps(rates)}


async def _prices(conn: AsyncConnection, until: datetime) -> list[ListPrice]:
    return await from_rows(ListPrice, await conn.execute(select(prices).where(prices.c.read_at <= until)))


async def _discounts(conn: AsyncConnection, until: datetime) -> list[ContractDiscount]:
    query = select(contract_discounts).where(contract_discounts.c.read_at <= until)
    return await from_rows(ContractDiscount, await conn.execute(query))


def _rates(
    kinds: Sequence[Resource], known: Sequence[ListPrice], terms: Sequence[ContractDiscount], period: Period
) -> list[dict[str, Any]]:
    """The price of each kind of VM over the period, on demand and on each contract that has one for it."""
    rates = []
    for kind in kinds:
        names = {kind.flavor.lower(), (kind.gpu_model or "").lower()}
        mine = [one for one in known if one.resource.lower() in names]
        for contract_id in (None, *sorted({one.contract_id for one in terms if one.resource.lower() in names})):
            vm = Resource(
                flavor=kind.flavor, gpu_model=kind.gpu_model, gpu_count=kind.gpu_count, contract_id=contract_id
            )
            off = [one for one in terms if one.contract_id == contract_id and one.resource.lower() in names]
            rates += [
                {
                    "flavor": kind.flavor,
                    "gpu_model": kind.gpu_model,
                    "gpu_count": kind.gpu_count,
                    "contract_id": contract_id,
                    "lower_at": part.since.isoformat(),
                    "upper_at": part.until.isoformat(),
                    "per_hour": None if part.per_hour is None else str(part.per_hour),
                }
                for part in money.rate_periods(
                    vm, mine, off, since=period.since, until=period.until, currency=period.currency
                )
            ]
    return rates


def _row(found: Mapping[Any, Any]) -> CostRow:
    def sum_of(name: str) -> Decimal:
        return Decimal(found.get(name) or 0)

    return CostRow(
        key=found.get("key", "total"),
        vms=found.get("vms", 0),
        billed_seconds=sum_of("billed_seconds"),
        unknown_seconds=sum_of("unknown_seconds"),
        estimate=money.estimate(sum_of("hour_seconds")),
        off_contract_seconds=sum_of("off_contract_seconds"),
        off_contract_unknown_seconds=sum_of("off_contract_unknown_seconds"),
        off_contract_estimate=money.estimate(sum_of("off_contract_hour_seconds")),
    )

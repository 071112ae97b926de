"""The tables `prices` and `contract_discounts`: append-only, one row when a value changes."""

from collections.abc import Callable, Hashable, Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.money import ContractDiscount, ListPrice
from service.storage.rows import from_rows, insert_many
from service.storage.tables import contract_discounts, prices

Row = TypeVar("Row", ListPrice, ContractDiscount)


async def insert_changed_prices(conn: AsyncConnection, read: Sequence[ListPrice]) -> list[ListPrice]:
    """Store the prices that differ from the latest ones on record; returns them. A missing price is not a change."""
    changed = _changed(
        await latest_prices(conn),
        read,
        key=lambda one: one.resource.lower(),
        value=lambda one: (one.value, one.currency),
    )
    await insert_many(conn, prices, changed, or_ignore=True)
    return changed


async def insert_changed_discounts(conn: AsyncConnection, read: Sequence[ContractDiscount]) -> list[ContractDiscount]:
    """Store the discounts that differ from the latest ones on record; returns them."""
    changed = _changed(
        await latest_discounts(conn),
        read,
        key=lambda one: (one.contract_id, one.resource.lower()),
        value=lambda one: (one.kind, one.value),
    )
    await insert_many(conn, contract_discounts, changed, or_ignore=True)
    return changed


async def latest_prices(conn: AsyncConnection, *, at: datetime | None = None) -> list[ListPrice]:
    """The price of each resource that holds now, or that held at a moment."""
    name = func.lower(prices.c.resource)
    latest = select(prices).ext(distinct_on(name)).order_by(name, prices.c.read_at.desc())
    rows = await conn.execute(latest if at is None else latest.where(prices.c.read_at <= at))
    return await from_rows(ListPrice, rows)


async def latest_discounts(conn: AsyncConnection) -> list[ContractDiscount]:
    """The discount of each contract for each resource that holds now."""
    key = (contract_discounts.c.contract_id, func.lower(contract_discounts.c.resource))
    latest = select(contract_discounts).ext(distinct_on(*key)).order_by(*key, contract_discounts.c.read_at.desc())
    return await from_rows(ContractDiscount, await conn.execute(latest))


def _changed(
    known: Sequence[Row], read: Sequence[Row], *, key: Callable[[Row], Hashable], value: Callable[[Row], Hashable]
) -> list[Row]:
    before = {key(one): one for one in known}
    # A row that is older than the latest would rewrite history: another daemon has read a newer one.
    return [
        one
        for one in {key(one): one for one in read}.values()
        if key(one) not in before or (before[key(one)].read_at < one.read_at and value(before[key(one)]) != value(one))
    ]

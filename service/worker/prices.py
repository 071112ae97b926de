"""Reads the provider's price book and the discounts of its contracts every hour, and stores what changed.

A price holds until another is read: a resource that is missing from one answer, or whose price cannot be read, keeps
the price on record, which says when it was read.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.money import ASSUMED_CURRENCY, ContractDiscount, ListPrice
from service.core.observation import Contract, Discount, Price
from service.operations.provider_calls import call_provider
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.storage import prices as stored
from service.storage import scheduled_jobs
from service.storage.engine import transact

_JOB: Final = "prices"
_LEASE: Final = timedelta(minutes=10)
_EVERY: Final = timedelta(hours=1)
_RETRY: Final = timedelta(minutes=1)
_PER_PAGE: Final = 100
_MAX_PAGES: Final = 100
_LARGEST_ID: Final = 2**31 - 1  # what the column holds


async def run_once(rt: Runtime) -> int:
    """Read the prices if that is due; returns how many had changed."""
    token = rt.uuid()
    claim = partial(scheduled_jobs.claim, job=_JOB, now=rt.clock.now(), lease=_LEASE, token=token)
    if not await transact(rt.engine, claim):
        return 0
    changed_prices, changed_discounts = await _read_prices(rt), await _read_discounts(rt)
    complete = changed_prices is not None and changed_discounts is not None
    now = rt.clock.now()
    due_at = now + (_EVERY if complete else _RETRY)
    await transact(rt.engine, lambda conn: scheduled_jobs.complete_if_leased(conn, _JOB, token, now=now, due_at=due_at))
    return (changed_prices or 0) + (changed_discounts or 0)


async def _read_prices(rt: Runtime) -> int | None:
    """Store the changed prices; returns how many, or None if the price book could not be read now."""
    at = rt.clock.now()
    result = await call_provider(rt, "read", "pricebook", rt.client.pricebook)
    if result is None or result.error is not None:
        return None
    read = list_prices(result.value or (), at)
    changed = await transact(rt.engine, lambda conn: stored.insert_changed_prices(conn, read))
    for one in changed:
        logger().info("price changed", action=_JOB, resource=one.resource, value=str(one.value), currency=one.currency)
    return len(changed)


async def _read_discounts(rt: Runtime) -> int | None:
    """Store the changed discounts of all contracts; returns how many, or None if they could not be read now."""
    at, contracts = rt.clock.now(), list[Contract]()
    for page in range(1, _MAX_PAGES + 1):
        read = partial(rt.client.contracts, page=page, per_page=_PER_PAGE)
        result = await call_provider(rt, "read contract", "list contracts", read)
        if result is None or result.error is not None:
            return None
        contracts += result.value or ()
        if len(result.value or ()) < _PER_PAGE:
            break
    return await transact(rt.engine, partial(_store_discounts, contracts=contracts, at=at))


async def _store_discounts(conn: AsyncConnection, *, contracts: list[Contract], at: datetime) -> int:
    return len(await stored.insert_changed_discounts(conn, list(contract_discounts(contracts, at))))


def list_prices(book: Iterable[Price], at: datetime) -> list[ListPrice]:
    """The rows for a price book read at `at`. A resource with two different prices has none that can be trusted."""
    found: dict[str, list[ListPrice]] = {}
    for one in book:
        row = ListPrice(
            resource=one.name,
            read_at=at,
            value=one.value,
            currency=one.currency or ASSUMED_CURRENCY,
            source="pricebook",
        )
        found.setdefault(one.name.lower(), []).append(row)
    return [rows[0] for rows in found.values() if len({(row.value, row.currency) for row in rows}) == 1]


def contract_discounts(contracts: Iterable[Contract], at: datetime) -> Iterator[ContractDiscount]:
    """The rows for contracts read at `at`: one for each resource, with no value if its lines are unclear."""
    for contract in contracts:
        lines: dict[str, list[Discount]] = {}
        for line in contract.discounts:
            if line.resource_name is not None and contract.contract_id <= _LARGEST_ID:
                lines.setdefault(line.resource_name.lower(), []).append(line)
        for same in lines.values():
            terms = {_terms(line) for line in same}
            kind, value = terms.pop() if len(terms) == 1 else (None, None)
            yield ContractDiscount(
                contract_id=contract.contract_id,
                resource=same[0].resource_name or "",
                read_at=at,
                kind=kind,
                value=value,
                source="pricebook/contracts",
            )


def _terms(line: Discount) -> tuple[str, Decimal] | tuple[None, None]:
    kind = (line.discount_type or "").lower()
    value = {"percent": line.percent, "flat": line.amount}.get(kind)
    active = (line.status or "active").lower() == "active"
    return (kind, value) if active and value is not None and value >= 0 else (None, None)

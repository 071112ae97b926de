"""Reads the provider's price book and the discounts of its contracts every hour, and stores what changed.

A price holds until another is read: a resource that is missing from one answer, or whose price cannot be read, keeps
the price on record, which says when it was read.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Final, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.money import ASSUMED_CURRENCY, ContractDiscount, ListPrice
from service.core.observation import Contract, Discount, Price
from service.operations.paging import all_pages
from service.operations.provider_calls import call_provider
from service.runtime.runtime import Runtime
from service.runtime.scheduled_runs import ClaimedRun, claim
from service.storage import prices as stored
from service.storage import scheduled_jobs
from service.storage.engine import transact

Value = TypeVar("Value")

_JOB: Final = "prices"
_LEASE: Final = timedelta(minutes=10)
_EVERY: Final = timedelta(hours=1)
_RETRY: Final = timedelta(minutes=1)
_PER_PAGE: Final = 100
_MAX_PAGES: Final = 100
_LARGEST_ID: Final = 2**31 - 1  # what the column holds


async def run_once(rt: Runtime) -> int:
    """Read the prices if that is due; returns how many had changed."""
    token = await claim(rt, _JOB, lease=_LEASE)
    if token is None:
        return 0
    async with ClaimedRun(rt, _JOB, token):
        return await _run(rt, token)


async def _run(rt: Runtime, token: UUID) -> int:
    at = rt.clock.now()
    book, contracts = await _read(rt, "read", "pricebook", rt.client.pricebook), await _read_contracts(rt)
    listed, terms = list_prices(book or (), at), list(contract_discounts(contracts or (), at))

    async def store(conn: AsyncConnection) -> int:
        changed = await stored.insert_changed_prices(conn, listed)
        return len(changed) + len(await stored.insert_changed_discounts(conn, terms))

    changed = await transact(rt.engine, store)
    _report(rt, {"the price book": book, "contracts": contracts})
    now = rt.clock.now()
    due_at = now + (_RETRY if book is None or contracts is None else _EVERY)
    await transact(rt.engine, lambda conn: scheduled_jobs.complete_if_leased(conn, _JOB, token, now=now, due_at=due_at))
    return changed


async def _read(
    rt: Runtime, operation: str, label: str, call: Callable[[], Awaitable[tuple[Value, ...]]]
) -> tuple[Value, ...] | None:
    """What a call gives, or None if it cannot be read now."""
    result = await call_provider(rt, operation, label, call)
    return None if result is None or result.error is not None else result.value


async def _read_contracts(rt: Runtime) -> list[Contract] | None:
    """All contracts, or None if one of their pages cannot be read now."""

    async def read(page: int) -> tuple[Contract, ...] | None:
        call = partial(rt.client.contracts, page=page, per_page=_PER_PAGE)
        return await _read(rt, "read contract", "list contracts", call)

    return await all_pages(read, key=lambda one: one.contract_id, size=_PER_PAGE, most=_MAX_PAGES)


def _report(rt: Runtime, read: Mapping[str, object]) -> None:
    unread = [name for name, value in read.items() if value is None]
    if unread:
        text = f"{' and '.join(unread)} cannot be read now; the prices on record hold"
        rt.health.report(_JOB, text, owner=_JOB, advisory=True)  # only what has a money limit waits for it
    else:
        rt.health.resolve(_JOB, owner=_JOB)


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

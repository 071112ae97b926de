"""Chooses what a creation is made from, and puts that on record before the call: the stock is read, and never trusted."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Final

from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.alternatives import (
    StockOf,
    hardware_of,
    in_order,
    is_empty,
    most_promising,
    resource_of,
    spec_of,
    too_dear,
)
from service.core.contract import Assignment
from service.core.create_body import spec_without_user_data
from service.core.submission import Policy
from service.operations.provider_calls import call_provider
from service.operations.quotes import read_quotes
from service.runtime.runtime import Runtime
from service.storage import creations, vms
from service.storage.creations import Leased
from service.storage.engine import transact

#: How long a result about the stock serves all creations.
_FRESH: Final = timedelta(seconds=15)
#: Seconds that a creation waits for it. A lease leaves room for that.
TIMEOUT: Final = 5.0


async def choose(rt: Runtime, leased: Leased, policy: Policy) -> Leased:
    """The creation with the alternative to send: the first in turn that is not too dear, and that the provider does not
    say it has none of.

    What is passed over is not tried next either, if this one turns out to have no stock. If all are too dear, that is all.
    """
    if not policy.alternatives:
        return leased
    creation, dear = leased.creation, await _too_dear(rt, leased, policy)
    order = in_order(len(policy.alternatives) + 1, creation.alternative, {*creation.refused_alternatives, *dear})
    stock = await _stock(rt)
    found = most_promising(order, leased.hardware, stock)
    empty = [one for one in order if is_empty(hardware_of(leased.hardware, one), stock)]
    passed_over = frozenset(dear) if found is None else frozenset([*dear, *empty])
    chosen = next(iter(order), creation.alternative) if found is None else found
    leased = replace(leased, passed_over=passed_over)
    if chosen == creation.alternative:
        return leased
    if not await transact(rt.engine, partial(_switch, leased=leased, policy=policy, chosen=chosen)):
        return leased  # somebody else has it by now, and the result will be dropped
    return leased.with_creation(structs.replace(creation, alternative=chosen))


async def _too_dear(rt: Runtime, leased: Leased, policy: Policy) -> set[int]:
    """The alternatives of which a VM costs more now than they allow."""
    if all(one.max_price_per_hour is None for one in policy.alternatives):
        return set()
    spec, quotes = spec_without_user_data(leased.spec), await read_quotes(rt)
    return {
        number
        for number, one in enumerate(policy.alternatives, 1)
        if too_dear(one, quotes.price(resource_of(spec, policy.alternatives, leased.hardware, number)))
    }


async def _stock(rt: Runtime) -> Mapping[StockOf, int]:
    """GPUs by region and model, from the last seconds; empty if they cannot be read in time."""
    cache = rt.stock
    try:
        async with asyncio.timeout(TIMEOUT), cache.lock:
            if cache.read_at is not None and rt.clock.now() < cache.read_at + _FRESH:
                return cache.levels
            result = await call_provider(rt, "read", "stock", rt.client.stocks)
            cache.read_at = rt.clock.now()
            levels = result.value if result is not None else None
            cache.levels = {StockOf(one.region, one.gpu_model): one.available for one in levels or ()}
            return cache.levels
    except TimeoutError:
        return {}


async def _switch(conn: AsyncConnection, *, leased: Leased, policy: Policy, chosen: int) -> bool:
    creation = leased.creation
    assert creation.lease_token is not None  # noqa: S101  a CHECK constraint: what is being called has a lease
    if not await creations.set_if_leased(conn, creation.ref, creation.lease_token, alternative=chosen):
        return False
    await write_choice(conn, leased, policy, chosen)
    return True


async def write_choice(conn: AsyncConnection, leased: Leased, policy: Policy, chosen: int) -> None:
    """Write what the VMs of a creation that are not made yet will be made from."""
    wanted = spec_of(spec_without_user_data(leased.spec), policy.alternatives, chosen)
    hardware = hardware_of(leased.hardware, chosen)
    found = await vms.lock_creation(conn, *leased.creation.ref)
    changed = [
        structs.replace(
            vm,
            alternative=chosen,
            flavor=wanted.flavor_name,
            environment=wanted.environment_name,
            region=None,
            gpu_model=hardware.gpu_model,
            gpu_count=hardware.gpu_count,
            contract_id=wanted.contract_id,
            assignment=Assignment.NONE if wanted.contract_id is None else Assignment.WANTED,
        )
        for vm in found.values()
        if vm.provider_id is None and vm.ended_at is None
    ]
    await vms.save(conn, changed)

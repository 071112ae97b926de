"""Chooses what a creation is made from, and puts that on record before the call: the stock is read, and never trusted."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Final

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.alternatives import StockOf, hardware_of, in_order, most_promising, spec_of
from service.core.contract import Assignment
from service.core.create_body import VmSpec
from service.core.submission import Policy
from service.operations.provider_calls import call_provider
from service.runtime.runtime import Runtime
from service.storage import creations, vms
from service.storage.creations import Leased
from service.storage.engine import transact

#: How long a result about the stock serves all creations.
_FRESH: Final = timedelta(seconds=15)
#: Seconds that a creation waits for it. A lease leaves room for that.
TIMEOUT: Final = 5.0


async def choose(rt: Runtime, leased: Leased, policy: Policy) -> Leased:
    """The creation with the alternative to send: the first in turn that the provider does not say it has none of."""
    if not policy.alternatives:
        return leased
    creation = leased.creation
    order = in_order(len(policy.alternatives) + 1, creation.alternative, set(creation.refused_alternatives))
    found = most_promising(order, leased.hardware, await _stock(rt))
    chosen = creation.alternative if found is None else found
    if chosen == creation.alternative:
        return leased
    if not await transact(rt.engine, partial(_switch, leased=leased, policy=policy, chosen=chosen)):
        return leased  # somebody else has it by now, and the result will be dropped
    return leased.with_creation(replace(creation, alternative=chosen))


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
    # The encrypted user_data is of no concern here.
    spec = VmSpec.model_validate({key: value for key, value in leased.spec.items() if key != "user_data"})
    wanted = spec_of(spec, policy.alternatives, chosen)
    hardware = hardware_of(leased.hardware, chosen)
    found = await vms.lock_creation(conn, *leased.creation.ref)
    changed = [
        replace(
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

"""Contracts that end while VMs are on them. A VM that staff moved off its contract shows itself in any refresh."""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Final
from uuid import UUID

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.contract import over
from service.core.contract_evidence import off_contract
from service.core.evidence import with_readiness
from service.core.lifecycle import EvidenceKind
from service.core.observation import Contract
from service.core.submission import Policy
from service.core.vm import Provenance, Vm
from service.errors import Refused
from service.operations.provider_calls import call_provider
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.runtime.scheduled_runs import ClaimedRun, claim
from service.storage import assignments, contract_queue, scheduled_jobs, submissions, vms
from service.storage.engine import begin, transact

JOB: Final = "contract drift"
_LEASE: Final = timedelta(minutes=5)
_SET: Final = 500


async def check(rt: Runtime) -> int:
    """Once in a resync: read each contract that VMs are on. Returns how many VMs this changed."""
    token = await claim(rt, JOB, lease=_LEASE)
    if token is None:
        return 0
    async with ClaimedRun(rt, JOB, token, part_of="contract"):
        return await _check_all(rt, token)


async def _check_all(rt: Runtime, token: UUID) -> int:
    async with begin(rt.engine) as conn:
        contract_ids = await contract_queue.contracts_in_use(conn)
    changed = 0
    for contract_id in contract_ids:
        changed += await _check(rt, contract_id)
    done = partial(scheduled_jobs.complete_if_leased, job=JOB, token=token, now=rt.clock.now())
    again = rt.clock.now() + timedelta(seconds=rt.settings.resync_seconds)
    await transact(rt.engine, partial(done, due_at=again))
    return changed


async def read_contract(rt: Runtime, contract_id: int) -> dict[int, Contract | None]:
    """A contract by its id, None if the provider does not know it; empty if it could not be read."""
    result = await call_provider(rt, "read contract", "read contract", partial(rt.client.contract, contract_id))
    if result is not None and result.error is None:
        return {contract_id: result.value}
    if result is not None and isinstance(result.error, Refused) and result.error.reason == "not_found":
        return {contract_id: None}
    return {}


async def _check(rt: Runtime, contract_id: int) -> int:
    found = await read_contract(rt, contract_id)
    if contract_id not in found:
        return 0
    shortfall = over(found[contract_id], rt.clock.now())
    reason = None if shortfall is None else f"contract {contract_id} is {shortfall.value}"
    changed = 0
    while some := await transact(rt.engine, partial(_apply, rt, contract_id=contract_id, reason=reason)):
        changed += some
    if changed:
        what = reason or "the contract is valid again"
        logger().warning("contract drift", action="contract", contract_id=contract_id, vms=changed, reason=what)
    return changed


async def _apply(rt: Runtime, conn: AsyncConnection, *, contract_id: int, reason: str | None) -> int:
    """Put VMs off a contract that is over for a `reason`; without one, believe again what is shown of it."""
    refs = await contract_queue.on_contract(conn, contract_id, ended=reason is None, limit=_SET)
    locked = list((await vms.lock_free(conn, refs)).values())
    await _save(rt, conn, locked, reason)
    return len(locked)


async def _save(rt: Runtime, conn: AsyncConnection, locked: Sequence[Vm], reason: str | None) -> None:
    now = rt.clock.now()
    if reason is None:
        await vms.save(conn, [replace(vm, contract_ended=False, next_refresh_at=now) for vm in locked])
        return
    found = await submissions.read(conn, [vm.submission_id for vm in locked])
    provenance = Provenance(kind=EvidenceKind.OBSERVATION, at=now, now=now)
    changed, notes = [], []
    for vm in locked:
        policy = Policy.model_validate(found[vm.submission_id].policy)
        missed, note = off_contract(vm, provenance, policy, reason)
        changed.append(with_readiness(replace(missed, contract_ended=True), now))
        notes += [note] if note else []
    await vms.save(conn, changed)
    await assignments.insert(conn, notes)

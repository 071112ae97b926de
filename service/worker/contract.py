"""Deals with VMs that should be on a contract and are not, by the policy of their submission.

A replacement is made first, and the old VM is deleted only when the new one is ready on the contract: a contract that filled
up meanwhile, a flavor out of stock or a boot that fails then costs an attempt and not a running VM.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.contract import READ_EVERY, Retrying, Step
from service.core.contract_queue import InQueue, share_out
from service.core.lifecycle import Operation
from service.core.observation import Contract
from service.core.submission import Policy
from service.core.vm import Vm
from service.operations import contract_drift
from service.operations.contract_replacing import follow_up, replace_vms, resolve_replacing
from service.operations.contract_steps import Case, defer, given_up, later, note, save, waits_since
from service.operations.provider_calls import CallResult, acquire, call_about, make_call, record_results
from service.runtime.runtime import Runtime
from service.runtime.slots import CALLS_IN_CONTRACT_SLOT, Claimed
from service.runtime.tasks import gather_all
from service.storage import calls, contract_queue, submissions, vms
from service.storage.engine import begin, transact

_AT_ONCE = 500
_LEASE = timedelta(minutes=5)
#: When to try again if another daemon deals with the contract.
_BUSY = timedelta(seconds=1)


async def run_once(rt: Runtime) -> int:
    """One try for each VM that is due, and wait for the answers; how many were dealt with."""
    claimed = await claim(rt, _AT_ONCE)
    return await claimed.make_calls()


async def claim(rt: Runtime, free: int) -> Claimed:
    """Lease the VMs that are due; the calls that deal with those of one contract each, at most `free` of them.

    VMs of further contracts are released again: they are claimed when a slot is free.
    """
    await resolve_replacing(rt)
    await contract_drift.check(rt)
    token = rt.uuid()
    claimed = await transact(
        rt.engine,
        lambda conn: contract_queue.claim_contracts(
            conn, now=rt.clock.now(), lease=_LEASE, token=token, limit=_AT_ONCE
        ),
    )
    under_way = [vm for vm in claimed if vm.replaced_by is not None]
    by_contract: dict[int, list[Vm]] = defaultdict(list)
    for vm in claimed:
        if vm.replaced_by is None and vm.contract_id is not None:
            by_contract[vm.contract_id].append(vm)
    groups = list(by_contract.items())
    if under_way:
        await transact(rt.engine, lambda conn: follow_up(rt, conn, under_way))
    if surplus := [vm for _, group in groups[free:] for vm in group]:
        await transact(rt.engine, lambda conn: defer(rt, conn, surplus, by=timedelta()))
    return Claimed(len(claimed) - len(surplus), [partial(_deal_with, rt, *group) for group in groups[:free]])


async def _deal_with(rt: Runtime, contract_id: int, claimed: Sequence[Vm]) -> None:
    """Decide and act for VMs of one contract. One daemon at a time does so, or two would give away the same room."""
    token, now = rt.uuid(), rt.clock.now()
    take = partial(contract_queue.lease_contract, contract_id=contract_id, token=token, now=now, lease=_LEASE)
    if not await transact(rt.engine, take):
        await transact(rt.engine, lambda conn: defer(rt, conn, claimed, by=_BUSY))
        return
    await _decide_and_act(rt, contract_id, claimed)
    # After an error the lease runs out: what was begun for its room is on record by then.
    await transact(rt.engine, partial(contract_queue.release_contract, contract_id=contract_id, token=token))


async def _decide_and_act(rt: Runtime, contract_id: int, claimed: Sequence[Vm]) -> None:
    contracts = await contract_drift.read_contract(rt, contract_id)
    if contract_id not in contracts:
        await transact(rt.engine, lambda conn: defer(rt, conn, claimed, by=rt.retry.after(3, rt.jitter())))
        return
    soon, before = rt.clock.now() + READ_EVERY, max(waits_since(vm) for vm in claimed)
    ahead = await _claim_ahead(rt, contract_id, before, soon)
    cases = await _decide_all(rt, contract_id, contracts[contract_id], [*claimed, *ahead])
    not_due = {vm.ref for vm in ahead}
    early = {case.vm.ref: case.vm for case in cases if case.vm.ref in not_due and _only_queues(case, before, soon)}
    await transact(rt.engine, lambda conn: _release(conn, list(early.values())))
    due = [case for case in cases if case.vm.ref not in early]
    by_step = {step: [case for case in due if case.decision.step is step] for step in Step}
    rest = [*by_step[Step.WAIT], *by_step[Step.GIVE_UP]]
    await transact(rt.engine, lambda conn: _wait_or_give_up(rt, conn, rest))
    for submission_id in sorted({case.vm.submission_id for case in by_step[Step.REPLACE]}):
        of_it = [case for case in by_step[Step.REPLACE] if case.vm.submission_id == submission_id]
        await transact(rt.engine, partial(replace_vms, rt, cases=of_it))
    at_once = asyncio.Semaphore(CALLS_IN_CONTRACT_SLOT)
    await gather_all(_reassign(rt, case, at_once) for case in by_step[Step.REASSIGN])


def _only_queues(case: Case, before: datetime, soon: datetime) -> bool:
    """Of a VM that is not due: it acts only if it has waited since before then, and waits on with others if it is due soon."""
    vm = case.vm
    if case.decision.step is Step.WAIT:
        return vm.contract_due_at is not None and vm.contract_due_at > soon
    return case.decision.step is not Step.GIVE_UP and waits_since(vm) >= before


async def _claim_ahead(rt: Runtime, contract_id: int, before: datetime, soon: datetime) -> list[Vm]:
    """Lease the VMs that are not due and have waited since before then, as room is theirs first, or are due soon."""
    claim_ahead = partial(
        contract_queue.claim_ahead, contract_id=contract_id, before=before, soon=soon, now=rt.clock.now()
    )
    return await transact(rt.engine, partial(claim_ahead, lease=_LEASE, token=rt.uuid(), limit=_AT_ONCE))


async def _decide_all(rt: Runtime, contract_id: int, contract: Contract | None, queue: Sequence[Vm]) -> list[Case]:
    async with begin(rt.engine) as conn:
        ids = {vm.submission_id for vm in queue}
        found = await submissions.read(conn, list(ids))
        # VMs on their way to the contract will take its room, and the provider does not show that yet.
        promised = await contract_queue.promised_gpus(conn, contract_id)
        replacing = await contract_queue.count_replacing(conn, ids)
    policies = {id_: Policy.model_validate(one.policy) for id_, one in found.items()}
    by_ref = {vm.ref: vm for vm in queue}
    turns = share_out(
        [_in_queue(vm, policies[vm.submission_id]) for vm in queue],
        contract,
        promised=promised,
        replacing=replacing,
        can_reassign=rt.client.can_reassign,
        now=rt.clock.now(),
    )
    return [Case(by_ref[turn.queued.ref], policies[turn.queued.ref[0]], turn.decision, turn.room) for turn in turns]


def _in_queue(vm: Vm, policy: Policy) -> InQueue:
    retrying = Retrying(state=vm.state, attempts=vm.contract_attempts, since=waits_since(vm), active_at=vm.active_at)
    return InQueue(ref=vm.ref, vm=retrying, gpu_model=vm.gpu_model, gpu_count=vm.gpu_count, retry=policy.retry)


async def _release(conn: AsyncConnection, which: Sequence[Vm]) -> None:
    """Give back VMs that were leased although they were not due."""
    locked = await vms.lock(conn, [vm.ref for vm in which]) if which else {}
    ours = [locked[vm.ref] for vm in which if locked[vm.ref].lease_token == vm.lease_token]
    await vms.save(conn, [replace(vm, lease_token=None, lease_until=None) for vm in ours])


async def _reassign(rt: Runtime, case: Case, at_once: asyncio.Semaphore) -> None:
    async with at_once:
        if (
            case.vm.lease_until is None
            or rt.clock.now() + timedelta(seconds=rt.settings.call_timeout) < case.vm.lease_until
        ):
            await _call_reassign(rt, case)
        # Else others may have it by now: its lease runs out, and it is claimed again.


async def _call_reassign(rt: Runtime, case: Case) -> None:
    vm = case.vm
    provider_id, contract_id = vm.provider_id, vm.contract_id
    assert provider_id is not None  # noqa: S101  what is retrying was bound
    assert contract_id is not None  # noqa: S101  and asked for a contract
    call = call_about(rt, vm, Operation.ASSIGN, attempt=vm.contract_attempts + 1)

    async def start(conn: AsyncConnection) -> bool:
        if not await acquire(rt, conn, Operation.ASSIGN, 1):
            await defer(rt, conn, [vm], by=rt.retry.after(3, rt.jitter()))
            return False
        await calls.begin(conn, [call])
        return True

    if await transact(rt.engine, start):
        result = await make_call(rt, call, lambda: rt.client.reassign_contract(provider_id, contract_id))
        await transact(rt.engine, lambda conn: _complete_reassign(rt, conn, case, result))


async def _complete_reassign(rt: Runtime, conn: AsyncConnection, case: Case, result: CallResult[None]) -> None:
    await record_results(rt, conn, [result])
    vm = await _still_leased(conn, case.vm)
    if vm is None:
        return
    # Only a refresh tells whether it worked, whatever the answer was.
    outcome = "sent" if result.error is None else "refused"
    reason = str(result.error) if result.error else "asked the provider to move it to the contract"
    tried = replace(later(rt, vm, case.policy), next_refresh_at=rt.clock.now(), refresh_attempts=0)
    await save(rt, conn, [tried], [note(rt, tried, case, outcome, reason)])


async def _wait_or_give_up(rt: Runtime, conn: AsyncConnection, cases: Sequence[Case]) -> None:
    if not cases:
        return
    locked = await vms.lock(conn, [case.vm.ref for case in cases])
    changed, notes = [], []
    for case in cases:
        vm = locked[case.vm.ref]
        if vm.lease_token != case.vm.lease_token or vm.ended_at is not None:
            continue
        waits = case.decision.step is Step.WAIT
        after = later(rt, vm, case.policy, counted=False) if waits else given_up(vm, case, rt.clock.now())
        changed.append(after)
        notes.append(note(rt, after, case, "waiting" if waits else "given_up", case.decision.reason))
        if not waits:
            await submissions.add_reason(
                conn, vm.submission_id, f"off contract {vm.contract_id}: {case.decision.reason}"
            )
    await save(rt, conn, changed, notes)


async def _still_leased(conn: AsyncConnection, leased: Vm) -> Vm | None:
    vm = (await vms.lock(conn, [leased.ref]))[leased.ref]
    return vm if vm.lease_token == leased.lease_token and vm.ended_at is None else None

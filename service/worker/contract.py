"""Handles VMs that should be on a contract and are not, by the policy of their submission.

A replacement is created first, and the old VM is deleted only when the new one is on the contract. So a contract that filled
up meanwhile, or a flavor out of stock, costs an attempt, not a running VM.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.backoff import Backoff
from service.core.contract import Assignment, Decision, Retrying, Room, Shortfall, Step, decide, room_for
from service.core.evidence import with_readiness
from service.core.lifecycle import ENDED, Operation, VmState
from service.core.observation import Contract
from service.core.submission import Policy
from service.core.vm import AssignmentStep, Vm, request_deletion
from service.errors import Refused
from service.operations import replacement
from service.operations.provider_calls import CallResult, acquire, call_about, call_provider, make_call, record_results
from service.runtime.runtime import Runtime
from service.runtime.slots import CALLS_IN_CONTRACT_SLOT, Claimed
from service.runtime.tasks import gather_all
from service.storage import assignments, calls, submissions, vms
from service.storage.engine import begin, transact

_AT_ONCE = 500
_LEASE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class _Case:
    """A VM that is not on its contract, its policy, and what was decided."""

    vm: Vm
    policy: Policy
    decision: Decision
    room: Room


async def run_once(rt: Runtime) -> int:
    """Handle due VMs, as many contracts as there are slots, and wait for the answers. Returns how many."""
    claimed = await claim(rt, _AT_ONCE)
    return await claimed.make_calls()


async def claim(rt: Runtime, free: int) -> Claimed:
    """Lease due VMs. Returns work for at most `free` contracts; VMs of other contracts are released again."""
    token = rt.uuid()
    claimed = await transact(
        rt.engine,
        lambda conn: vms.claim_contracts(conn, now=rt.clock.now(), lease=_LEASE, token=token, limit=_AT_ONCE),
    )
    under_way = [vm for vm in claimed if vm.replaced_by is not None]
    by_contract: dict[int | None, list[Vm]] = defaultdict(list)
    for vm in claimed:
        if vm.replaced_by is None:
            by_contract[vm.contract_id].append(vm)
    groups = list(by_contract.values())
    if under_way:
        await transact(rt.engine, lambda conn: _follow_up(rt, conn, under_way))
    if surplus := [vm for group in groups[free:] for vm in group]:
        await transact(rt.engine, lambda conn: _defer(rt, conn, surplus, by=timedelta()))
    return Claimed(len(claimed) - len(surplus), [partial(_decide_and_act, rt, group) for group in groups[:free]])


async def _decide_and_act(rt: Runtime, claimed: Sequence[Vm]) -> None:
    """Read the contract that all of `claimed` should be on, decide for each VM, and act."""
    contract_id = claimed[0].contract_id
    rooms = await _read_contract(rt, contract_id) if contract_id is not None else {}
    async with begin(rt.engine) as conn:
        found = await submissions.read(conn, [vm.submission_id for vm in claimed])
        # VMs on their way to a contract will take its room, and the provider does not show that yet.
        under_way = await vms.count_wanting(conn, rooms)
    policies = {id_: Policy.model_validate(one.policy) for id_, one in found.items()}
    cases = _decide_all(rt, claimed, rooms, policies, under_way)
    by_step = {step: [case for case in cases if case.decision.step is step] for step in Step}
    rest = [*by_step[Step.WAIT], *by_step[Step.GIVE_UP]]
    await transact(rt.engine, lambda conn: _wait_or_give_up(rt, conn, rest))
    unread = [vm for vm in claimed if vm.contract_id not in rooms]
    await transact(rt.engine, lambda conn: _defer(rt, conn, unread, by=rt.retry.after(3, rt.jitter())))
    for submission_id in sorted({case.vm.submission_id for case in by_step[Step.REPLACE]}):
        of_it = [case for case in by_step[Step.REPLACE] if case.vm.submission_id == submission_id]
        await transact(rt.engine, partial(_replace, rt, cases=of_it))
    at_once = asyncio.Semaphore(CALLS_IN_CONTRACT_SLOT)
    await gather_all(_reassign(rt, case, at_once) for case in by_step[Step.REASSIGN])


async def _read_contract(rt: Runtime, contract_id: int) -> dict[int, Contract | None]:
    """A contract by its id, None if the provider does not know it; empty if it could not be read."""
    result = await call_provider(rt, "read contract", "read contract", partial(rt.client.contract, contract_id))
    if result is not None and result.error is None:
        return {contract_id: result.value}
    if result is not None and isinstance(result.error, Refused) and result.error.reason == "not_found":
        return {contract_id: None}
    return {}


def _decide_all(
    rt: Runtime,
    claimed: Sequence[Vm],
    contracts: Mapping[int, Contract | None],
    policies: Mapping[UUID, Policy],
    under_way: Mapping[int, int],
) -> list[_Case]:
    """Decide for one VM after another; each takes its share of the room that the contract has left."""
    now, cases = rt.clock.now(), list[_Case]()
    taken: dict[tuple[int | None, str | None], int] = {}
    for vm in claimed:
        if vm.contract_id is None or vm.contract_id not in contracts:
            continue
        room = room_for(contracts[vm.contract_id], gpu_model=vm.gpu_model, gpu_count=vm.gpu_count, now=now)
        key = (vm.contract_id, vm.gpu_model)
        if (
            room.vms is not None
            and room.shortfall is None
            and room.vms <= taken.get(key, under_way.get(vm.contract_id, 0))
        ):
            room = Room(0, Shortfall.INSUFFICIENT)
        policy = policies[vm.submission_id]
        decision = decide(_retrying(vm), room, policy.retry, can_reassign=rt.client.can_reassign, now=now)
        if decision.step in {Step.REASSIGN, Step.REPLACE}:
            taken[key] = taken.get(key, under_way.get(vm.contract_id, 0)) + 1
        cases.append(_Case(vm, policy, decision, room))
    return cases


def _retrying(vm: Vm) -> Retrying:
    return Retrying(
        state=vm.state,
        attempts=vm.contract_attempts,
        since=vm.on_demand_since or vm.created_at,
        active_at=vm.active_at,
    )


async def _reassign(rt: Runtime, case: _Case, at_once: asyncio.Semaphore) -> None:
    async with at_once:
        if (
            case.vm.lease_until is None
            or rt.clock.now() + timedelta(seconds=rt.settings.call_timeout) < case.vm.lease_until
        ):
            await _call_reassign(rt, case)
        # Otherwise its lease expires, and it is claimed again.


async def _call_reassign(rt: Runtime, case: _Case) -> None:
    vm = case.vm
    provider_id, contract_id = vm.provider_id, vm.contract_id
    assert provider_id is not None  # noqa: S101  what is retrying was bound
    assert contract_id is not None  # noqa: S101  and asked for a contract
    call = call_about(rt, vm, Operation.ASSIGN, attempt=vm.contract_attempts + 1)

    async def start(conn: AsyncConnection) -> bool:
        if not await acquire(rt, conn, Operation.ASSIGN, 1):
            await _defer(rt, conn, [vm], by=rt.retry.after(3, rt.jitter()))
            return False
        await calls.begin(conn, [call])
        return True

    if await transact(rt.engine, start):
        result = await make_call(rt, call, lambda: rt.client.reassign_contract(provider_id, contract_id))
        await transact(rt.engine, lambda conn: _complete_reassign(rt, conn, case, result))


async def _complete_reassign(rt: Runtime, conn: AsyncConnection, case: _Case, result: CallResult[None]) -> None:
    await record_results(rt, conn, [result])
    vm = await _still_leased(conn, case.vm)
    if vm is None:
        return
    # Only a refresh shows whether it worked.
    outcome = "sent" if result.error is None else "refused"
    reason = str(result.error) if result.error else "asked the provider to move it to the contract"
    tried = replace(_later(rt, vm, case.policy), next_refresh_at=rt.clock.now(), refresh_attempts=0)
    await _save(rt, conn, [tried], [_note(rt, tried, case, outcome, reason)])


async def _replace(rt: Runtime, conn: AsyncConnection, *, cases: Sequence[_Case]) -> None:
    """Create the replacements of VMs of one submission; the old ones stay until the new ones are on the contract."""
    now = rt.clock.now()
    locked = await vms.lock(conn, [case.vm.ref for case in cases])
    live = [case for case in cases if locked[case.vm.ref].lease_token == case.vm.lease_token]
    if not live:
        return
    replacements = await replacement.add_replacements(rt, conn, [locked[case.vm.ref] for case in live], member=False)
    changed, notes = [], []
    for case, new in zip(live, replacements, strict=True):
        follow = now + timedelta(seconds=case.policy.retry.first_wait_seconds)
        old = replace(
            locked[case.vm.ref],
            replaced_by=new.vm_no,
            contract_attempts=case.vm.contract_attempts + 1,
            contract_due_at=follow,
            lease_token=None,
            lease_until=None,
        )
        changed.append(old)
        notes.append(_note(rt, old, case, "sent", f"requested VM {new.vm_no} on the contract in its place"))
    await _save(rt, conn, changed, notes)


async def _follow_up(rt: Runtime, conn: AsyncConnection, olds: Sequence[Vm]) -> None:
    """Follow up on replacements: one becomes a member once it is on the contract, or is deleted if it cannot be."""
    if not olds:
        return
    policies = {
        id_: Policy.model_validate(one.policy)
        for id_, one in (await submissions.read(conn, [vm.submission_id for vm in olds])).items()
    }
    refs = [(vm.submission_id, vm.replaced_by) for vm in olds if vm.replaced_by is not None]
    locked = await vms.lock(conn, [*(vm.ref for vm in olds), *refs])
    for leased, ref in zip(olds, refs, strict=True):
        old, new = locked[leased.ref], locked[ref]
        if old.lease_token == leased.lease_token:
            await _save(rt, conn, _succession(rt, old, new, policies[old.submission_id]), [])


def _succession(rt: Runtime, old: Vm, new: Vm, policy: Policy) -> list[Vm]:
    now = rt.clock.now()
    free = replace(old, lease_token=None, lease_until=None)
    if new.assignment is Assignment.ASSIGNED and new.state not in ENDED and new.state is not VmState.ERROR:
        retired = request_deletion(free, f"replaced by VM {new.vm_no}, which is on the contract", now)
        return [replace(retired, member=False), replace(new, member=True)]
    hopeless = new.state in ENDED or new.state is VmState.ERROR or new.assignment is Assignment.ON_DEMAND
    if hopeless:
        dropped = request_deletion(new, f"not on the contract either; VM {old.vm_no} stays", now)
        again = replace(_later(rt, free, policy, counted=False), replaced_by=None)
        return [again] if dropped == new else [again, dropped]
    return [replace(free, contract_due_at=now + timedelta(seconds=min(5.0, policy.retry.first_wait_seconds)))]


async def _wait_or_give_up(rt: Runtime, conn: AsyncConnection, cases: Sequence[_Case]) -> None:
    if not cases:
        return
    locked = await vms.lock(conn, [case.vm.ref for case in cases])
    changed, notes = [], []
    for case in cases:
        vm = locked[case.vm.ref]
        if vm.lease_token != case.vm.lease_token or vm.ended_at is not None:
            continue
        waits = case.decision.step is Step.WAIT
        after = _later(rt, vm, case.policy) if waits else _given_up(vm, case, rt.clock.now())
        changed.append(after)
        notes.append(_note(rt, after, case, "waiting" if waits else "given_up", case.decision.reason))
        if not waits:
            await submissions.add_reason(
                conn, vm.submission_id, f"off contract {vm.contract_id}: {case.decision.reason}"
            )
    await _save(rt, conn, changed, notes)


def _given_up(vm: Vm, case: _Case, now: datetime) -> Vm:
    over = replace(
        vm,
        assignment=Assignment.GIVEN_UP,
        contract_due_at=None,
        lease_token=None,
        lease_until=None,
        reason=f"not on its contract: {case.decision.reason}",
    )
    return (
        request_deletion(over, "not on its contract", now)
        if case.policy.retry.then == "delete"
        else with_readiness(over, now)
    )


def _later(rt: Runtime, vm: Vm, policy: Policy, *, counted: bool = True) -> Vm:
    retry, attempt = policy.retry, vm.contract_attempts + (1 if counted else 0)
    backoff = Backoff(
        first=retry.first_wait_seconds, cap=retry.max_wait_seconds, floor=min(1.0, retry.first_wait_seconds)
    )
    due = rt.clock.now() + backoff.after(attempt, rt.jitter())
    return replace(vm, contract_attempts=attempt, contract_due_at=due, lease_token=None, lease_until=None)


async def _defer(rt: Runtime, conn: AsyncConnection, which: Sequence[Vm], *, by: timedelta) -> None:
    """Release VMs that could not be handled, as the contract was not read or the rate limit was reached."""
    locked = await vms.lock(conn, [vm.ref for vm in which]) if which else {}
    due = rt.clock.now() + by
    ours = [locked[vm.ref] for vm in which if locked[vm.ref].lease_token == vm.lease_token and vm.ended_at is None]
    await vms.save(conn, [replace(vm, contract_due_at=due, lease_token=None, lease_until=None) for vm in ours])


async def _still_leased(conn: AsyncConnection, leased: Vm) -> Vm | None:
    vm = (await vms.lock(conn, [leased.ref]))[leased.ref]
    return vm if vm.lease_token == leased.lease_token and vm.ended_at is None else None


async def _save(rt: Runtime, conn: AsyncConnection, changed: Sequence[Vm], notes: Sequence[AssignmentStep]) -> None:
    await vms.save(conn, changed)
    await assignments.insert(conn, notes)
    for note in notes:
        rt.metrics.assignments.labels(note.outcome).inc()


def _note(rt: Runtime, vm: Vm, case: _Case, outcome: str, reason: str) -> AssignmentStep:
    return AssignmentStep(
        submission_id=vm.submission_id,
        vm_no=vm.vm_no,
        attempt=vm.contract_attempts,
        at=rt.clock.now(),
        step=case.decision.step,
        outcome=outcome,
        contract_id=vm.contract_id,
        shortfall=case.room.shortfall,
        reason=reason[:500],
        next_at=vm.contract_due_at,
    )

"""Finds what got stuck, and concludes what is done: expired leases, stuck VMs, submissions at their end, old slots."""

from datetime import timedelta

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.lifecycle import VmState
from service.core.refresh import learned_overdue
from service.core.submission import Policy
from service.core.vm import Vm, request_deletion
from service.operations import refusal, replacement
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.storage import creations, partitions, rate_limit, scheduled_jobs, submissions, vms
from service.storage.engine import begin, transact

_UPKEEP = "upkeep"
_HOUR = timedelta(hours=1)
_MOST_REPLACEMENTS = 3
_LEARN_EVERY = timedelta(minutes=5)
_LEARN_FROM = timedelta(days=14)
_LEARN_AT_LEAST = 10


async def run_once(rt: Runtime) -> int:
    """One round; how many rows were moved on."""
    quiet = timedelta(seconds=rt.settings.lookup_window_seconds)
    rescued = await transact(rt.engine, lambda conn: creations.rescue_expired(conn, now=rt.clock.now(), quiet=quiet))
    stuck = await transact(rt.engine, lambda conn: _name_stuck(rt, conn))
    late = await transact(rt.engine, lambda conn: _refuse_late(rt, conn))
    ended = await transact(rt.engine, lambda conn: _conclude(rt, conn))
    await _learn(rt)
    if rescued:
        logger().warning("creations rescued", action="rescue", creations=len(rescued))
    # Last, since a table that is too busy for it ends the pass; and once, since to wait again at once helps nobody.
    upkept = await transact(rt.engine, lambda conn: _upkeep(rt, conn), tries=1)
    return len(rescued) + stuck + late + ended + upkept


async def _name_stuck(rt: Runtime, conn: AsyncConnection) -> int:
    refs = await vms.flag_stuck(conn, now=rt.clock.now())
    locked = await vms.lock(conn, refs) if refs else {}
    found = await submissions.read(conn, [vm.submission_id for vm in locked.values()])
    for submission_id, submission in found.items():
        mine = [vm for vm in locked.values() if vm.submission_id == submission_id]
        await _by_policy(rt, conn, mine, Policy.model_validate(submission.policy))
    return len(refs)


async def _by_policy(rt: Runtime, conn: AsyncConnection, stuck: list[Vm], policy: Policy) -> None:
    failed = [vm for vm in stuck if vm.state is VmState.ERROR]
    for count, text in ((len(failed), "in ERROR"), (len(stuck) - len(failed), "not ready in time")):
        if count:
            await submissions.add_reason(conn, stuck[0].submission_id, f"{count} VM(s) {text}")
    if policy.on_stuck == "replace" and stuck:
        await _replace(rt, conn, stuck)


async def _replace(rt: Runtime, conn: AsyncConnection, stuck: list[Vm]) -> None:
    """Give up stuck VMs and ask for others in their places. A place is refilled at most three times."""
    now = rt.clock.now()
    worth_it = [vm for vm in stuck if await vms.times_replaced(conn, vm) < _MOST_REPLACEMENTS]
    if not worth_it:
        return
    replacements = await replacement.add_replacements(rt, conn, worth_it, member=True)
    for vm, new in zip(worth_it, replacements, strict=True):
        gone = request_deletion(vm, f"stuck in {vm.state.value}; replaced by VM {new.vm_no}", now)
        await vms.save(conn, [replace(gone, replaced_by=new.vm_no, member=False)])


async def _refuse_late(rt: Runtime, conn: AsyncConnection) -> int:
    """End what was not made before its submission's deadline, and certainly will not be."""
    now = rt.clock.now()
    late = await creations.too_late(conn, now=now, limit=100)
    for creation in late:
        reason = f"not made before the deadline; at last: {creation.reason or 'not sent yet'}"
        await creations.set_values(conn, creation.ref, only_in="due", **creations.refused(now, reason))
        await refusal.refuse_vms(rt, conn, creation, reason, evidence_id=None)
    return len(late)


async def _conclude(rt: Runtime, conn: AsyncConnection) -> int:
    ended = await submissions.conclude(conn, now=rt.clock.now())
    for submission_id, state in ended:
        logger().info("submission ended", action="conclude", submission_id=str(submission_id), state=state)
    return len(ended)


async def _learn(rt: Runtime) -> None:
    """Measure now and then how long VMs take to become ACTIVE, and be as patient as that with the next ones."""
    now = rt.clock.now()
    if rt.learned_at is not None and now < rt.learned_at + _LEARN_EVERY:
        return
    rt.learned_at = now
    async with begin(rt.engine) as conn:
        took = await vms.boot_times(conn, since=now - _LEARN_FROM, at_least=_LEARN_AT_LEAST)
    rt.learned_overdue = {kind: learned_overdue(p95, rt.refresh_policy) for kind, p95 in took.items()}


async def _upkeep(rt: Runtime, conn: AsyncConnection) -> int:
    """What is due for the whole fleet once an hour: partitions ahead of time, the ledger's old slots."""
    now, token = rt.clock.now(), rt.uuid()
    if not await scheduled_jobs.claim(conn, _UPKEEP, now=now, lease=_HOUR, token=token):
        return 0
    await partitions.make_partitions(conn, now=now)
    await rate_limit.forget_old(conn, now)
    await scheduled_jobs.complete_if_leased(conn, _UPKEEP, token, now=now, due_at=now + _HOUR)
    return 1

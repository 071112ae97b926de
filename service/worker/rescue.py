"""Handles expired leases, stuck VMs, creations past their deadline, submissions that have ended, and upkeep."""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from uuid import UUID

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.lifecycle import VmState
from service.core.refresh import learned_overdue
from service.core.submission import Policy
from service.core.vm import Vm, request_deletion
from service.errors import ServiceError
from service.operations import contract_replacing, deletion, lifetime, refusal, repair, replacement, spending
from service.operations.parts import in_parts
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.storage import creations, partitions, rate_limit, scheduled_jobs, stuck, submissions, vms
from service.storage.creations import Creation
from service.storage.engine import begin, transact
from service.storage.submissions import Submission

_UPKEEP = "upkeep"
_HOUR = timedelta(hours=1)
#: Sets of a cancelled submission's VMs that one run withdraws, and how long that may take.
_SETS = 20
_WITHDRAWAL = timedelta(minutes=5)
_LEARN_EVERY = timedelta(minutes=5)
_LEARN_FROM = timedelta(days=14)
_LEARN_AT_LEAST = 10


async def run_once(rt: Runtime) -> int:
    """One round. Returns how many rows were changed.

    If a step fails, the others run all the same; its error is raised at the end.
    """
    done, errors = 0, list[ServiceError]()
    # Upkeep is last, since it may wait for a busy table.
    for step in (
        _rescue,
        lifetime.announce,
        lifetime.expire,
        spending.check,
        _withdraw,
        _refuse_late,
        _flag_stuck,
        repair.repair,
        contract_replacing.refill,
        _conclude,
        _learn,
        _upkeep,
    ):
        try:
            done += await step(rt)
        except ServiceError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return done


async def _rescue(rt: Runtime) -> int:
    window = timedelta(seconds=rt.settings.lookup_window_seconds)
    rescued = await transact(rt.engine, lambda conn: creations.rescue_expired(conn, now=rt.clock.now(), window=window))
    if rescued:
        logger().warning("creations rescued", action="rescue", creations=len(rescued))
    return len(rescued)


async def _withdraw(rt: Runtime) -> int:
    """Withdraw VMs of cancelled submissions, a few sets of each submission in a run."""
    claim = partial(submissions.claim_withdrawals, now=rt.clock.now(), lease=_WITHDRAWAL, limit=10)
    for submission_id in (claimed := await transact(rt.engine, claim)):
        done = False
        for _ in range(_SETS):
            done = done or await deletion.withdraw_set(rt, submission_id)
        if not done:
            await transact(
                rt.engine, partial(submissions.resume_withdrawal, submission_id=submission_id, now=rt.clock.now())
            )
    return len(claimed)


async def _flag_stuck(rt: Runtime) -> int:
    """Flag stuck VMs, submission by submission. If applying the policy fails, they are flagged all the same."""
    async with begin(rt.engine) as conn:
        ids = await stuck.submissions_with_stuck(conn, now=rt.clock.now())
    flagged = 0

    async def flag(some: Sequence[UUID]) -> None:
        nonlocal flagged
        flagged += await transact(rt.engine, partial(_flag, rt, ids=some))

    for submission_id, error in await in_parts(ids, flag):
        logger().error(
            "policy for stuck VMs failed", action="rescue", submission_id=str(submission_id), error=str(error)
        )
        await transact(rt.engine, partial(stuck.flag_stuck, submission_ids=[submission_id], now=rt.clock.now()))
    return flagged


async def _flag(rt: Runtime, conn: AsyncConnection, *, ids: Sequence[UUID]) -> int:
    refs = await stuck.flag_stuck(conn, ids, now=rt.clock.now())
    locked = await vms.lock(conn, refs)
    found = await submissions.read(conn, [vm.submission_id for vm in locked.values()])
    for submission_id, submission in found.items():
        mine = [vm for vm in locked.values() if vm.submission_id == submission_id]
        await _by_policy(rt, conn, mine, submission)
    return len(refs)


async def _by_policy(rt: Runtime, conn: AsyncConnection, found: list[Vm], submission: Submission) -> None:
    failed = [vm for vm in found if vm.state is VmState.ERROR]
    for count, text in ((len(failed), "in ERROR"), (len(found) - len(failed), "not ready in time")):
        if count:
            await submissions.add_reason(conn, found[0].submission_id, f"{count} VM(s) {text}")
    policy = Policy.model_validate(submission.policy)
    in_time = rt.clock.now() < submission.deadline_at  # what is made now could not be sent after it
    if policy.on_stuck == "replace" and found and in_time and not submission.replaces_no_vms:
        await _replace(rt, conn, found)


async def _replace(rt: Runtime, conn: AsyncConnection, found: list[Vm]) -> None:
    """Replace stuck VMs, each at most three times in a row."""
    now = rt.clock.now()
    worth_it = [vm for vm in found if await vms.times_replaced(conn, vm) < repair.MOST_REPLACEMENTS]
    if not worth_it:
        return
    replacements = await replacement.add_replacements(rt, conn, worth_it, member=True)
    for vm, new in zip(worth_it, replacements, strict=True):
        gone = request_deletion(vm, f"stuck in {vm.state.value}; replaced by VM {new.vm_no}", now)
        await vms.save(conn, [replace(gone, replaced_by=new.vm_no, member=False)])


async def _refuse_late(rt: Runtime) -> int:
    """Refuse creations that were certainly not made before their submission's deadline."""
    async with begin(rt.engine) as conn:
        late = await creations.too_late(conn, now=rt.clock.now(), limit=100)

    async def refuse(some: Sequence[Creation]) -> None:
        await transact(rt.engine, partial(_refuse, rt, late=some))

    for creation, error in await in_parts(late, refuse):
        logger().error("late creation not refused", action="rescue", creation=str(creation.ref), error=str(error))
    return len(late)


async def _refuse(rt: Runtime, conn: AsyncConnection, *, late: Sequence[Creation]) -> None:
    for creation in late:
        reason = f"not made before the deadline; last reason: {creation.reason or 'not sent yet'}"
        values = creations.refused(rt.clock.now(), reason)
        if await creations.set_values(conn, creation.ref, only_in="due", **values):
            await refusal.refuse_vms(rt, conn, creation, reason, evidence_id=None)


async def _conclude(rt: Runtime) -> int:
    ended = await transact(rt.engine, lambda conn: submissions.conclude(conn, now=rt.clock.now()))
    for submission_id, state in ended:
        logger().info("submission ended", action="conclude", submission_id=str(submission_id), state=state)
    return len(ended)


async def _learn(rt: Runtime) -> int:
    """Measure from time to time how long VMs take to become ACTIVE, to know when one is overdue."""
    now = rt.clock.now()
    if rt.learned_at is not None and abs(now - rt.learned_at) < _LEARN_EVERY:
        return 0
    rt.learned_at = now
    async with begin(rt.engine) as conn:
        took = await vms.boot_times(conn, since=now - _LEARN_FROM, at_least=_LEARN_AT_LEAST)
    rt.learned_overdue = {kind: learned_overdue(p95, rt.refresh_policy) for kind, p95 in took.items()}
    return 0


async def _upkeep(rt: Runtime) -> int:
    # One try: waiting for a busy table again at once does not help.
    return await transact(rt.engine, partial(_hourly, rt), tries=1)


async def _hourly(rt: Runtime, conn: AsyncConnection) -> int:
    """Hourly work for the whole fleet: partitions ahead of time, old slots of the rate limit."""
    now, token = rt.clock.now(), rt.uuid()
    if not await scheduled_jobs.claim(conn, _UPKEEP, now=now, lease=_HOUR, token=token):
        return 0
    await partitions.make_partitions(conn, now=now)
    await rate_limit.forget_old(conn, now)
    await scheduled_jobs.complete_if_leased(conn, _UPKEEP, token, now=now, due_at=now + _HOUR)
    return 1

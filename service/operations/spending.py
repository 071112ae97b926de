"""Compares what submissions cost with their limits of money, and acts by policy when one is passed."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.limits import Limits, Usage, limits_of, nearly_spent, passed, unchecked
from service.core.submission import Policy, SubmissionState
from service.errors import FieldError
from service.operations import deletion
from service.operations.parts import in_parts
from service.queries import cost
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.storage import actions, expiry, limited, submissions
from service.storage.actions import Action
from service.storage.engine import begin, transact
from service.storage.submissions import Submission

_EVERY: Final = timedelta(minutes=1)
#: The longest wait while a cost is far below its limit.
_LONGEST: Final = timedelta(minutes=10)
_AT_ONCE: Final = 20
#: Who acts, in the record, when a limit is passed.
_CALLER: Final = "rollcall"


async def check(rt: Runtime) -> int:
    """Compare the limits that are due. Returns how many submissions had any."""
    now = rt.clock.now()
    due = await transact(rt.engine, partial(limited.take_due, now=now, again_at=now + _EVERY, limit=_AT_ONCE))

    async def compare(some: Sequence[Submission]) -> None:
        for one in some:
            await _check(rt, one)

    for one, error in await in_parts(due, compare, size=1):
        logger().error("limits not checked", action="limit", submission_id=str(one.submission_id), error=str(error))
    return len(due)


async def _check(rt: Runtime, found: Submission) -> None:
    now, limits = rt.clock.now(), limits_of(Policy.model_validate(found.policy))
    async with begin(rt.engine) as conn:
        alive = (await submissions.tallies(conn, [found.submission_id]))[found.submission_id].alive
        per_hour = await cost.per_hour(conn, now=now, submission_id=found.submission_id)
        period = cost.Period(
            since=found.created_at, until=now, submission_id=found.submission_id, currency=per_hour.currency
        )
        total = None if limits.cost is None else await cost.total(conn, period)
    usage = Usage(
        vms=alive,
        price_per_hour=per_hour.on_contract + per_hour.on_demand,
        cost=total.estimate if total else Decimal(0),
        unpriced_vms=per_hour.unknown_vms,
        unpriced_seconds=total.unknown_seconds if total else Decimal(0),
    )
    await transact(
        rt.engine, partial(_apply, rt, submission_id=found.submission_id, usage=usage, unit=per_hour.currency)
    )


async def _apply(rt: Runtime, conn: AsyncConnection, *, submission_id: UUID, usage: Usage, unit: str) -> None:
    found = await expiry.lock(conn, submission_id)
    if found is None:
        return
    if _over(found, usage):
        await submissions.set_values(conn, submission_id, limit_due_at=None, limit_issue=None)
        return
    policy = Policy.model_validate(found.policy)
    limits, now = limits_of(policy), rt.clock.now()
    above, unread = passed(limits, usage, unit), unchecked(limits, usage)
    values = dict[str, Any](limit_issue=_text([*above, *unread]), limit_due_at=now + _wait(limits, usage))
    if not nearly_spent(limits, usage):
        values["limit_near_at"] = None  # the limit was raised
    elif not above:
        values["limit_near_at"] = found.limit_near_at or now
    if not above:
        values |= _below_again(found, policy, now)
    elif found.limit_reached_at is None:
        values["limit_reached_at"] = now
        await _act(rt, conn, found, policy, _text(above) or "")
        if policy.on_limit == "delete":
            values |= {"limit_issue": None, "limit_due_at": None}  # the reason of the cancellation says it
    await submissions.set_values(conn, submission_id, **values)


def _below_again(found: Submission, policy: Policy, now: datetime) -> dict[str, Any]:
    """What changes below the limits. What failed while one was passed is to be replaced, if that is the policy."""
    repairs = found.limit_reached_at is not None and policy.repairs and found.maintain_stopped_at is None
    return {"limit_reached_at": None} | ({"repair_due_at": now} if repairs else {})


def _wait(limits: Limits, usage: Usage) -> timedelta:
    """When to compare again: a cost far below its limit is added up less often."""
    if limits.cost is None or limits.price_per_hour is not None or not usage.price_per_hour:
        return _EVERY
    hours = float((limits.cost - usage.cost) / usage.price_per_hour)
    return _LONGEST if hours < 0 else min(max(timedelta(hours=hours) / 2, _EVERY), _LONGEST)


def _over(found: Submission, usage: Usage) -> bool:
    """Whether nothing can cost anything any more: its VMs are deleted, or all have ended and nobody replaces them."""
    return found.cancelled_at is not None or (
        found.state is not SubmissionState.OPEN and not usage.vms and found.repair_due_at is None
    )


async def _act(rt: Runtime, conn: AsyncConnection, found: Submission, policy: Policy, text: str) -> None:
    """Record that a limit is passed, once for each time, and delete the VMs if that is the policy."""
    now, submission_id = rt.clock.now(), found.submission_id
    detail = f"{text}; {policy.on_limit.replace('_', ' ')}"
    action = Action(submission_id, rt.uuid(), "limit", _CALLER, now, detail=detail)
    await actions.insert(conn, action)
    await submissions.add_reason(conn, submission_id, f"limit passed: {detail}")
    if policy.on_limit == "delete":
        await deletion.end_wanting(conn, submission_id, now=now, reason=f"limit passed: {text}", withdraw_at=now)
    logger().warning("limit passed", action="limit", submission_id=str(submission_id), limit=text, then=policy.on_limit)


def _text(found: Sequence[FieldError]) -> str | None:
    return "; ".join(f"{one.field} {one.message}" for one in found) or None

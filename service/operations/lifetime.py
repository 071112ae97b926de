"""Submissions that end by themselves: announced, then withdrawn as if cancelled; and the extension of their lifetime."""

from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core import lifetime
from service.core.lifetime import SubmissionChange
from service.core.submission import Policy
from service.errors import FieldError, Invalid, NotAllowed, NotFound
from service.operations import deletion
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.storage import actions, expiry, submissions
from service.storage.actions import Action
from service.storage.engine import transact
from service.storage.submissions import Submission

_AT_ONCE = 20


async def change(rt: Runtime, submission_id: UUID, wanted: SubmissionChange, *, caller: str) -> None:
    """Change a submission: its end, or whether its count is kept. Doing so twice is as doing it once.

    Raises `NotFound`, `NotAllowed` if it is cancelled, has expired or was imported, `Invalid` if the end would have passed.
    """
    await transact(rt.engine, partial(_change, rt, submission_id, wanted, caller))


async def _change(
    rt: Runtime, submission_id: UUID, wanted: SubmissionChange, caller: str, conn: AsyncConnection
) -> None:
    now, found = rt.clock.now(), await expiry.lock(conn, submission_id)
    if found is None:
        raise NotFound(f"there is no submission {submission_id}")
    if found.origin == "imported":
        raise NotAllowed("its VMs were imported: they are never deleted or replaced by a policy")
    if found.cancelled_at is not None:
        raise NotAllowed(f"the submission's VMs are being deleted: {found.cancel_reason}")
    policy = lifetime.changed_policy(found.policy, wanted)
    values = {**_end(found, wanted, now), **_maintained(policy, wanted, now)}
    await submissions.set_values(conn, submission_id, policy=policy, **values)
    request = Action(submission_id=submission_id, action_id=rt.uuid(), kind="change", caller=caller, at=now)
    await actions.insert(conn, request)


def _end(found: Submission, wanted: SubmissionChange, now: datetime) -> dict[str, datetime | None]:
    if not wanted.moves_the_end:
        return {}
    expires_at = lifetime.expiry(wanted, found.ended_at)
    if expires_at is not None and expires_at <= now:
        field = "lifetime" if wanted.lifetime is not None else "expires_at"
        raise Invalid([FieldError(field, f"would have ended at {expires_at:%Y-%m-%dT%H:%M:%SZ}, which has passed")])
    notice = None if expires_at is None else lifetime.notice_at(expires_at, now)
    return {"expires_at": expires_at, "expiry_notice_at": notice}


def _maintained(policy: dict[str, Any], wanted: SubmissionChange, now: datetime) -> dict[str, datetime | None]:
    """Keep the count from now on, or no more. What crashed before is forgotten."""
    if wanted.maintain is None:
        return {}
    repairs = Policy.model_validate(policy).repairs
    since = now if wanted.maintain.enabled else None
    return {"repair_due_at": now if repairs else None, "maintained_since": since, "maintain_stopped_at": None}


async def announce(rt: Runtime) -> int:
    """Log which submissions will expire soon."""
    due = await transact(rt.engine, partial(expiry.take_notices, now=rt.clock.now(), limit=_AT_ONCE))
    for one in due:
        logger().warning(
            "submission expires soon: its VMs will be deleted",
            action="expire",
            submission_id=str(one.submission_id),
            name=one.name,
            expires_at=one.expires_at.isoformat() if one.expires_at else None,
        )
    return len(due)


async def expire(rt: Runtime) -> int:
    """Cancel the submissions whose lifetime is over. Their VMs are withdrawn as those of any cancelled submission."""
    expired = await transact(rt.engine, partial(_expire, rt))
    for one in expired:
        logger().info(
            "submission expired: its VMs are deleted",
            action="expire",
            submission_id=str(one.submission_id),
            name=one.name,
        )
    return len(expired)


async def _expire(rt: Runtime, conn: AsyncConnection) -> list[Submission]:
    now = rt.clock.now()
    expired = await expiry.lock_expired(conn, now=now, limit=_AT_ONCE)
    for one in expired:
        reason = lifetime.reason_of(one.policy, one.expires_at or now)
        await deletion.end_wanting(conn, one.submission_id, now=now, reason=reason, withdraw_at=now)
    return expired

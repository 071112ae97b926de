"""Submissions that end by themselves: announced, then withdrawn as if cancelled; and the extension of their lifetime."""

from functools import partial
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core import lifetime
from service.core.lifetime import LifetimeChange
from service.core.submission import SubmissionState
from service.errors import FieldError, Invalid, NotAllowed, NotFound
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.storage import actions, expiry, orphans, submissions
from service.storage.actions import Action
from service.storage.engine import transact
from service.storage.submissions import Submission

_AT_ONCE = 20


async def change(rt: Runtime, submission_id: UUID, wanted: LifetimeChange, *, caller: str) -> None:
    """Give a submission another lifetime or time of expiry. Raises `NotFound`, `NotAllowed` if it is cancelled, `Invalid`."""
    await transact(rt.engine, partial(_change, rt, submission_id, wanted, caller))


async def _change(rt: Runtime, submission_id: UUID, wanted: LifetimeChange, caller: str, conn: AsyncConnection) -> None:
    now, found = rt.clock.now(), await expiry.lock(conn, submission_id)
    if found is None:
        raise NotFound(f"there is no submission {submission_id}")
    if found.cancelled_at is not None:
        raise NotAllowed(f"the submission's VMs are being deleted: {found.cancel_reason}")
    expires_at = lifetime.expiry(wanted, found.ended_at)
    if expires_at is not None and expires_at <= now:
        field = "lifetime" if wanted.lifetime is not None else "expires_at"
        raise Invalid([FieldError(field, f"would have ended at {expires_at:%Y-%m-%dT%H:%M:%SZ}, which has passed")])
    notice = None if expires_at is None else lifetime.notice_at(expires_at, now)
    policy = lifetime.changed_policy(found.policy, wanted)
    await expiry.set_expiry(conn, submission_id, policy, expires_at=expires_at, expiry_notice_at=notice)
    request = Action(submission_id=submission_id, action_id=rt.uuid(), kind="extend", caller=caller, at=now)
    await actions.insert(conn, request)


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
        await submissions.cancel(conn, one.submission_id, now=now, reason=reason, withdraw_at=now)
        await orphans.suspect_again(conn, one.submission_id, now=now)
        await submissions.end_if_open(conn, one.submission_id, SubmissionState.CANCELLED, now)
    return expired

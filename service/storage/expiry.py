"""The table `submissions` as far as it ends by itself: lifetimes, and notices of their end."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.rows import from_row, from_rows
from service.storage.submissions import Submission
from service.storage.tables import submissions


async def lock(conn: AsyncConnection, submission_id: UUID) -> Submission | None:
    """Lock a submission for this transaction."""
    rows = await conn.execute(
        select(submissions).where(submissions.c.submission_id == submission_id).with_for_update(key_share=True)
    )
    row = rows.mappings().one_or_none()
    return from_row(Submission, row) if row else None


async def lock_expired(conn: AsyncConnection, *, now: datetime, limit: int) -> list[Submission]:
    """Lock submissions whose lifetime is over and whose VMs nobody withdraws yet."""
    rows = await conn.execute(
        select(submissions)
        .where(submissions.c.expires_at <= now, submissions.c.cancelled_at.is_(None))
        .order_by(submissions.c.expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    )
    return await from_rows(Submission, rows)


async def take_notices(conn: AsyncConnection, *, now: datetime, limit: int) -> list[Submission]:
    """Submissions whose end is to be announced now. Each is returned once for each time of expiry."""
    due = (
        select(submissions.c.submission_id)
        .where(submissions.c.expiry_notice_at <= now)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
        .cte("due")  # not a subquery, which the planner may run more than once
    )
    rows = await conn.execute(
        update(submissions)
        .where(submissions.c.submission_id == due.c.submission_id)
        .values(expiry_notice_at=None)
        .returning(submissions)
    )
    return await from_rows(Submission, rows)

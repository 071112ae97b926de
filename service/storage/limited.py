"""The table `submissions` as far as it has limits of money: when to compare them, and what was found."""

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.rows import from_rows
from service.storage.submissions import Submission
from service.storage.tables import submissions


async def take_due(conn: AsyncConnection, *, now: datetime, again_at: datetime, limit: int) -> list[Submission]:
    """Submissions whose limits are to be compared now. Each is due `again_at` next, whatever becomes of this time."""
    due = (
        select(submissions.c.submission_id)
        .where(submissions.c.limit_due_at <= now)
        .order_by(submissions.c.limit_due_at)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
        .cte("due")  # not a subquery, which the planner may run more than once
    )
    rows = await conn.execute(
        update(submissions)
        .where(submissions.c.submission_id == due.c.submission_id)
        .values(limit_due_at=again_at)
        .returning(submissions)
    )
    return await from_rows(Submission, rows)


async def issues(conn: AsyncConnection, *, limit: int) -> list[str]:
    """What is the matter with the limits of submissions, for people."""
    rows = await conn.execute(
        select(submissions.c.submission_id, submissions.c.limit_issue)
        .where(submissions.c.limit_issue.is_not(None))
        .order_by(submissions.c.submission_id)
        .limit(limit)
    )
    return [f"submission {submission_id}: {issue}" for submission_id, issue in rows]

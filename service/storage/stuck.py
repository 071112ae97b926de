"""The table `vms` as the rescue needs it: VMs that should be ready and are not."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.tables import FAILED, PENDING
from service.storage.vms import Ref

_LATE: Final = "submissions.deadline_at < CAST(:now AS timestamptz)"
#: Of `submissions` and its VMs: those that should be ready by their submission's own patience or by its deadline, and are
#: not flagged yet.
STUCK: Final = f"""
        (SELECT vm_no FROM vms
         WHERE vms.submission_id = submissions.submission_id AND {PENDING} AND NOT stuck
           AND bound_at < CASE WHEN {_LATE} THEN 'infinity' ELSE CAST(:now AS timestamptz)
               - make_interval(secs => CAST(submissions.policy ->> 'stuck_after_seconds' AS float)) END
           AND ready_at IS NULL AND assignment <> 'retrying' AND replaced_by IS NULL
         LIMIT :limit)
        UNION
        (SELECT vm_no FROM vms
         WHERE vms.submission_id = submissions.submission_id AND {PENDING} AND NOT stuck AND bound_at IS NULL AND {_LATE}
           AND replaced_by IS NULL
         LIMIT :limit)
        UNION
        (SELECT vm_no FROM vms
         WHERE vms.submission_id = submissions.submission_id AND {FAILED} AND assignment <> 'retrying' AND replaced_by IS NULL
           AND bound_at IS NOT NULL AND (vms.state = 'ERROR' OR bound_at < CAST(:now AS timestamptz)
               - make_interval(secs => CAST(submissions.policy ->> 'stuck_after_seconds' AS float)))
         LIMIT :limit)
"""  # noqa: S608  constants of ours


async def submissions_with_stuck(conn: AsyncConnection, *, now: datetime, limit: int = 100) -> list[UUID]:
    """Open submissions with VMs that `flag_stuck` would flag."""
    rows = await conn.execute(
        text(f"SELECT submission_id FROM submissions WHERE state = 'open' AND EXISTS ({STUCK}) LIMIT :most"),  # noqa: S608  constants of ours
        {"now": now, "limit": 1, "most": limit},
    )
    return list(rows.scalars())


async def flag_stuck(
    conn: AsyncConnection, submission_ids: Iterable[UUID], *, now: datetime, limit: int = 500
) -> list[Ref]:
    """Flag VMs that should be ready and are not, by their submissions' own patience. Returns the newly flagged ones.

    VMs that another transaction has locked are left for later.
    """
    rows = await conn.execute(
        text(f"""
        WITH due AS (
            SELECT submissions.submission_id, due.vm_no FROM submissions CROSS JOIN LATERAL ({STUCK}) AS due
            WHERE submissions.state = 'open' AND submissions.submission_id = ANY (CAST(:ids AS uuid[])) LIMIT :limit
        ), free AS (
            SELECT vms.submission_id, vms.vm_no FROM vms JOIN due USING (submission_id, vm_no)
            WHERE NOT vms.stuck AND NOT vms.ready AND vms.ended_at IS NULL AND vms.ready_at IS NULL
              AND vms.desired_state = 'present' AND vms.replaced_by IS NULL
            ORDER BY vms.submission_id, vms.vm_no FOR NO KEY UPDATE OF vms SKIP LOCKED
        )
        UPDATE vms SET stuck = true, reason = coalesce(vms.reason, CASE
            WHEN {_LATE} THEN 'not ready before the deadline of its submission'
            ELSE 'not ready after ' || (submissions.policy ->> 'stuck_after_seconds') || ' s' END)
        FROM free JOIN submissions USING (submission_id)
        WHERE vms.submission_id = free.submission_id AND vms.vm_no = free.vm_no
        RETURNING vms.submission_id, vms.vm_no
        """),  # noqa: S608  constants of ours
        {"now": now, "limit": limit, "ids": list(submission_ids)},
    )
    return [(row.submission_id, row.vm_no) for row in rows]

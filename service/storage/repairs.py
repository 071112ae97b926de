"""The table `vms` as keeping the count needs it: VMs that failed after they were ready, and what replaced others."""

from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import case, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.maintain import FAILED, HOUR, LastHour, Repair
from service.storage.arrays import is_any
from service.storage.rows import from_row
from service.storage.submissions import Submission
from service.storage.tables import REPAIRABLE, submissions, vms
from service.storage.vms import Ref

#: Repairs that are looked at: far more than the largest number of crashes in a row.
_LATEST: Final = 2000

_GRACE: Final = "make_interval(secs => CAST(submissions.policy #>> '{maintain,grace_seconds}' AS float))"
#: Of a submission: VMs that are to be replaced by its policy, now or later. A replacement counts also if it failed before
#: it was ready, unless that is for `on_stuck`, which minds it while the submission is open.
_TO_REPAIR: Final = f"""
    SELECT vm_no, state_since + {_GRACE} AS due_at FROM vms
    WHERE vms.submission_id = submissions.submission_id AND {REPAIRABLE}
      AND (ready_at IS NOT NULL OR (repair AND submissions.state <> 'open'))
      AND (submissions.policy #>> '{{maintain,enabled}}' = 'true' OR (state = 'ERROR' AND ready_at IS NOT NULL))
"""  # noqa: S608  constants of ours


async def submissions_to_repair(conn: AsyncConnection, *, now: datetime, limit: int) -> list[UUID]:
    """Submissions with VMs that are to be replaced now."""
    rows = await conn.execute(
        select(submissions.c.submission_id)
        .where(submissions.c.repair_due_at <= now, submissions.c.cancelled_at.is_(None))
        # In order, so that Postgres goes through the index and not the table, for whatever time it has planned.
        .order_by(submissions.c.repair_due_at)
        .limit(limit)
    )
    return list(rows.scalars())


async def to_repair(conn: AsyncConnection, submission_id: UUID, *, now: datetime, limit: int) -> list[Ref]:
    """The VMs of a submission that are to be replaced, those first that failed first."""
    statement = f"""
        SELECT due.vm_no FROM submissions CROSS JOIN LATERAL (
            SELECT * FROM ({_TO_REPAIR}) AS failed WHERE due_at <= :now ORDER BY due_at, vm_no LIMIT :most
        ) AS due
        WHERE submissions.submission_id = :submission_id
    """  # noqa: S608  constants of ours
    rows = await conn.execute(text(statement), {"now": now, "most": limit, "submission_id": submission_id})
    return [(submission_id, vm_no) for vm_no in rows.scalars()]


async def next_due(conn: AsyncConnection, submission_id: UUID) -> datetime | None:
    """When the first VM of a submission is to be replaced; None if none has failed."""
    statement = f"""
        SELECT (SELECT min(due_at) FROM ({_TO_REPAIR}) AS failed)
        FROM submissions WHERE submission_id = :submission_id
    """  # noqa: S608  constants of ours
    due_at: datetime | None = (await conn.execute(text(statement), {"submission_id": submission_id})).scalar_one()
    return due_at


async def lock_submission(conn: AsyncConnection, submission_id: UUID) -> Submission | None:
    """Lock a submission, so that its replacements are counted by one daemon at a time. After its VMs, as everywhere."""
    rows = await conn.execute(
        select(submissions).where(submissions.c.submission_id == submission_id).with_for_update(key_share=True)
    )
    row = rows.mappings().one_or_none()
    return from_row(Submission, row) if row else None


async def repairs(conn: AsyncConnection, submission_id: UUID, *, since: datetime) -> list[Repair]:
    """The latest replacements that were made for failed VMs since a time."""
    new = vms.alias()
    made_for_it = select(new.c.vm_no).where(
        new.c.submission_id == vms.c.submission_id, new.c.vm_no == vms.c.replaced_by
    )
    replaced = vms.c.replaced_by.is_not(None) & (vms.c.stuck | made_for_it.where(new.c.repair).exists())
    deleted = (vms.c.desired_state == "deleted") & ~replaced  # by a caller, or for one that is on the contract
    failed = is_any(vms.c.state, [state.value for state in FAILED]) & ~deleted
    failed_at = func.coalesce(vms.c.deletion_requested_at, vms.c.ended_at, vms.c.state_since)
    rows = await conn.execute(
        select(
            vms.c.created_at,
            vms.c.ready_at,
            case((failed | replaced, failed_at)).label("failed_at"),
            case((deleted, vms.c.deletion_requested_at)).label("deleted_at"),
        )
        .where(vms.c.submission_id == submission_id, vms.c.repair, vms.c.created_at >= since)
        .order_by(vms.c.created_at.desc())
        .limit(_LATEST)
    )
    return [Repair(*row) for row in rows]


async def last_hour(conn: AsyncConnection, submission_id: UUID, *, now: datetime) -> LastHour:
    """The replacements that were made for failed VMs within the last hour, also those that callers have deleted since."""
    row = await conn.execute(
        select(func.count(), func.min(vms.c.created_at))
        .where(vms.c.submission_id == submission_id, vms.c.repair, vms.c.created_at > now - HOUR)
    )  # fmt: skip
    return LastHour(*row.one())


async def stopped(conn: AsyncConnection, *, limit: int) -> list[UUID]:
    """Submissions whose failing VMs are not replaced any more because replacements kept failing."""
    rows = await conn.execute(
        select(submissions.c.submission_id)
        .where(submissions.c.maintain_stopped_at.is_not(None), submissions.c.cancelled_at.is_(None))
        .order_by(submissions.c.submission_id)
        .limit(limit)
    )
    return list(rows.scalars())

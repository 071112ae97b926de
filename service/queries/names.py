"""Find submissions and VMs by a prefix of an id or by name, and when a submission's next create call is due."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from msgspec import Struct
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.vm import Vm
from service.storage.arrays import is_any
from service.storage.rows import from_rows
from service.storage.tables import creations, submissions, vms

_HEX_DIGITS = 32


class SubmissionName(Struct, frozen=True):
    """The id and the name of a submission."""

    submission_id: UUID
    name: str


async def submissions_by_prefix(conn: AsyncConnection, digits: str, *, limit: int) -> list[SubmissionName]:
    """The submissions whose ids begin with these hex digits (1 to 32, without hyphens), newest first."""
    lowest, highest = (UUID(digits.ljust(_HEX_DIGITS, end)) for end in "0f")
    rows = await conn.execute(
        select(submissions.c.submission_id, submissions.c.name)
        .where(submissions.c.submission_id.between(lowest, highest))
        .order_by(submissions.c.submission_id.desc())
        .limit(limit)
    )
    return await from_rows(SubmissionName, rows)


async def submissions_by_name(conn: AsyncConnection, name: str, *, limit: int) -> list[SubmissionName]:
    """The submissions with this name, newest first. There is no index: for people, not for programs."""
    rows = await conn.execute(
        select(submissions.c.submission_id, submissions.c.name)
        .where(submissions.c.name == name)
        .order_by(submissions.c.submission_id.desc())
        .limit(limit)
    )
    return await from_rows(SubmissionName, rows)


async def vms_by_name(conn: AsyncConnection, name: str, *, limit: int) -> list[Vm]:
    """The VMs with this name, living ones first, then the newest. There is no index: for people, not for programs."""
    rows = await conn.execute(
        select(vms)
        .where(vms.c.name == name)
        .order_by(vms.c.ended_at.is_not(None), vms.c.submission_id.desc(), vms.c.vm_no)
        .limit(limit)
    )
    return await from_rows(Vm, rows)


async def next_attempts(conn: AsyncConnection, ids: Sequence[UUID]) -> Mapping[UUID, datetime]:
    """When the next create call or lookup of each submission is due; those without any are left out."""
    rows = await conn.execute(
        select(creations.c.submission_id, func.min(creations.c.due_at).label("at"))
        .where(is_any(creations.c.submission_id, ids), creations.c.due_at.is_not(None))
        .group_by(creations.c.submission_id)
    )
    return {row.submission_id: row.at for row in rows}

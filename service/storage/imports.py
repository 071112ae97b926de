"""Statements of imports: one at a time, so that no VM is imported twice."""

from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.tables import actions, vms

#: Names the lock in Postgres's space of advisory locks.
_KEY = 0x1A9_0B7


async def lock(conn: AsyncConnection) -> None:
    """Keep other imports out until this transaction ends."""
    await conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _KEY})


async def living(conn: AsyncConnection, submission_id: UUID) -> list[tuple[UUID, int]]:
    """The VMs of a submission that have not ended."""
    rows = await conn.execute(
        select(vms.c.submission_id, vms.c.vm_no)
        .where(vms.c.submission_id == submission_id, vms.c.ended_at.is_(None))
        .order_by(vms.c.vm_no)
    )
    return [(row.submission_id, row.vm_no) for row in rows]


async def replaced_url(conn: AsyncConnection, submission_id: UUID, vm_no: int) -> str | None:
    """The callback URL that a VM had when it was imported; None if none was replaced."""
    rows = await conn.execute(
        select(actions.c.detail)
        .where(actions.c.submission_id == submission_id, actions.c.vm_no == vm_no, actions.c.kind == "attach")
        .order_by(actions.c.at.desc())
        .limit(1)
    )
    found: str | None = rows.scalar_one_or_none()
    return found

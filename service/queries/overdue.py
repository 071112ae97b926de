"""What takes too long, for health issues. Each query reads an index and stops after a few rows."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from msgspec import Struct
from sqlalchemy import literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.rows import from_rows
from service.storage.tables import creations, inbox, vms


class OverdueDeletion(Struct, frozen=True):
    """A VM whose deletion has not ended; `reason` is the provider's latest error, if any."""

    submission_id: UUID
    vm_no: int
    provider_id: int | None
    deletion_requested_at: datetime
    reason: str | None


class OverdueCreation(Struct, frozen=True):
    """A creation that is unconfirmed, and why."""

    submission_id: UUID
    creation_no: int
    name: str
    unconfirmed_since: datetime
    reason: str | None


async def deletions(conn: AsyncConnection, *, before: datetime, limit: int) -> Sequence[OverdueDeletion]:
    """VMs whose deletion was requested before `before` and is not done, the oldest first."""
    rows = await conn.execute(
        select(vms.c.submission_id, vms.c.vm_no, vms.c.provider_id, vms.c.deletion_requested_at, vms.c.reason)
        .where(vms.c.delete_due_at.is_not(None), vms.c.deletion_requested_at < before)
        .order_by(vms.c.deletion_requested_at)
        .limit(limit)
    )
    return await from_rows(OverdueDeletion, rows)


async def unconfirmed(conn: AsyncConnection, *, before: datetime, limit: int) -> Sequence[OverdueCreation]:
    """Creations that have been unconfirmed since before `before`, the oldest first."""
    rows = await conn.execute(
        select(
            creations.c.submission_id,
            creations.c.creation_no,
            creations.c.name,
            creations.c.unconfirmed_since,
            creations.c.reason,
        )
        .where(creations.c.state == literal_column("'unconfirmed'"))
        .where(creations.c.unconfirmed_since < before)
        .order_by(creations.c.unconfirmed_since)
        .limit(limit)
    )
    return await from_rows(OverdueCreation, rows)


async def inbox_due_since(conn: AsyncConnection) -> datetime | None:
    """When the longest waiting event was due to be applied; None if none waits."""
    found: datetime | None = (
        await conn.execute(select(inbox.c.due_at).order_by(inbox.c.due_at).limit(1))
    ).scalar_one_or_none()
    return found

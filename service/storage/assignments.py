"""The table `assignments`: steps of VMs towards their contracts. Append-only."""

from collections.abc import Iterable

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.vm import AssignmentStep
from service.storage.rows import insert_many
from service.storage.tables import assignments


async def insert(conn: AsyncConnection, notes: Iterable[AssignmentStep]) -> None:
    """Insert steps."""
    await insert_many(conn, assignments, notes)

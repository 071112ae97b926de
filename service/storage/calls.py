"""The tables `calls` and `call_ends`: calls to the provider, and their ends. Append-only."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.rows import insert_many
from service.storage.tables import call_ends, calls


class Call(Struct, frozen=True):
    """A call that is about to be made."""

    submission_id: UUID
    call_id: UUID
    operation: str
    begun_at: datetime
    creation_no: int | None = None
    vm_no: int | None = None
    provider_id: int | None = None
    attempt: int | None = None


class CallEnd(Struct, frozen=True):
    """The end of a call: `outcome` is ok or the kind of error, `ms` how long it took."""

    submission_id: UUID
    call_id: UUID
    outcome: str
    ms: int
    ended_at: datetime
    status_code: int | None = None
    error: str | None = None


async def begin(conn: AsyncConnection, begun: Iterable[Call]) -> None:
    """Insert calls. Commit before making them.

    Existing rows are skipped: after a lost commit the transaction runs again.
    """
    await insert_many(conn, calls, begun, or_ignore=True)


async def end(conn: AsyncConnection, ended: Iterable[CallEnd]) -> None:
    """Insert the ends of calls. A second end of the same call is ignored."""
    await insert_many(conn, call_ends, ended, or_ignore=True)

"""The table `orphans`: VMs at the provider that carry our marks and have no record to bind to."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from msgspec import Struct
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.arrays import is_any
from service.storage.rows import from_rows
from service.storage.tables import orphans


class Orphan(Struct, frozen=True):
    """One row of `orphans`. `suspected` ones were only heard of; the provider has to be asked."""

    submission_id: UUID
    provider_id: int
    creation_no: int
    name: str | None
    state: str
    reason: str
    found_at: datetime
    due_at: datetime | None
    attempts: int = 0
    ended_at: datetime | None = None


async def note(
    conn: AsyncConnection, *, submission_id: UUID, provider_id: int, creation_no: int, state: str, reason: str,
    now: datetime, due_at: datetime | None, name: str | None = None,
) -> bool:  # fmt: skip
    """Put an orphan on record, once; whether it is new.

    One that was thought to be on its way to be bound, or gone, and was not, is new again.
    """
    values = {"name": name, "state": state, "reason": reason, "found_at": now, "due_at": due_at, "attempts": 0}
    made = await conn.execute(
        insert(orphans)
        .values(submission_id=submission_id, provider_id=provider_id, creation_no=creation_no, **values)
        .on_conflict_do_update(
            index_elements=[orphans.c.submission_id, orphans.c.provider_id],
            set_={**values, "ended_at": None},
            where=orphans.c.state.in_(("adopted", "gone")),
        )
    )
    return made.rowcount > 0


async def claim_due(conn: AsyncConnection, *, now: datetime, lease: timedelta, limit: int) -> list[Orphan]:
    """Orphans to look at or to delete; each is put off by the lease, so that nobody else takes it meanwhile."""
    due = (
        select(orphans.c.submission_id, orphans.c.provider_id)
        .where(orphans.c.due_at <= now)
        .order_by(orphans.c.due_at, orphans.c.provider_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    rows = await conn.execute(
        update(orphans)
        .where(orphans.c.submission_id == due.c.submission_id, orphans.c.provider_id == due.c.provider_id)
        .values(due_at=now + lease, attempts=orphans.c.attempts + 1)
        .returning(orphans)
    )
    return sorted(await from_rows(Orphan, rows), key=lambda one: one.provider_id)


async def update_if_claimed(conn: AsyncConnection, claimed: Orphan, **values: Any) -> bool:
    """Write what became of an orphan, if it is still as it was claimed: the due time of a claim is its lease."""
    done = await conn.execute(
        update(orphans)
        .where(orphans.c.submission_id == claimed.submission_id, orphans.c.provider_id == claimed.provider_id)
        .where(orphans.c.state == claimed.state, orphans.c.due_at == claimed.due_at)
        .values(**values)
    )
    return done.rowcount > 0


async def suspect_again(conn: AsyncConnection, submission_id: UUID, *, now: datetime) -> None:
    """Have the reported orphans of a submission looked at anew: what is to be done about them has changed."""
    await conn.execute(
        update(orphans)
        .where(orphans.c.submission_id == submission_id, orphans.c.state == "found")
        .values(state="suspected", due_at=now)
    )


async def by_provider_id(conn: AsyncConnection, provider_ids: Sequence[int]) -> dict[tuple[UUID, int], Orphan]:
    """The orphans on record with these ids of the provider's, by submission and id."""
    rows = await conn.execute(select(orphans).where(is_any(orphans.c.provider_id, provider_ids)))
    found = await from_rows(Orphan, rows)
    return {(one.submission_id, one.provider_id): one for one in found}


async def page(conn: AsyncConnection, *, submission_id: UUID | None = None, limit: int = 200) -> list[Orphan]:
    """Orphans, newest first."""
    query = select(orphans).order_by(orphans.c.found_at.desc()).limit(limit)
    if submission_id is not None:
        query = query.where(orphans.c.submission_id == submission_id)
    return await from_rows(Orphan, await conn.execute(query))

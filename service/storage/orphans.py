"""The table `orphans`: VMs at the provider that carry our ownership tags and match no VM on record."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from msgspec import Struct
from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.token import CreationRef
from service.storage.arrays import are_any, is_any
from service.storage.rows import from_rows
from service.storage.tables import orphans


class Orphan(Struct, frozen=True):
    """One row of `orphans`. `suspected` ones have to be read from the provider. `source` is list or callback."""

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
    source: str = "list"


class Suspect(NamedTuple):
    """A VM that a callback on a creation's URL named, and that is not on record."""

    submission_id: UUID
    creation_no: int
    provider_id: int


#: How many suspects a creation may have within `SUSPECT_WINDOW`: anyone with its callback URL can name any VM.
MOST_SUSPECTS: Final = 20
SUSPECT_WINDOW: Final = timedelta(hours=1)
_SUSPECT: Final = """
WITH named AS (
    SELECT DISTINCT submission_id, creation_no, provider_id
    FROM unnest($1::uuid[], $2::int[], $3::bigint[]) AS named (submission_id, creation_no, provider_id)
), recent AS (
    SELECT submission_id, creation_no, count(*) AS suspects FROM orphans
    WHERE source = 'callback' AND found_at > $5
      AND (submission_id, creation_no) IN (SELECT submission_id, creation_no FROM named)
    GROUP BY submission_id, creation_no
), numbered AS (
    SELECT named.*, coalesce(suspects, 0)
           + row_number() OVER (PARTITION BY submission_id, creation_no ORDER BY provider_id) AS number
    FROM named LEFT JOIN recent USING (submission_id, creation_no)
    WHERE NOT EXISTS (
        SELECT FROM orphans AS known
        WHERE known.submission_id = named.submission_id AND known.provider_id = named.provider_id
          AND known.state NOT IN ('adopted', 'gone')
    )
)
INSERT INTO orphans (submission_id, provider_id, creation_no, state, reason, found_at, due_at, attempts, source)
SELECT DISTINCT ON (submission_id, provider_id) submission_id, provider_id, creation_no, 'suspected', $7, $4, $4, 0, 'callback'
FROM numbered WHERE number <= $6
ORDER BY submission_id, provider_id, creation_no
ON CONFLICT (submission_id, provider_id) DO UPDATE
SET name = NULL, state = 'suspected', reason = excluded.reason, found_at = excluded.found_at, due_at = excluded.due_at,
    attempts = 0, ended_at = NULL, source = 'callback'
WHERE orphans.state IN ('adopted', 'gone')
"""


async def suspect(conn: AsyncConnection, suspects: Sequence[Suspect], *, now: datetime) -> int:
    """Insert suspects, at most `MOST_SUSPECTS` of a creation within `SUSPECT_WINDOW`. Returns how many are new.

    If a late VM of ours is left out, it carries our tags, and the next list shows it.
    """
    columns = ([one[place] for one in suspects] for place in range(3))
    reason = "named by a callback after its creation was completed without it"
    done = await conn.exec_driver_sql(_SUSPECT, (*columns, now, now - SUSPECT_WINDOW, MOST_SUSPECTS, reason))
    return done.rowcount


async def flooded(conn: AsyncConnection, *, now: datetime) -> CreationRef | None:
    """A creation that has as many suspects within `SUSPECT_WINDOW` as are allowed."""
    recent = orphans.c.found_at > now - SUSPECT_WINDOW
    rows = await conn.execute(
        select(orphans.c.submission_id, orphans.c.creation_no)
        .where(orphans.c.source == "callback", recent)
        .group_by(orphans.c.submission_id, orphans.c.creation_no)
        .having(func.count() >= MOST_SUSPECTS)
        .order_by(func.max(orphans.c.found_at).desc())
        .limit(1)
    )
    row = rows.one_or_none()
    return CreationRef(row.submission_id, row.creation_no) if row else None


async def suspected(conn: AsyncConnection, *, before: datetime, limit: int) -> list[Orphan]:
    """Suspects that were named before a time."""
    rows = await conn.execute(
        select(orphans)
        .where(orphans.c.source == "callback", orphans.c.state == "suspected", orphans.c.found_at < before)
        .order_by(orphans.c.found_at)
        .limit(limit)
    )
    return await from_rows(Orphan, rows)


async def close(conn: AsyncConnection, which: Iterable[Orphan], *, reason: str, now: datetime) -> None:
    """End suspects that are not orphans."""
    keys = [(one.submission_id, one.provider_id) for one in which]
    if not keys:
        return
    await conn.execute(
        update(orphans)
        .where(are_any((orphans.c.submission_id, orphans.c.provider_id), keys), orphans.c.state == "suspected")
        .values(state="gone", reason=reason, due_at=None, ended_at=now)
    )


async def note(
    conn: AsyncConnection, *, submission_id: UUID, provider_id: int, creation_no: int, state: str, reason: str,
    now: datetime, due_at: datetime | None, name: str | None = None,
) -> bool:  # fmt: skip
    """Insert an orphan, once. Returns whether it is new.

    One on record as adopted or gone is new again. A suspect that a callback named becomes one that a list showed.
    """
    values = {
        "name": name, "state": state, "reason": reason, "found_at": now, "due_at": due_at, "attempts": 0, "source": "list",
    }  # fmt: skip
    made = await conn.execute(
        insert(orphans)
        .values(submission_id=submission_id, provider_id=provider_id, creation_no=creation_no, **values)
        .on_conflict_do_update(
            index_elements=[orphans.c.submission_id, orphans.c.provider_id],
            set_={**values, "ended_at": None},
            where=or_(
                orphans.c.state.in_(("adopted", "gone")),
                and_(orphans.c.state == "suspected", orphans.c.source == "callback"),
            ),
        )
    )
    return made.rowcount > 0


async def claim_due(conn: AsyncConnection, *, now: datetime, lease: timedelta, limit: int) -> list[Orphan]:
    """Orphans to read or to delete, suspects that callbacks named last; each is deferred by the lease."""
    claimed: list[Orphan] = []
    for source in ("list", "callback"):
        if len(claimed) < limit:
            claimed += await _claim(conn, source, now=now, lease=lease, limit=limit - len(claimed))
    return claimed


async def _claim(conn: AsyncConnection, source: str, *, now: datetime, lease: timedelta, limit: int) -> list[Orphan]:
    due = (
        select(orphans.c.submission_id, orphans.c.provider_id)
        .where(orphans.c.source == source, orphans.c.due_at <= now)
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
    """Write the result about an orphan, if it is still as it was claimed: its due time is the lease."""
    done = await conn.execute(
        update(orphans)
        .where(orphans.c.submission_id == claimed.submission_id, orphans.c.provider_id == claimed.provider_id)
        .where(orphans.c.state == claimed.state, orphans.c.due_at == claimed.due_at)
        .values(**values)
    )
    return done.rowcount > 0


async def suspect_again(conn: AsyncConnection, submission_id: UUID, *, now: datetime) -> None:
    """Make the reported orphans of a submission due again: what to do about them has changed."""
    await conn.execute(
        update(orphans)
        .where(orphans.c.submission_id == submission_id, orphans.c.state == "found")
        .values(state="suspected", due_at=now)
    )


async def by_provider_id(conn: AsyncConnection, provider_ids: Sequence[int]) -> dict[tuple[UUID, int], Orphan]:
    """The orphans on record with these provider ids, by submission and id."""
    rows = await conn.execute(select(orphans).where(is_any(orphans.c.provider_id, provider_ids)))
    found = await from_rows(Orphan, rows)
    return {(one.submission_id, one.provider_id): one for one in found}

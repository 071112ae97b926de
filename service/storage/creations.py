"""The table `creations`: create calls. They are leased before they are made, and only the holder of the lease completes them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Self
from uuid import UUID

from msgspec import Struct
from sqlalchemy import (
    ColumnElement,
    Select,
    Text,
    and_,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.token import CreationRef
from service.errors import LeaseLost
from service.storage import fair_claims
from service.storage.arrays import are_any, is_any
from service.storage.rows import from_row, from_rows, insert_many
from service.storage.tables import creations, orphans, submissions

_KEY = (creations.c.submission_id, creations.c.creation_no)
#: The states in which a creation may still get VMs.
INCOMPLETE = frozenset({"due", "calling", "unconfirmed"})


class Creation(Struct, frozen=True):
    """One row of `creations`."""

    submission_id: UUID
    creation_no: int
    vm_count: int
    name: str
    due_at: datetime | None
    created_at: datetime
    deadline_at: datetime
    state: str = "due"
    attempt: int = 0
    lease_token: UUID | None = None
    lease_until: datetime | None = None
    first_sent_at: datetime | None = None
    unconfirmed_since: datetime | None = None
    lookup_until: datetime | None = None
    lookup_attempts: int = 0
    name_taken: bool = False
    alternative: int = 0
    refused_alternatives: list[int] = []
    answer: dict[str, Any] | None = None
    reason: str | None = None
    completed_at: datetime | None = None

    @property
    def ref(self) -> CreationRef:
        return CreationRef(self.submission_id, self.creation_no)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """A leased creation, with what its call is made from."""

    creation: Creation
    spec: dict[str, Any]
    policy: dict[str, Any]
    hardware: list[list[Any]] = field(default_factory=list)
    passed_over: frozenset[int] = frozenset()  #: alternatives that are too dear, or of which there are none

    def with_creation(self, creation: Creation) -> Self:
        return replace(self, creation=creation)


async def insert(conn: AsyncConnection, new: Iterable[Creation]) -> None:
    """Write new creations, all of them due."""
    await insert_many(conn, creations, new)


async def count_due(conn: AsyncConnection, *, now: datetime, limit: int) -> int:
    """How many creations are due, up to `limit`."""
    # Ordered, so by the index; without an order Postgres may read the table.
    due = _sendable(select(creations.c.creation_no), now).order_by(creations.c.due_at).limit(limit)
    return (await conn.execute(select(func.count()).select_from(due.subquery()))).scalar_one()


def _sendable(query: Select[Any], now: datetime) -> Select[Any]:
    return query.join(submissions, submissions.c.submission_id == creations.c.submission_id).where(
        creations.c.state == "due", creations.c.due_at <= now, submissions.c.state != "cancelled"
    )


async def claim_due(
    conn: AsyncConnection, *, now: datetime, lease: timedelta, token: UUID, limit: int, most: int = fair_claims.NO_BOUND
) -> list[Leased]:
    """Lease up to `limit` due creations, fair between submissions. Commit before calling the provider.

    No submission has more than `most` under way.

    The attempt is counted here, before the call, so that it counts even if the worker dies.
    """
    # More keys than needed, since those that another daemon is claiming are skipped.
    candidates = await fair_claims.due_creations(conn, now=now, limit=2 * limit, most=most)
    turn = fair_claims.turns(candidates)
    due = (
        select(creations.c.submission_id, creations.c.creation_no)
        .join(turn, and_(creations.c.submission_id == turn.c.submission_id, creations.c.creation_no == turn.c.number))
        .where(creations.c.state == "due", creations.c.due_at <= now)
        .order_by(turn.c.turn)
        .limit(limit)
        .with_for_update(skip_locked=True, of=creations)
        # A CTE: the planner may run a subquery more than once, and each run would lease another `limit` rows.
        .cte("due")
    )
    claimed = await conn.execute(
        update(creations)
        .where(creations.c.submission_id == due.c.submission_id, creations.c.creation_no == due.c.creation_no)
        .where(submissions.c.submission_id == creations.c.submission_id)
        .values(
            state="calling",
            attempt=creations.c.attempt + 1,
            lease_token=token,
            lease_until=now + lease,
            due_at=now + lease,
            first_sent_at=func.coalesce(creations.c.first_sent_at, now),
            lookup_attempts=0,
        )
        .returning(
            creations,
            submissions.c.spec,
            submissions.c.policy,
            submissions.c.hardware,
        )
    )
    leased = [
        Leased(
            creation=from_row(Creation, row),
            spec=row[submissions.c.spec],
            policy=row[submissions.c.policy],
            hardware=row[submissions.c.hardware],
        )
        for row in claimed.mappings()
    ]
    return sorted(leased, key=lambda one: one.creation.ref)


async def set_if_leased(conn: AsyncConnection, ref: CreationRef, token: UUID, **values: Any) -> bool:
    """Write values if `token` has the lease; whether it has."""
    done = await conn.execute(
        update(creations)
        .where(_is(ref), creations.c.state == "calling", creations.c.lease_token == token)
        .values(**values)
    )
    return done.rowcount > 0


async def complete_if_leased(conn: AsyncConnection, ref: CreationRef, token: UUID, **values: Any) -> None:
    """Write the end of an attempt. Raises `LeaseLost` if `token` no longer has the lease; nothing is changed then."""
    done = await conn.execute(
        update(creations)
        .where(_is(ref), creations.c.state == "calling", creations.c.lease_token == token)
        .values(lease_token=None, lease_until=None, **values)
    )
    if done.rowcount == 0:
        raise LeaseLost(f"creation {ref.creation_no} of {ref.submission_id}")


def answered(now: datetime, answer: dict[str, Any] | None) -> dict[str, Any]:
    """The values of a creation that the provider answered, or whose VMs were all found."""
    return {"state": "answered", "due_at": None, "lookup_until": None, "completed_at": now, "answer": answer}


def refused(now: datetime, reason: str) -> dict[str, Any]:
    """The values of a creation that the provider refused for good."""
    return {"state": "refused", "due_at": None, "lookup_until": None, "completed_at": now, "reason": reason}


def cancelled(now: datetime, reason: str) -> dict[str, Any]:
    """The values of a creation that was cancelled before it was made."""
    return {"state": "cancelled", "due_at": None, "lookup_until": None, "completed_at": now, "reason": reason}


def due(at: datetime, reason: str | None) -> dict[str, Any]:
    """The values of a creation that was certainly not made and is due at `at`."""
    return {"state": "due", "due_at": at, "lookup_until": None, "reason": reason}


def unconfirmed(
    now: datetime, look_at: datetime, lookup_until: datetime, reason: str, *, name_taken: bool = False
) -> dict[str, Any]:
    """The values of a creation that was perhaps made: looked up from `look_at` on, sent again after `lookup_until`.

    `name_taken`: the provider said that its name is taken, so it is never sent again.
    """
    values = {
        "state": "unconfirmed",
        "due_at": look_at,
        "unconfirmed_since": now,
        "lookup_until": lookup_until,
        "reason": reason,
    }
    return {**values, "name_taken": True} if name_taken else values


async def make_all_unconfirmed(conn: AsyncConnection, *, now: datetime, until: datetime, reason: str) -> int:
    """Make all creations that wait to be sent unconfirmed, and begin the lookups of the unconfirmed anew. Returns how many."""
    done = await conn.execute(
        update(creations)
        .where(creations.c.state.in_(("due", "unconfirmed")))
        .values(**unconfirmed(now, now, until, reason), lookup_attempts=0)
    )
    return done.rowcount


async def defer_topped_up(
    conn: AsyncConnection, *, before: datetime, now: datetime, until: datetime, all_: bool
) -> int:
    """Defer due creations that were never sent nor looked up, of submissions made before then. Returns how many.

    Unless `all_`, only those of submissions with VMs at the provider that match no record yet.
    """
    unmatched = (orphans.c.source == "list") & (orphans.c.state == "suspected")
    done = await conn.execute(
        update(creations)
        .where(creations.c.state == "due", creations.c.due_at <= now)
        .where(creations.c.attempt == 0, creations.c.lookup_attempts == 0)
        .where(submissions.c.submission_id == creations.c.submission_id, submissions.c.created_at < before)
        .where(or_(literal(all_), exists().where(orphans.c.submission_id == creations.c.submission_id, unmatched)))
        .values(due_at=until)
    )
    return done.rowcount


async def rescue_expired(conn: AsyncConnection, *, now: datetime, window: timedelta) -> list[CreationRef]:
    """Make creations whose lease expired unconfirmed: the call may have been made."""
    late = (
        select(creations.c.submission_id, creations.c.creation_no)
        .where(creations.c.state == "calling", creations.c.due_at.is_not(None), creations.c.lease_until < now)
        .with_for_update(skip_locked=True)
        .cte("late")
    )
    rows = await conn.execute(
        update(creations)
        .where(creations.c.submission_id == late.c.submission_id, creations.c.creation_no == late.c.creation_no)
        .values(
            lease_token=None,
            lease_until=None,
            **unconfirmed(now, now, now + window, "the process that sent it stopped before the answer came"),
        )
        .returning(creations.c.submission_id, creations.c.creation_no)
    )
    return [CreationRef(row.submission_id, row.creation_no) for row in rows]


async def unconfirmed_due(conn: AsyncConnection, *, now: datetime, limit: int) -> list[Creation]:
    """Unconfirmed creations whose next lookup is due, longest due first."""
    rows = await conn.execute(
        select(creations)
        .where(creations.c.state == "unconfirmed", creations.c.due_at <= now)
        .order_by(creations.c.due_at, creations.c.submission_id, creations.c.creation_no)
        .limit(limit)
    )
    return await from_rows(Creation, rows)


async def lock(conn: AsyncConnection, refs: Sequence[CreationRef]) -> dict[CreationRef, Creation]:
    """Lock creations for this transaction, in the order of their keys."""
    rows = await conn.execute(
        select(creations)
        .where(are_any(_KEY, refs))
        .order_by(creations.c.submission_id, creations.c.creation_no)
        .with_for_update()
    )
    return {one.ref: one for one in await from_rows(Creation, rows)}


async def read(conn: AsyncConnection, refs: Sequence[CreationRef]) -> dict[CreationRef, Creation]:
    rows = await conn.execute(select(creations).where(are_any(_KEY, refs)))
    return {one.ref: one for one in await from_rows(Creation, rows)}


async def by_names(conn: AsyncConnection, names: Iterable[str]) -> dict[str, CreationRef]:
    """The creations with these names, given and returned in lower case."""
    wanted = list(names)
    if not wanted:
        return {}
    rows = await conn.execute(
        select(func.lower(creations.c.name).label("name"), creations.c.submission_id, creations.c.creation_no).where(
            is_any(func.lower(text("name"), type_=Text), wanted)
        )
    )
    return {row.name: CreationRef(row.submission_id, row.creation_no) for row in rows}


async def set_values(conn: AsyncConnection, ref: CreationRef, *, only_in: str, **values: Any) -> bool:
    """Write values if the creation is in the state `only_in`. Returns whether it was."""
    done = await conn.execute(update(creations).where(_is(ref), creations.c.state == only_in).values(**values))
    return done.rowcount > 0


async def give_back_place(conn: AsyncConnection, creation: Creation, *, now: datetime, reason: str) -> None:
    """Make a due creation one VM smaller; cancel it with `reason` if none is left. Nothing changes if it is not due."""
    values = {"vm_count": creation.vm_count - 1} if creation.vm_count > 1 else cancelled(now, reason)
    await set_values(conn, creation.ref, only_in="due", **values)


async def too_late(conn: AsyncConnection, *, now: datetime, limit: int) -> list[Creation]:
    """Lock creations that are still due although their deadline has passed."""
    rows = await conn.execute(
        select(creations)
        .where(creations.c.state == literal_column("'due'"), creations.c.deadline_at < now)
        .order_by(creations.c.deadline_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return await from_rows(Creation, rows)


async def cancel_due(conn: AsyncConnection, submission_id: UUID, *, now: datetime, limit: int = 25) -> list[int]:
    """Cancel up to `limit` creations that were certainly not sent, or certainly not made. Returns their numbers."""
    due = (
        select(creations.c.creation_no)
        # A literal and no parameter: it is what lets the partial index on these be used.
        .where(creations.c.submission_id == submission_id, creations.c.state == literal_column("'due'"))
        .order_by(creations.c.creation_no)
        .limit(limit)
        .with_for_update()
        .cte("due")
    )
    rows = await conn.execute(
        update(creations)
        .where(creations.c.submission_id == submission_id, creations.c.creation_no == due.c.creation_no)
        .values(**cancelled(now, "cancelled before it was sent"))
        .returning(creations.c.creation_no)
    )
    return [row.creation_no for row in rows]


def _is(ref: CreationRef) -> ColumnElement[bool]:
    return and_(creations.c.submission_id == ref.submission_id, creations.c.creation_no == ref.creation_no)

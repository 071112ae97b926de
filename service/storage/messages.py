"""The tables `messages`, `message_lanes` and `message_sequences`: what is delivered to whom, in which order, and when next."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct
from sqlalchemy import select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.arrays import is_any
from service.storage.rows import from_rows, insert_many
from service.storage.tables import FREE, message_lanes, messages

#: Whose sequence: a submission, or the whole fleet, and a target.
SequenceKey = tuple[UUID, str]


class Message(Struct, frozen=True):
    """One row of `messages`. `body` is JSON, as it is signed and sent."""

    submission_id: UUID
    target: str
    seq: int
    message_id: UUID
    lane: str
    kind: str
    text: str
    body: str
    created_at: datetime
    give_up_at: datetime
    due_at: datetime | None = None
    state: str = "due"  # due, delivered, dead
    attempts: int = 0
    ended_at: datetime | None = None
    status: int | None = None
    error: str | None = None


class LeasedLane(Struct, frozen=True):
    """A lane that this process delivers to, until its lease ends."""

    lane: str
    failures: int
    lease_token: UUID


class LaneState(Struct, frozen=True):
    """How a lane is doing."""

    lane: str
    failures: int
    error: str | None
    due_at: datetime | None


class Attempt(Struct, frozen=True, kw_only=True):
    """What became of an attempt: the message as it is from now on, and its lane."""

    message: Message
    failures: int  #: of the lane, in a row
    error: str | None = None


async def next_numbers(conn: AsyncConnection, counts: Mapping[SequenceKey, int]) -> dict[SequenceKey, int]:
    """Advance each sequence by a count. Returns the first of the new numbers."""
    keys = sorted(counts)
    rows = await conn.execute(
        text("""
        INSERT INTO message_sequences AS old (submission_id, target, seq)
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:targets AS text[]), CAST(:counts AS bigint[]))
        ON CONFLICT (submission_id, target) DO UPDATE SET seq = old.seq + excluded.seq
        RETURNING submission_id, target, seq
        """),
        {"ids": [id_ for id_, _ in keys], "targets": [one for _, one in keys], "counts": [counts[key] for key in keys]},
    )
    return {(row.submission_id, row.target): row.seq - counts[row.submission_id, row.target] + 1 for row in rows}


async def insert(conn: AsyncConnection, new: Collection[Message], *, now: datetime) -> None:
    """Insert messages that are due, and wake their lanes. One that keeps failing stays asleep until its time."""
    await insert_many(conn, messages, new)
    await wake(conn, {one.lane for one in new}, now=now)


async def wake(conn: AsyncConnection, lanes: Iterable[str], *, now: datetime, failing: bool = False) -> None:
    """Make lanes due, and with `failing` also those that keep failing: somebody expects that they work now."""
    await conn.execute(
        text("""
        INSERT INTO message_lanes AS old (lane, due_at) SELECT unnest(CAST(:lanes AS text[])), CAST(:now AS timestamptz)
        ON CONFLICT (lane) DO UPDATE SET due_at = CASE WHEN old.failures = 0 OR :failing THEN CAST(:now AS timestamptz)
            ELSE coalesce(old.due_at, :now) END
        """),
        {"lanes": sorted(lanes), "now": now, "failing": failing},
    )


async def claim_lanes(
    conn: AsyncConnection, *, now: datetime, until: datetime, token: UUID, limit: int
) -> list[LeasedLane]:
    """Lease lanes that have something to deliver, the longest due first."""
    rows = await conn.execute(
        text(f"""
        WITH due AS (
            SELECT lane FROM message_lanes WHERE due_at <= :now AND {FREE}
            ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
        )
        UPDATE message_lanes AS old SET lease_token = :token, lease_until = :until FROM due WHERE old.lane = due.lane
        RETURNING old.lane, old.failures, old.lease_token
        """),  # noqa: S608  a constant of ours
        {"now": now, "until": until, "token": token, "limit": limit},
    )
    return await from_rows(LeasedLane, rows)


async def due(conn: AsyncConnection, lane: str, *, now: datetime, limit: int) -> list[Message]:
    """The messages of a lane that are due, the longest due first, and in their order."""
    rows = await conn.execute(
        select(messages)
        .where(messages.c.lane == lane, messages.c.due_at <= now)
        .order_by(messages.c.due_at, messages.c.submission_id, messages.c.seq)
        .limit(limit)
    )
    return await from_rows(Message, rows)


async def save_attempt(conn: AsyncConnection, leased: LeasedLane, attempt: Attempt, *, until: datetime) -> bool:
    """Record an attempt and extend the lease. Returns whether we still had it."""
    held = await conn.execute(
        text("""
        UPDATE message_lanes SET lease_until = :until, failures = :failures, error = :error
        WHERE lane = :lane AND lease_token = :token
        """),
        {
            "until": until,
            "failures": attempt.failures,
            "error": attempt.error,
            "lane": leased.lane,
            "token": leased.lease_token,
        },
    )
    if not held.rowcount:
        return False
    one = attempt.message
    await conn.execute(
        messages.update()
        .where(_is(one), messages.c.state == "due")
        .values(
            state=one.state,
            attempts=one.attempts,
            due_at=one.due_at,
            ended_at=one.ended_at,
            status=one.status,
            error=one.error,
        )
    )
    return True


async def release(conn: AsyncConnection, leased: LeasedLane, *, not_before: datetime) -> None:
    """Give a lane back. It is due when the first of its messages is, but not before a time."""
    mine = {"lane": leased.lane, "token": leased.lease_token}
    # Locked by a statement of its own: what was inserted while we waited for the lock has to be seen.
    held = await conn.execute(
        text("SELECT lane FROM message_lanes WHERE lane = :lane AND lease_token = :token FOR UPDATE"), mine
    )
    if held.first() is None:
        return
    await conn.execute(
        text("""
        UPDATE message_lanes SET lease_token = NULL, lease_until = NULL, due_at = (
            SELECT greatest(min(due_at), :not_before) FROM messages
            WHERE lane = :lane AND due_at IS NOT NULL HAVING min(due_at) IS NOT NULL)
        WHERE lane = :lane AND lease_token = :token
        """),
        {**mine, "not_before": not_before},
    )


async def failing(conn: AsyncConnection, *, failures: int, limit: int) -> list[LaneState]:
    """Lanes that failed so often in a row and still have something to deliver."""
    rows = await conn.execute(
        text("""
        SELECT lane, failures, error, due_at FROM message_lanes
        WHERE failures >= :failures AND due_at IS NOT NULL ORDER BY lane LIMIT :limit
        """),
        {"failures": failures, "limit": limit},
    )
    return await from_rows(LaneState, rows)


async def lanes(conn: AsyncConnection, names: Iterable[str]) -> dict[str, LaneState]:
    """How these lanes are doing, those that were ever used."""
    rows = await conn.execute(select(message_lanes).where(is_any(message_lanes.c.lane, names)))
    return {one.lane: one for one in await from_rows(LaneState, rows)}


async def find(conn: AsyncConnection, message_id: UUID) -> Message | None:
    rows = await from_rows(
        Message, await conn.execute(select(messages).where(messages.c.message_id == message_id).limit(1))
    )
    return rows[0] if rows else None


async def replay(conn: AsyncConnection, one: Message, *, now: datetime, give_up_at: datetime) -> bool:
    """Deliver a message again, whose delivery has ended. Returns whether it had."""
    done = await conn.execute(
        messages.update()
        .where(_is(one), messages.c.state != "due")
        .values(state="due", due_at=now, ended_at=None, attempts=0, give_up_at=give_up_at)
    )
    if not done.rowcount:
        return False
    await wake(conn, [one.lane], now=now, failing=True)
    return True


async def forget(conn: AsyncConnection, *, before: datetime, limit: int) -> int:
    """Delete messages whose delivery ended long ago, and lanes without any message."""
    done = await conn.execute(
        text("""
        DELETE FROM messages WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM messages WHERE ended_at IS NOT NULL AND ended_at < :before
            ORDER BY ended_at LIMIT :limit FOR UPDATE SKIP LOCKED))
        """),
        {"before": before, "limit": limit},
    )
    return done.rowcount


async def page(conn: AsyncConnection, which: Mapping[str, Any], *, before: UUID | None, limit: int) -> list[Message]:
    """A page of messages, newest first; `which` maps columns to the value that they must have."""
    query = select(messages).order_by(messages.c.message_id.desc()).limit(limit)
    for column, value in which.items():
        query = query.where(messages.c[column] == value)
    if before is not None:
        query = query.where(messages.c.message_id < before)
    return await from_rows(Message, await conn.execute(query))


def _is(one: Message) -> Any:
    key = (messages.c.submission_id, messages.c.target, messages.c.seq)
    return tuple_(*key) == tuple_(one.submission_id, one.target, one.seq)

"""The tables `events`, `event_queue` and `set_aside`: what was heard, what waits to be applied, what told us nothing."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy import and_, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.token import CreationRef
from service.storage.engine import driver
from service.storage.rows import from_rows, insert_many, maker
from service.storage.tables import event_queue, events, set_aside


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One row of `events`: a delivery as it came. `digest` is the SHA-256 of the body."""

    submission_id: UUID
    received_at: datetime
    event_id: UUID
    creation_no: int
    source: str = "callback"
    body: bytes
    headers: dict[str, str]
    peer: str | None
    digest: bytes

    @property
    def ref(self) -> CreationRef:
        return CreationRef(self.submission_id, self.creation_no)

    @property
    def key(self) -> tuple[UUID, datetime, UUID]:
        return self.submission_id, self.received_at, self.event_id


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """One row of `set_aside`: an event that told us nothing about a VM of ours."""

    submission_id: UUID
    received_at: datetime
    event_id: UUID
    kind: str  # unreadable, unknown_vm, poison
    reason: str
    provider_id: int | None = None
    at: datetime


# One statement, so that an event and its place in the queue are there together or not at all, and one round trip
# for a whole group. A repeated key is passed over: the spool may deliver a record twice after a crash.
_KEEP = """
WITH kept AS (
    INSERT INTO events (submission_id, received_at, event_id, creation_no, source, body, headers, peer, digest)
    SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::int[], $5::text[], $6::bytea[], $7::jsonb[],
                         $8::text[], $9::bytea[])
    ON CONFLICT DO NOTHING
    RETURNING submission_id, received_at, event_id, creation_no
)
INSERT INTO event_queue (submission_id, received_at, event_id, creation_no, due_at)
SELECT submission_id, received_at, event_id, creation_no, received_at FROM kept
"""


async def keep(conn: AsyncConnection, group: Sequence[Event]) -> None:
    """Keep events and queue them, in one statement. Keeping one again changes nothing."""
    await keep_alone(await driver(conn), group)


async def keep_alone(connection: "asyncpg.Connection[Any]", group: Sequence[Event]) -> None:
    """Keep events and queue them on a connection that is in no transaction: committed on return. See `Keeper`."""
    await connection.execute(_KEEP, *_columns(group))


def _columns(group: Sequence[Event]) -> tuple[Sequence[object], ...]:
    """Events as the arrays that the statements take."""
    return (
        [one.submission_id for one in group],
        [one.received_at for one in group],
        [one.event_id for one in group],
        [one.creation_no for one in group],
        [one.source for one in group],
        [one.body for one in group],
        [orjson.dumps(one.headers).decode() for one in group],
        [one.peer for one in group],
        [one.digest for one in group],
    )


def history_of(provider_id: int | None) -> str:
    """What stands as the peer of an entry of a VM's events history: where it was read."""
    return f"/core/virtual-machines/{provider_id}/events"


def vm_of_history(peer: str) -> int | None:
    """The provider's id of the VM whose events history `history_of` names."""
    found = re.fullmatch(r"/core/virtual-machines/([0-9]+)/events", peer)
    return int(found[1]) if found else None


_KEEP_HISTORY = """
INSERT INTO events (submission_id, received_at, event_id, creation_no, source, body, headers, peer, digest)
SELECT new.* FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::int[], $5::text[], $6::bytea[], $7::jsonb[],
                         $8::text[], $9::bytea[]) AS new(s, r, e, c, source, body, h, peer, d)
WHERE NOT EXISTS (SELECT FROM events AS old WHERE old.submission_id = new.s AND old.received_at >= $10
                  AND old.source = 'history' AND old.peer = new.peer AND old.digest = new.d)
"""


async def keep_history(conn: AsyncConnection, group: Sequence[Event], *, since: datetime) -> None:
    """Keep entries of an events history that are not kept yet. They are not queued: they are a story, not evidence.

    `since` is when the VM was asked for: no entry was kept before.
    """
    await (await driver(conn)).execute(_KEEP_HISTORY, *_columns(group), since)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """What applying needs of an event that waits for it, and how often it was tried."""

    submission_id: UUID
    received_at: datetime
    event_id: UUID
    creation_no: int
    body: bytes
    tries: int
    place: str  # where its row in the queue lies (`ctid`), for as long as this transaction has it locked

    @property
    def ref(self) -> CreationRef:
        return CreationRef(self.submission_id, self.creation_no)

    @property
    def key(self) -> tuple[UUID, datetime, UUID]:
        return self.submission_id, self.received_at, self.event_id


@dataclass(frozen=True, slots=True)
class Lane:
    """A part of the queue: one of `lanes`, a power of two. All events of a creation are in the same."""

    number: int = 0
    lanes: int = 1


_WHOLE = Lane()
_TAKE = """
WITH queued AS (
    SELECT submission_id, received_at, event_id, tries, ctid::text AS place FROM event_queue
    WHERE due_at <= $1 AND (uuid_hash(submission_id) # creation_no) & ($3::int - 1) = $4::int
    ORDER BY due_at, event_id LIMIT $2 FOR UPDATE SKIP LOCKED
)
SELECT events.submission_id, events.received_at, events.event_id, events.creation_no, events.body, tries, place
FROM queued JOIN events USING (submission_id, received_at, event_id)
ORDER BY events.received_at, events.event_id
"""
_queued_of = maker(Queued)


async def take_queued(conn: AsyncConnection, *, now: datetime, limit: int, lane: Lane = _WHOLE) -> list[Queued]:
    """Lock up to `limit` queued events for this transaction, in the order they came in; others skip them."""
    # Through SQLAlchemy, although it is a hot path: its first statement begins the transaction (see `driver`).
    rows = await conn.exec_driver_sql(_TAKE, (now, limit, lane.lanes, lane.number))
    return [_queued_of(row) for row in rows]


_PARK = """
UPDATE event_queue SET due_at = $4::timestamptz + least(greatest($4 - event_queue.received_at, '1 second'), $5) FROM
"""
#: The rows of the queue that belong to the events whose keys come as three arrays.
_THOSE = """
    unnest($1::uuid[], $2::timestamptz[], $3::uuid[]) AS those (submission_id, received_at, event_id)
WHERE event_queue.submission_id = those.submission_id AND event_queue.received_at = those.received_at
  AND event_queue.event_id = those.event_id
"""


async def dequeue(conn: AsyncConnection, applied: Sequence[Queued]) -> None:
    """Remove applied events, which this transaction took, from the queue. The events themselves stay."""
    places = [one.place for one in applied]
    await (await driver(conn)).execute("DELETE FROM event_queue WHERE ctid = ANY ($1::text[]::tid[])", places)


async def park(conn: AsyncConnection, waiting: Sequence[Queued], *, now: datetime, longest: timedelta) -> None:
    """Leave events in the queue that came before the creation they belong to was settled.

    Each waits again for as long as it has waited, from a second on: `wake` may have come a moment too early for it.
    """
    await _of_queue(conn, _PARK, waiting, now, longest)


async def count_failure(conn: AsyncConnection, failed: Sequence[Queued], *, until: datetime) -> None:
    """Leave events that could not be applied in the queue until `until`, and count the try."""
    await _of_queue(conn, "UPDATE event_queue SET due_at = $4, tries = tries + 1 FROM", failed, until)


async def _of_queue(conn: AsyncConnection, what: str, which: Sequence[Queued], *values: Any) -> None:
    if which:
        submission_ids, times, event_ids = zip(*(one.key for one in which), strict=True)
        await (await driver(conn)).execute(what + _THOSE, submission_ids, times, event_ids, *values)


async def wake(conn: AsyncConnection, ref: CreationRef, *, now: datetime) -> None:
    """Make the parked events of a creation due, now that its VMs are known."""
    await conn.execute(
        update(event_queue)
        .where(event_queue.c.submission_id == ref.submission_id, event_queue.c.creation_no == ref.creation_no)
        .where(event_queue.c.due_at > now)
        .values(due_at=now)
    )


async def queued_of(conn: AsyncConnection, refs: Iterable[CreationRef], *, limit: int) -> list[Event]:
    """The events of these creations that wait in the queue."""
    rows = await conn.execute(
        select(events)
        .join(
            event_queue,
            and_(
                events.c.submission_id == event_queue.c.submission_id,
                events.c.received_at == event_queue.c.received_at,
                events.c.event_id == event_queue.c.event_id,
            ),
        )
        .where(tuple_(event_queue.c.submission_id, event_queue.c.creation_no).in_(list(refs)))
        .order_by(events.c.received_at, events.c.event_id)
        .limit(limit)
    )
    return await from_rows(Event, rows)


async def put_aside(conn: AsyncConnection, which: Iterable[SetAside]) -> None:
    """Say of events that they told us nothing, and why."""
    await insert_many(conn, set_aside, which, or_ignore=True)


async def waiting(conn: AsyncConnection) -> tuple[int, datetime | None]:
    """How many events wait to be applied, and since when the oldest does."""
    row = (await conn.execute(select(func.count(), func.min(event_queue.c.received_at)))).one()
    return row[0], row[1]

"""The tables `events`, `inbox` and `dead_letters`."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from asyncpg.pgproto import pgproto
from msgspec import Struct
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.token import CreationRef
from service.storage.engine import driver
from service.storage.rows import insert_many, row_factory
from service.storage.tables import dead_letters, inbox


def driver_uuid(raw: bytes) -> UUID:
    """A UUID of 16 bytes as the driver makes them: it is made and sent at a fraction of the cost of Python's own."""
    made: UUID = pgproto.UUID(raw)
    return made


class Event(Struct, frozen=True):
    """One row of `events`, as received. `digest` is the SHA-256 of the body."""

    submission_id: UUID
    received_at: datetime
    event_id: UUID
    creation_no: int
    body: bytes
    headers: dict[str, str]
    peer: str | None
    digest: bytes
    source: str = "callback"

    @property
    def ref(self) -> CreationRef:
        return CreationRef(self.submission_id, self.creation_no)

    @property
    def key(self) -> tuple[UUID, datetime, UUID]:
        return self.submission_id, self.received_at, self.event_id


class DeadLetter(Struct, frozen=True):
    """One row of `dead_letters`: an event that could not be applied."""

    submission_id: UUID
    received_at: datetime
    event_id: UUID
    kind: str  # unreadable, unknown_vm, failed
    reason: str
    at: datetime
    provider_id: int | None = None


# One statement, so that an event is in both tables or in none, and a group costs one round trip. A repeated key is
# ignored: after a crash the spool may deliver an event twice.
_INSERT = """
WITH kept AS (
    INSERT INTO events (submission_id, received_at, event_id, creation_no, source, body, headers, peer, digest)
    SELECT new.s, new.r, new.e, new.c, new.source, new.body, new.h::jsonb, new.peer, new.d
    FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::int[], $5::text[], $6::bytea[], $7::text[],
                $8::text[], $9::bytea[]) AS new(s, r, e, c, source, body, h, peer, d)
    ON CONFLICT DO NOTHING
    RETURNING submission_id, received_at, event_id, creation_no
)
INSERT INTO inbox (submission_id, received_at, event_id, creation_no, due_at)
SELECT submission_id, received_at, event_id, creation_no, least(received_at, clock_timestamp()) FROM kept
"""


async def insert(conn: AsyncConnection, group: Sequence[Event]) -> None:
    """Store events and put them into the inbox, in one statement. Storing one again changes nothing."""
    await insert_autocommit(await driver(conn), group)


async def insert_autocommit(connection: "asyncpg.Connection[Any]", group: Sequence[Event]) -> None:
    """The same, committed on return, on a connection that is in no transaction. See `EventWriter`."""
    await connection.execute(_INSERT, *_columns(group))


def _columns(group: Sequence[Event]) -> tuple[Sequence[object], ...]:
    """Events as the arrays that the statements take."""
    # Text, not jsonb, for which the driver calls Python; and many events have the same headers, as one object.
    headers = {id(one.headers): one.headers for one in group}
    texts = {key: orjson.dumps(value).decode() for key, value in headers.items()}
    return (
        [one.submission_id for one in group],
        [one.received_at for one in group],
        [one.event_id for one in group],
        [one.creation_no for one in group],
        [one.source for one in group],
        [one.body for one in group],
        [texts[id(one.headers)] for one in group],
        [one.peer for one in group],
        [one.digest for one in group],
    )


def history_of(provider_id: int | None) -> str:
    """The `peer` of the entries of a VM's events history: the path that they were read from."""
    return f"/core/virtual-machines/{provider_id}/events"


def vm_of_history(peer: str) -> int | None:
    """The provider's id of the VM whose events history `history_of` names."""
    found = re.fullmatch(r"/core/virtual-machines/([0-9]+)/events", peer)
    return int(found[1]) if found else None


_INSERT_HISTORY = """
INSERT INTO events (submission_id, received_at, event_id, creation_no, source, body, headers, peer, digest)
SELECT new.s, new.r, new.e, new.c, new.source, new.body, new.h::jsonb, new.peer, new.d
FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::int[], $5::text[], $6::bytea[], $7::text[],
            $8::text[], $9::bytea[]) AS new(s, r, e, c, source, body, h, peer, d)
WHERE NOT EXISTS (SELECT FROM events AS old WHERE old.submission_id = new.s AND old.creation_no = new.c
                  AND old.received_at >= $10 AND old.source = 'history' AND old.peer = new.peer AND old.digest = new.d)
"""


async def insert_history(conn: AsyncConnection, group: Sequence[Event], *, since: datetime) -> None:
    """Store new entries of an events history. They do not go into the inbox, since they move no VM.

    `since` is when the VM was requested: no entry is older.
    """
    await (await driver(conn)).execute(_INSERT_HISTORY, *_columns(group), since)


class InboxEvent(Struct, frozen=True):
    """A waiting event, and how often applying it was tried."""

    submission_id: UUID
    received_at: datetime
    event_id: UUID
    creation_no: int
    body: bytes
    attempts: int
    place: str  # the `ctid` of its row in the inbox, valid while this transaction holds the lock

    @property
    def ref(self) -> CreationRef:
        return CreationRef(self.submission_id, self.creation_no)

    @property
    def key(self) -> tuple[UUID, datetime, UUID]:
        return self.submission_id, self.received_at, self.event_id


@dataclass(frozen=True, slots=True)
class Lane:
    """A part of the inbox: one of `lanes`, a power of two. All events of a creation are in the same one."""

    number: int = 0
    lanes: int = 1


_WHOLE = Lane()
_TAKE_DUE = """
WITH queued AS (
    SELECT submission_id, received_at, event_id, attempts, ctid::text AS place FROM inbox
    WHERE due_at <= $1 AND (uuid_hash(submission_id) # creation_no) & ($3::int - 1) = $4::int
    ORDER BY due_at, event_id LIMIT $2 FOR UPDATE SKIP LOCKED
)
SELECT events.submission_id, events.received_at, events.event_id, events.creation_no, events.body, attempts, place
FROM queued JOIN events USING (submission_id, received_at, event_id)
ORDER BY events.received_at, events.event_id
"""
_queued_of = row_factory(InboxEvent)


async def take_due(conn: AsyncConnection, *, now: datetime, limit: int, lane: Lane = _WHOLE) -> list[InboxEvent]:
    """Lock up to `limit` due events for this transaction, in the order of their arrival; others skip them."""
    # Through SQLAlchemy, since its first statement begins the transaction (see `driver`).
    rows = await conn.exec_driver_sql(_TAKE_DUE, (now, limit, lane.lanes, lane.number))
    return [_queued_of(row) for row in rows]


_DEFER = """
UPDATE inbox SET due_at = $4::timestamptz + least(greatest($4 - inbox.received_at, '1 second'), $5) FROM
"""
#: The rows of the inbox for events whose keys come as three arrays.
_THOSE = """
    unnest($1::uuid[], $2::timestamptz[], $3::uuid[]) AS those (submission_id, received_at, event_id)
WHERE inbox.submission_id = those.submission_id AND inbox.received_at = those.received_at
  AND inbox.event_id = those.event_id
"""


async def remove_from_inbox(conn: AsyncConnection, applied: Sequence[InboxEvent]) -> None:
    """Remove applied events, which this transaction took, from the inbox. The events themselves stay."""
    places = [one.place for one in applied]
    await (await driver(conn)).execute("DELETE FROM inbox WHERE ctid = ANY ($1::text[]::tid[])", places)


async def defer(conn: AsyncConnection, waiting: Sequence[InboxEvent], *, now: datetime, longest: timedelta) -> None:
    """Defer events that came before their creation was complete.

    Each waits again as long as it has waited, at least a second: `resume` may have run just before it came.
    """
    await _of_queue(conn, _DEFER, waiting, now, longest)


async def record_failure(conn: AsyncConnection, failed: Sequence[InboxEvent], *, until: datetime) -> None:
    """Defer events that could not be applied until `until`, and count the try."""
    await _of_queue(conn, "UPDATE inbox SET due_at = $4, attempts = attempts + 1 FROM", failed, until)


async def _of_queue(conn: AsyncConnection, what: str, which: Sequence[InboxEvent], *values: Any) -> None:
    if which:
        submission_ids, times, event_ids = zip(*(one.key for one in which), strict=True)
        await (await driver(conn)).execute(what + _THOSE, submission_ids, times, event_ids, *values)


async def resume(conn: AsyncConnection, ref: CreationRef, *, now: datetime) -> None:
    """Make the deferred events of a creation due, now that its VMs are known."""
    await conn.execute(
        update(inbox)
        .where(inbox.c.submission_id == ref.submission_id, inbox.c.creation_no == ref.creation_no)
        .where(inbox.c.due_at > now)
        .values(due_at=now)
    )


_INBOX_OF = """
SELECT events.submission_id, events.received_at, events.event_id, events.creation_no, events.body, attempts, place
FROM unnest($1::uuid[], $2::int[]) AS wanted (of_submission, of_creation)
CROSS JOIN LATERAL (
    SELECT submission_id, received_at, event_id, attempts, ctid::text AS place FROM inbox
    WHERE inbox.submission_id = wanted.of_submission AND inbox.creation_no = wanted.of_creation
    ORDER BY received_at, event_id LIMIT $3
) AS waiting
JOIN events USING (submission_id, received_at, event_id)
ORDER BY events.received_at, events.event_id
"""


async def inbox_of(conn: AsyncConnection, refs: Iterable[CreationRef], *, limit: int) -> list[InboxEvent]:
    """The events of these creations in the inbox, oldest first, at most `limit` of each creation."""
    wanted = list(refs)
    ids, numbers = [ref.submission_id for ref in wanted], [ref.creation_no for ref in wanted]
    rows = await conn.exec_driver_sql(_INBOX_OF, (ids, numbers, limit))
    return [_queued_of(row) for row in rows]


async def insert_dead_letters(conn: AsyncConnection, which: Iterable[DeadLetter]) -> None:
    """Insert dead letters."""
    await insert_many(conn, dead_letters, which, or_ignore=True)


_REQUEUE = """
WITH gone AS (
    DELETE FROM dead_letters USING events
    WHERE (dead_letters.submission_id, dead_letters.received_at, dead_letters.event_id) = ($1, $2, $3)
      AND (events.submission_id, events.received_at, events.event_id) = ($1, $2, $3)
    RETURNING events.submission_id, events.received_at, events.event_id, events.creation_no
)
INSERT INTO inbox (submission_id, received_at, event_id, creation_no, due_at) SELECT gone.*, $4 FROM gone
ON CONFLICT (submission_id, received_at, event_id) DO UPDATE SET due_at = excluded.due_at, attempts = 0
RETURNING event_id
"""


async def requeue_dead_letter(conn: AsyncConnection, key: tuple[UUID, datetime, UUID], *, now: datetime) -> bool:
    """Queue a dead letter again, as if it had just come. False if it is none, or if its body was dropped."""
    return bool(await (await driver(conn)).fetch(_REQUEUE, *key, now))


async def inbox_size(conn: AsyncConnection) -> tuple[int, datetime | None]:
    """How many events wait to be applied, and since when the oldest does."""
    row = (await conn.execute(select(func.count(), func.min(inbox.c.received_at)))).one()
    return row[0], row[1]

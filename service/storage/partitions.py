"""The monthly partitions of `events`: create coming months; find, detach, read and drop old ones.

The default partition stays: it holds events for which there was no month.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import MetaData, Table, exists, func, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage import seals, unsealed
from service.storage.events import Event
from service.storage.rows import from_rows
from service.storage.seals import DroppedMonth
from service.storage.tables import events, inbox

_NAME: Final = re.compile(r"events_p(\d{4})_(\d{2})")
#: How long callbacks may have to wait behind us while we wait for the table: less than until they go to the spool.
_PATIENCE: Final = "SET LOCAL lock_timeout = '1s'"

#: The advisory lock that readers of `apart` share, and whoever retires a month holds alone.
_READERS: Final = 0x6576656E7473  # "events"
_READ: Final = text(f"SELECT pg_advisory_xact_lock_shared({_READERS})")
_RETIRE: Final = text(f"SELECT pg_advisory_xact_lock({_READERS})")
#: Events that one statement counts.
_COUNTED: Final = 100_000


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A calendar month in UTC, and its first moment."""

    first: datetime

    @classmethod
    def of(cls, at: datetime) -> "Month":
        return cls(at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0))

    @property
    def following(self) -> "Month":
        return Month.of(self.first + timedelta(days=32))

    def back(self, months: int) -> "Month":
        """The month `months` before this one."""
        count = self.first.year * 12 + self.first.month - 1 - months
        return Month(datetime(count // 12, count % 12 + 1, 1, tzinfo=UTC))

    @property
    def table(self) -> str:
        """The table of its events, attached to `events` or not."""
        return f"events_p{self.first:%Y_%m}"

    def __str__(self) -> str:
        return f"{self.first:%Y-%m}"


async def make_partitions(conn: AsyncConnection, *, now: datetime, months: int = 3) -> None:
    """Create the partitions of this month and the next ones, if they are missing.

    If a month has events in the default partition (no daemon ran when it began), it gets no partition, and its events
    stay there. Raises `StorageUnavailable` if the table is too busy.
    """
    month = Month.of(now)
    for _ in range(months):
        name = month.table
        exists_ = (await conn.execute(text("SELECT to_regclass(:name)"), {"name": name})).scalar_one()
        taken = (
            await conn.execute(
                text("SELECT EXISTS (SELECT FROM events_pdefault WHERE received_at >= :a AND received_at < :b)"),
                {"a": month.first, "b": month.following.first},
            )
        ).scalar_one()
        if exists_ is None and not taken:
            # This waits for everybody who uses events, and everybody who comes later would wait behind it.
            await conn.execute(text(_PATIENCE))
            await _call(conn, "rollcall_create_partition(:first)", month)
        month = month.following


async def before(conn: AsyncConnection, month: Month) -> list[Month]:
    """The months before this one that have a table, attached or not, oldest first."""
    return [one for one in await known(conn) if one < month]


async def known(conn: AsyncConnection) -> list[Month]:
    """All months that have a table, attached or not, coming ones included, oldest first."""
    named = await conn.execute(
        text("SELECT relname FROM pg_class WHERE relname ~ '^events_p[0-9]{4}_[0-9]{2}$' AND pg_table_is_visible(oid)")
    )
    found = filter(None, (_NAME.fullmatch(name) for name in named.scalars()))
    return sorted(Month(datetime(int(one[1]), int(one[2]), 1, tzinfo=UTC)) for one in found)


async def take_out(conn: AsyncConnection, month: Month) -> bool:
    """Detach a month from `events`. Returns False if one of its events still waits in the inbox.

    Detaching it again changes nothing. Raises `StorageUnavailable` if the table is too busy.
    """
    # Not CONCURRENTLY, which works neither with a default partition nor in a transaction. So wait for the lock only
    # briefly; it is held for a moment. Writers go through the parent table, so the other months need no lock.
    await _begin_retiring(conn)
    await _call(conn, "rollcall_lock_partition(:first, false)", month)
    if await _waits(conn, month):
        return False
    # What is apart is not sealed any more, so all of it has to be: the lock holds new events back.
    if await is_part(conn, month) and await unsealed.any_unsealed(conn, "events", month.table):
        return False
    if await is_part(conn, month):
        await _call(conn, "rollcall_detach_partition(:first)", month)
    return True


async def read(
    conn: AsyncConnection, month: Month, *, after: tuple[UUID, datetime, UUID] | None, limit: int
) -> Sequence[Event]:
    """Events of a detached month, in the order of their keys, after this key."""
    table = _table(month)
    key = tuple_(table.c.submission_id, table.c.received_at, table.c.event_id)
    query = select(table).order_by(*key.clauses).limit(limit)
    rows = await conn.execute(query if after is None else query.where(key > after))
    return await from_rows(Event, rows)


async def drop(conn: AsyncConnection, month: Month, *, holding: int | None, dropped: DroppedMonth) -> bool:
    """Drop a detached month, and record `dropped`. Returns False, and drops nothing, if that is not safe.

    That is: if it is attached, if one of its events waits in the inbox, or if it does not hold exactly `holding` events
    (None: any number). Raises `StorageUnavailable` if somebody reads the months that are apart.
    """
    await _begin_retiring(conn)
    await _call(conn, "rollcall_lock_partition(:first, true)", month)
    if await is_part(conn, month) or await _waits(conn, month):
        return False
    if holding is not None and await count(conn, month) != holding:
        return False
    await _call(conn, "rollcall_drop_partition(:first)", month)
    await seals.note_dropped(conn, dropped)
    return True


async def _begin_retiring(conn: AsyncConnection) -> None:
    """Wait a moment for whoever reads months that are apart; later readers wait until the transaction ends."""
    await conn.execute(text(_PATIENCE))
    await conn.execute(_RETIRE)


async def count(conn: AsyncConnection, month: Month) -> int:
    """How many events a month's table holds. Counted in parts, since statements have a timeout."""
    table, total, after = _table(month), 0, None
    key = tuple_(table.c.submission_id, table.c.received_at, table.c.event_id)
    while True:
        some = select(*key.clauses).order_by(*key.clauses).limit(_COUNTED)
        part = (some if after is None else some.where(key > after)).subquery()
        ends = [part.c[column.name] for column in key.clauses]
        last = select(*ends).order_by(*(column.desc() for column in ends)).limit(1)
        number = (await conn.execute(select(func.count()).select_from(part))).scalar_one()
        total += number
        if number < _COUNTED:
            return total
        after = tuple((await conn.execute(last)).one())


async def _waits(conn: AsyncConnection, month: Month) -> bool:
    of_it = (inbox.c.received_at >= month.first) & (inbox.c.received_at < month.following.first)
    return bool((await conn.execute(select(exists().where(of_it)))).scalar_one())


async def apart(conn: AsyncConnection) -> list[str]:
    """The tables of months that were taken out of `events` and are not dropped yet. They stay so until the transaction ends."""
    await conn.execute(_READ)  # else a month could be in neither when the caller reads
    return [month.table for month in await known(conn) if not await is_part(conn, month)]


async def is_part(conn: AsyncConnection, month: Month) -> bool:
    """Whether a month's table is attached to `events`."""
    found = await conn.execute(
        text("SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(:name))"), {"name": month.table}
    )
    return bool(found.scalar_one())


async def _call(conn: AsyncConnection, function: str, month: Month) -> None:
    """Call a function of the migrations, which runs as who owns the tables: our role may be without DDL."""
    await conn.execute(text(f"SELECT {function}"), {"first": month.first.date()})


def _table(month: Month) -> Table:
    return events.to_metadata(MetaData(), name=month.table)

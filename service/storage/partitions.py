"""Months of `events`: those that come are made; those that are over are found, taken out, read to their end, dropped.

No files. The default partition is left alone: what is in it fitted no month of its own.
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
#: How long callbacks may have to wait for us, since everybody waits behind who waits for the whole table. Less than it
#: takes until they go to the spool.
_PATIENCE: Final = "SET LOCAL lock_timeout = '1s'"


#: Events that one statement counts.
_COUNTED: Final = 100_000


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A calendar month in UTC, by its first moment."""

    first: datetime

    @classmethod
    def of(cls, at: datetime) -> "Month":
        return cls(at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0))

    @property
    def following(self) -> "Month":
        return Month.of(self.first + timedelta(days=32))

    def back(self, months: int) -> "Month":
        """The month so many months ago."""
        count = self.first.year * 12 + self.first.month - 1 - months
        return Month(datetime(count // 12, count % 12 + 1, 1, tzinfo=UTC))

    @property
    def table(self) -> str:
        """The table that holds its events, in or out of `events`."""
        return f"events_p{self.first:%Y_%m}"

    def __str__(self) -> str:
        return f"{self.first:%Y-%m}"


async def make_partitions(conn: AsyncConnection, *, now: datetime, months: int = 3) -> None:
    """Make the partitions of this month and the next ones, where they are missing.

    A month whose events lie in the default partition already (the daemon was away when it began) cannot have one
    of its own any more; they stay where they are. Raises `StorageUnavailable` where the table is too busy for it.
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
            bounds = f"FROM ('{month.first:%Y-%m-%d}T00:00:00Z') TO ('{month.following.first:%Y-%m-%d}T00:00:00Z')"
            # It waits for whoever reads or writes events, and all who come meanwhile would wait behind it.
            await conn.execute(text(_PATIENCE))
            await conn.execute(text(f"CREATE TABLE {name} PARTITION OF events FOR VALUES {bounds}"))
            # Row triggers come with a partition; the one against TRUNCATE does not.
            await conn.execute(
                text(
                    f"CREATE TRIGGER {name}_no_truncate BEFORE TRUNCATE ON {name} "
                    "FOR EACH STATEMENT EXECUTE FUNCTION rollcall_append_only()"
                )
            )
        month = month.following


async def before(conn: AsyncConnection, month: Month) -> list[Month]:
    """The months before this one that have a table of their own, oldest first; also those that were taken out."""
    return [one for one in await known(conn) if one < month]


async def known(conn: AsyncConnection) -> list[Month]:
    """All months that have a table of their own, oldest first; also those that were taken out, and those to come."""
    named = await conn.execute(
        text("SELECT relname FROM pg_class WHERE relname ~ '^events_p[0-9]{4}_[0-9]{2}$' AND pg_table_is_visible(oid)")
    )
    found = filter(None, (_NAME.fullmatch(name) for name in named.scalars()))
    return sorted(Month(datetime(int(one[1]), int(one[2]), 1, tzinfo=UTC)) for one in found)


async def take_out(conn: AsyncConnection, month: Month) -> bool:
    """Make a month's table one of its own, apart from `events`. False where an event of it waits to be applied.

    Doing it again changes nothing. Raises `StorageUnavailable` where the table is too busy for it.
    """
    # Not CONCURRENTLY: that cannot be done beside a default partition, nor in a transaction. So the lock is waited for
    # briefly, and held for the moment of a change in the catalogue. Whoever writes comes by the whole table, so the
    # other months need no lock.
    await conn.execute(text(_PATIENCE))
    await conn.execute(text("LOCK TABLE ONLY events IN ACCESS EXCLUSIVE MODE"))
    if await _waits(conn, month):
        return False
    # What is apart is not sealed any more, so all of it has to be: the lock holds new events back.
    if await is_part(conn, month) and await unsealed.any_unsealed(conn, "events", month.table):
        return False
    if await is_part(conn, month):
        await conn.execute(text(f"ALTER TABLE events DETACH PARTITION {month.table}"))
        # The row trigger was the whole table's, and stayed with it.
        await conn.execute(
            text(
                f"CREATE TRIGGER {month.table}_append_only BEFORE UPDATE OR DELETE ON {month.table} "
                "FOR EACH ROW EXECUTE FUNCTION rollcall_append_only()"
            )
        )
    return True


async def read(
    conn: AsyncConnection, month: Month, *, after: tuple[UUID, datetime, UUID] | None, limit: int
) -> Sequence[Event]:
    """The events of a month that was taken out, by key, after the one with this key."""
    table = _table(month)
    key = tuple_(table.c.submission_id, table.c.received_at, table.c.event_id)
    query = select(table).order_by(*key.clauses).limit(limit)
    rows = await conn.execute(query if after is None else query.where(key > after))
    return await from_rows(Event, rows)


async def drop(conn: AsyncConnection, month: Month, *, holding: int | None, dropped: DroppedMonth) -> bool:
    """Drop a month that was taken out, and put `dropped` on record. False, and nothing is dropped, where it is not what it was taken for.

    That is: where it is a part of `events`, where an event of it waits to be applied, or where it does not hold exactly
    so many events as are known to be elsewhere (`holding`; None where nobody wants them).
    """
    await conn.execute(text(_PATIENCE))
    await conn.execute(text(f"LOCK TABLE {month.table} IN ACCESS EXCLUSIVE MODE"))
    if await is_part(conn, month) or await _waits(conn, month):
        return False
    if holding is not None and await count(conn, month) != holding:
        return False
    await conn.execute(text(f"DROP TABLE {month.table}"))
    await seals.note_dropped(conn, dropped)
    return True


async def count(conn: AsyncConnection, month: Month) -> int:
    """How many events a month's table holds. Counted in parts, since a statement may take only so long."""
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
    """The tables of months that were taken out of `events` and are not dropped yet."""
    return [month.table for month in await known(conn) if not await is_part(conn, month)]


async def is_part(conn: AsyncConnection, month: Month) -> bool:
    """Whether a month's table is a partition of `events`, and was not taken out."""
    found = await conn.execute(
        text("SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(:name))"), {"name": month.table}
    )
    return bool(found.scalar_one())


def _table(month: Month) -> Table:
    return events.to_metadata(MetaData(), name=month.table)

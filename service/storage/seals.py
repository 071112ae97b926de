"""The tables of the log that the record is sealed into, and the rows that are not sealed yet."""

import zlib
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from msgspec import Struct
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage import leaf_sql
from service.storage.arrays import are_any
from service.storage.engine import driver
from service.storage.rows import columns_of, from_rows, insert_many, row_factory
from service.storage.tables import checkpoints, dropped_months, log_keys, log_tiles, logs, seals


class XactSnapshot(NamedTuple):
    """What a transaction could see, as Postgres's `pg_snapshot`: everything before `xmax` but what was in progress."""

    xmin: int
    xmax: int
    in_progress: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> "XactSnapshot":
        xmin, xmax, listed = text.split(":")
        return cls(int(xmin), int(xmax), tuple(map(int, filter(None, listed.split(",")))))

    def shows(self, xact_id: int) -> bool:
        """Whether what this transaction wrote was committed."""
        return xact_id < self.xmax and xact_id not in self.in_progress

    def covers(self, other: "XactSnapshot") -> bool:
        """Whether it shows everything that the other shows."""
        return self.xmax >= other.xmax and not any(map(other.shows, self.in_progress))

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.in_progress))}"


class Log(Struct, frozen=True):
    """One row of `logs`: a log, and how far its sealing has come."""

    log_id: UUID
    origin: str
    begun_at: datetime
    reason: str
    size: int = 0
    server: str | None = None
    snapshot: str | None = None
    pass_snapshot: str | None = None
    pass_size: int | None = None
    pass_table: str | None = None
    pass_after: list[Any] | None = None  # transaction and key

    @property
    def sealed(self) -> XactSnapshot | None:
        return XactSnapshot.parse(self.snapshot) if self.snapshot else None


class Seal(Struct, frozen=True):
    """One row of `seals`: rows of one table that were sealed together. `row_keys` is zlib of a line of JSON for each."""

    log_id: UUID
    first_leaf: int
    rows: int
    table_name: str
    row_keys: bytes
    first_xact: int
    last_xact: int
    sealed_at: datetime

    @property
    def key_lines(self) -> list[str]:
        return unpacked(self.row_keys).split("\n")


class StoredCheckpoint(Struct, frozen=True):
    """One row of `checkpoints`."""

    log_id: UUID
    size: int
    note: str
    signed_at: datetime
    published_at: datetime | None = None


class LogKey(Struct, frozen=True):
    """One row of `log_keys`."""

    log_id: UUID
    verifier_key: str
    added_at: datetime


class DroppedMonth(Struct, frozen=True):
    """One row of `dropped_months`: a month of events that retention dropped, and the file that it was written to."""

    month: datetime
    dropped_at: datetime
    events: int | None = None
    file: str | None = None
    sha256: str | None = None


def packed(keys: Sequence[str]) -> bytes:
    return zlib.compress("\n".join(keys).encode(), 1)


def unpacked(keys: bytes) -> str:
    return zlib.decompress(keys).decode()


async def newest(conn: AsyncConnection, *, lock: bool = False) -> Log | None:
    """The log that is sealed into now."""
    query = select(logs).order_by(logs.c.begun_at.desc(), logs.c.log_id.desc()).limit(1)
    found = await from_rows(Log, await conn.execute(query.with_for_update() if lock else query))
    return found[0] if found else None


async def all_logs(conn: AsyncConnection) -> list[Log]:
    """Every log, oldest first."""
    return await from_rows(Log, await conn.execute(select(logs).order_by(logs.c.begun_at, logs.c.log_id)))


async def begin_log(conn: AsyncConnection, log: Log) -> None:
    await insert_many(conn, logs, [log])


async def save_log(conn: AsyncConnection, log: Log, *, from_size: int) -> bool:
    """Write how far a log has come; whether it had `from_size` leaves until now."""
    done = await conn.execute(
        update(logs)
        .where(logs.c.log_id == log.log_id, logs.c.size == from_size)
        .values(
            size=log.size,
            server=log.server,
            snapshot=log.snapshot,
            pass_snapshot=log.pass_snapshot,
            pass_size=log.pass_size,
            pass_table=log.pass_table,
            pass_after=log.pass_after,
        )
    )
    return done.rowcount > 0


async def insert_seal(conn: AsyncConnection, seal: Seal) -> None:
    await insert_many(conn, seals, [seal])


async def read_seals(
    conn: AsyncConnection, log_id: UUID, *, after: int, below: int, limit: int, table: str | None = None
) -> list[Seal]:
    """Seals in the order of their leaves, behind the one that begins at `after`."""
    query = (
        select(seals)
        .where(seals.c.log_id == log_id, seals.c.first_leaf > after, seals.c.first_leaf < below)
        .order_by(seals.c.first_leaf)
        .limit(limit)
    )
    return await from_rows(
        Seal, await conn.execute(query if table is None else query.where(seals.c.table_name == table))
    )


async def seals_with(conn: AsyncConnection, log_id: UUID, table: str, xact_id: int, *, below: int) -> list[Seal]:
    """The seals that rows of this transaction may be in."""
    query = select(seals).where(
        seals.c.log_id == log_id,
        seals.c.table_name == table,
        seals.c.last_xact >= xact_id,
        seals.c.first_xact <= xact_id,
        seals.c.first_leaf < below,
    )
    return await from_rows(Seal, await conn.execute(query))


async def read_tiles(
    conn: AsyncConnection, log_id: UUID, tiles: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], bytes]:
    """The hashes of tiles by level and number; those that are not there are left out."""
    wanted = list(tiles)
    query = select(log_tiles.c.level, log_tiles.c.tile_no, log_tiles.c.hashes).where(
        log_tiles.c.log_id == log_id, are_any((log_tiles.c.level, log_tiles.c.tile_no), wanted)
    )
    return {(level, number): hashes for level, number, hashes in await conn.execute(query)} if wanted else {}


async def write_tiles(conn: AsyncConnection, log_id: UUID, tiles: Iterable[tuple[tuple[int, int], bytes]]) -> None:
    new = upsert(log_tiles)
    statement = new.on_conflict_do_update(constraint="log_tiles_pkey", set_={"hashes": new.excluded.hashes})
    rows = [{"log_id": log_id, "level": level, "tile_no": no, "hashes": one} for (level, no), one in tiles]
    await conn.execute(statement, rows)


async def insert_checkpoint(conn: AsyncConnection, checkpoint: StoredCheckpoint) -> None:
    await insert_many(conn, checkpoints, [checkpoint])


async def read_checkpoints(conn: AsyncConnection, log_id: UUID) -> list[StoredCheckpoint]:
    """Every checkpoint of a log, the smallest tree first."""
    query = select(checkpoints).where(checkpoints.c.log_id == log_id).order_by(checkpoints.c.size)
    return await from_rows(StoredCheckpoint, await conn.execute(query))


async def latest_checkpoint(conn: AsyncConnection, log_id: UUID) -> StoredCheckpoint | None:
    query = select(checkpoints).where(checkpoints.c.log_id == log_id).order_by(checkpoints.c.size.desc()).limit(1)
    found = await from_rows(StoredCheckpoint, await conn.execute(query))
    return found[0] if found else None


async def unpublished(conn: AsyncConnection, log_id: UUID, *, limit: int) -> list[StoredCheckpoint]:
    """Checkpoints that were not published yet, the smallest tree first."""
    query = (
        select(checkpoints)
        .where(checkpoints.c.log_id == log_id, checkpoints.c.published_at.is_(None))
        .order_by(checkpoints.c.size)
        .limit(limit)
    )
    return await from_rows(StoredCheckpoint, await conn.execute(query))


async def mark_published(conn: AsyncConnection, checkpoint: StoredCheckpoint, *, now: datetime) -> None:
    await conn.execute(
        update(checkpoints)
        .where(checkpoints.c.log_id == checkpoint.log_id, checkpoints.c.size == checkpoint.size)
        .values(published_at=now)
    )


async def keys_of(conn: AsyncConnection, log_id: UUID) -> list[str]:
    """The verifier keys that a log was signed with, oldest first."""
    query = select(log_keys.c.verifier_key).where(log_keys.c.log_id == log_id).order_by(log_keys.c.added_at)
    return list((await conn.execute(query)).scalars())


async def add_key(conn: AsyncConnection, key: LogKey) -> None:
    await insert_many(conn, log_keys, [key], or_ignore=True)


async def by_transaction(conn: AsyncConnection, log_id: UUID, table: str, *, below: int) -> AsyncIterator[Seal]:
    """The seals of a table by their first transactions."""
    query = (
        select(seals)
        .where(seals.c.log_id == log_id, seals.c.table_name == table, seals.c.first_leaf < below)
        .order_by(seals.c.first_xact, seals.c.first_leaf)
    )
    make = row_factory(Seal)
    async with conn.stream(query) as rows:
        async for row in rows.columns(*columns_of(Seal)):
            yield make(row)


async def existing(conn: AsyncConnection, table: str, keys: Iterable[str]) -> set[str]:
    """Which of these keys have a row."""
    sql = leaf_sql.of(table)
    statement = f"""
        SELECT given.key FROM unnest($1::text[]) AS given (key)
        WHERE EXISTS (SELECT FROM {table} WHERE ({", ".join(sql.key)}) = ({sql.key_values("given.key")}))
    """  # noqa: S608  our own names
    return {row[0] for row in await (await driver(conn)).fetch(statement, list(keys))}


async def dropped_months_of(conn: AsyncConnection) -> list[DroppedMonth]:
    return await from_rows(
        DroppedMonth, await conn.execute(select(dropped_months).order_by(dropped_months.c.dropped_at))
    )


async def note_dropped(conn: AsyncConnection, month: DroppedMonth) -> None:
    """Put on record that a month of events was dropped, in the transaction that drops it."""
    await insert_many(conn, dropped_months, [month])

"""The tables of the log that the record is sealed into, and the rows that are not sealed yet."""

import zlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from msgspec import Struct
from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage import leaf_sql
from service.storage.arrays import are_any
from service.storage.engine import driver
from service.storage.rows import from_rows, insert_many
from service.storage.tables import checkpoints, log_keys, log_tiles, logs, seals

#: A transaction that no row of ours is younger than.
_FIRST_XACT: Final = 0


class Snapshot(NamedTuple):
    """What a transaction could see, as Postgres's `pg_snapshot`: everything before `xmax` but what was in progress."""

    xmin: int
    xmax: int
    in_progress: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        xmin, xmax, listed = text.split(":")
        return cls(int(xmin), int(xmax), tuple(map(int, filter(None, listed.split(",")))))

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.in_progress))}"


class Log(Struct, frozen=True):
    """One row of `logs`: a log, and how far its sealing has come."""

    log_id: UUID
    origin: str
    begun_at: datetime
    reason: str
    size: int = 0
    snapshot: str | None = None
    pass_snapshot: str | None = None
    pass_size: int | None = None
    pass_table: str | None = None
    pass_after: list[Any] | None = None  # transaction and key

    @property
    def sealed(self) -> Snapshot | None:
        return Snapshot.parse(self.snapshot) if self.snapshot else None


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


class Unsealed(NamedTuple):
    """A row that may not be sealed yet: the transaction that recorded it, its key as text, and the hash of its leaf."""

    xact_id: int
    key: str
    hash: bytes


def packed(keys: Sequence[str]) -> bytes:
    return zlib.compress("\n".join(keys).encode(), 1)


def unpacked(keys: bytes) -> str:
    return zlib.decompress(keys).decode()


async def snapshot(conn: AsyncConnection) -> Snapshot:
    """What is committed now."""
    return Snapshot.parse((await conn.execute(text("SELECT pg_current_snapshot()::text"))).scalar_one())


async def unsealed(
    conn: AsyncConnection,
    table: str,
    *,
    sealed: Snapshot | None,
    until: Snapshot | None,
    after: Sequence[Any] | None,
    limit: int,
    relation: str | None = None,
) -> list[Unsealed]:
    """Rows that `sealed` does not show, by transaction and key, behind `after`; of transactions that `until` may show.

    A row that was committed since `until` is perhaps among them. `relation` is the table to read if it has another name.
    """
    connection = await driver(conn)
    sql = leaf_sql.of(table)
    since = sealed or Snapshot(_FIRST_XACT, _FIRST_XACT, ())
    bounds = [since.xmin, since.xmax, list(since.in_progress), until.xmax if until else 2**62]
    which = "xact_id >= $1 AND (xact_id >= $2 OR xact_id = ANY ($3::bigint[])) AND xact_id < $4"
    start = f"SELECT xact_id, {sql.key_text}, {sql.hash} FROM {relation or table} WHERE {which}"  # noqa: S608  our own names
    order = f"ORDER BY {', '.join(sql.key)}"
    found: list[Any] = []
    beyond = -1
    if after is not None:
        # Within one transaction by its key's index, which a transaction of millions of rows needs.
        beyond, key = after
        rest = f"AND xact_id = $5 AND ({', '.join(sql.key)}) > ({sql.key_values('$6')}) {order} LIMIT $7"
        found = await connection.fetch(f"{start} {rest}", *bounds, beyond, key, limit)
    if len(found) < limit:
        rest = f"AND xact_id > $5 ORDER BY xact_id, {', '.join(sql.key)} LIMIT $6"
        found += await connection.fetch(f"{start} {rest}", *bounds, beyond, limit - len(found))
    return [Unsealed(*row) for row in found]


async def sealed_keys(
    conn: AsyncConnection, log: Log, table: str, rows: Sequence[Unsealed], *, before: int | None = None
) -> set[str]:
    """Which of these rows are sealed in the log, by leaves below `before`."""
    low, high = min(row.xact_id for row in rows), max(row.xact_id for row in rows)
    query = select(seals.c.row_keys).where(
        seals.c.log_id == log.log_id,
        seals.c.table_name == table,
        seals.c.last_xact >= low,
        seals.c.first_xact <= high,
        seals.c.first_leaf < (log.size if before is None else before),
    )
    wanted = {row.key for row in rows}
    found: set[str] = set()
    for keys in (await conn.execute(query)).scalars():
        found |= wanted.intersection(unpacked(keys).split("\n"))
    return found


async def any_unsealed(conn: AsyncConnection, table: str, relation: str) -> bool:
    """Whether a row of `relation`, which is a part of `table`, is not sealed in the newest log. False without a log."""
    log = await newest(conn)
    if log is None:
        return False
    after = None
    while found := await unsealed(
        conn, table, sealed=log.sealed, until=None, after=after, limit=10_000, relation=relation
    ):
        if len(await sealed_keys(conn, log, table, found)) < len(found):
            return True
        after = [found[-1].xact_id, found[-1].key]
    return False


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

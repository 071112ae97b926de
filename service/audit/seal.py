"""Seals the record: what was appended goes into a Merkle tree, and the tree is signed.

A pass goes through the append-only tables and takes the rows that the pass before could not see. Each page of rows is one
transaction, which also writes where the pass is: a pass that was broken off is continued by whoever seals next.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import pairwise
from typing import Final

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from service.audit import keys, merkle, publish
from service.audit.leaf import log_leaf, seal_leaf
from service.audit.note import Checkpoint, Note, Signer
from service.errors import LeaseLost, SealingStopped
from service.runtime.runtime import Runtime
from service.storage import seals, unsealed
from service.storage.engine import begin, transact
from service.storage.leaf_sql import SEALED
from service.storage.seals import Log, Seal, StoredCheckpoint, XactSnapshot
from service.storage.unsealed import Unsealed

#: Rows of a page: few enough that neither a callback nor another daemon waits for it.
PAGE: Final = 300
#: The issue that is open from `SealingStopped` on.
STOPPED: Final = "sealing stopped"

#: Extends the lease; raises `LeaseLost` if it is lost.
Extend = Callable[[], Awaitable[None]]


async def seal(rt: Runtime, extend: Extend) -> int:
    """Seal everything that is committed now, and sign it; how many rows were.

    Raises `SealingStopped` if a person has to decide first, and `LeaseLost` if another daemon seals too.
    """
    log = await _current(rt)
    signers = await transact(rt.engine, lambda conn: keys.admit(conn, rt, log))
    log = await transact(rt.engine, lambda conn: _begin_pass(conn, log))
    rows, signed_at = 0, rt.clock.now()
    while log.pass_table is not None:
        await extend()
        now = rt.clock.now()
        before = log
        log, done = await transact(rt.engine, lambda conn: _page(conn, before, rt))  # noqa: B023  runs at once
        rows += done
        if now - signed_at > timedelta(seconds=rt.settings.seal_interval_seconds):
            await sign(rt, log, signers)
            signed_at = now
    await sign(rt, log, signers)
    return rows


async def begin_log(rt: Runtime, *, reason: str) -> Log:
    """Begin a log, which everything on record is sealed into anew."""
    log_id, now = rt.uuid(), rt.clock.now()
    log = Log(log_id=log_id, origin=f"{rt.settings.origin}/{log_id}", begun_at=now, reason=reason, size=1)
    leaf = log_leaf(log_id=log_id, origin=log.origin, begun_at=now, reason=reason)

    async def write(conn: AsyncConnection) -> None:
        await seals.begin_log(conn, log)
        await seals.write_tiles(conn, log_id, merkle.grown(0, {}, [merkle.leaf_hash(leaf)]).items())
        await keys.admit(conn, rt, log)

    await transact(rt.engine, write)
    return log


async def root_at(conn: AsyncConnection, log: Log, size: int) -> bytes:
    """The root that the log's tiles have at a size. Raises `SealingStopped` if a tile is not there."""
    needed = merkle.tiles_needed([(0, size)])
    tiles = await seals.read_tiles(conn, log.log_id, needed)
    if not tiles.keys() >= needed or any(len(tiles[part.tile]) < (part.first + part.length) * merkle.SIZE
                                    for part in merkle.subtrees(0, size)):  # fmt: skip
        raise SealingStopped(f"hashes of the log {log.log_id} are missing below leaf {size}")
    return merkle.root_in(tiles, 0, size)


async def sign(rt: Runtime, log: Log, signers: list[Signer]) -> None:
    """Sign the log as it is, if it has grown. Raises `SealingStopped` if it contradicts what was signed before."""

    async def write(conn: AsyncConnection) -> None:
        if await seals.newest(conn, lock=True) != log:
            raise LeaseLost("the log")
        latest = await seals.latest_checkpoint(conn, log.log_id)
        if latest is not None:
            await _check_consistent(conn, log, Note.parse(latest.note).checkpoint, "signed")
            if latest.size == log.size:
                return
        checkpoint = Checkpoint(log.origin, log.size, await root_at(conn, log, log.size))
        stored = StoredCheckpoint(log.log_id, log.size, checkpoint.signed(signers), rt.clock.now())
        await seals.insert_checkpoint(conn, stored)

    await transact(rt.engine, write)


async def _current(rt: Runtime) -> Log:
    """The log to seal into; the first one is begun. Raises `SealingStopped` if the record is behind what was published."""
    async with begin(rt.engine) as conn:
        logs = await seals.all_logs(conn)
        log = await seals.newest(conn)
        for one in publish.latest(rt.settings):
            checkpoint = one.parsed.checkpoint
            if log is not None and checkpoint.origin == log.origin:
                await _check_consistent(conn, log, checkpoint, f"published to {one.path}")
            elif checkpoint.origin not in {known.origin for known in logs} and (
                log is None or one.written_at > log.begun_at
            ):
                raise SealingStopped(
                    f"a checkpoint of {checkpoint.origin} was published to {one.path}, and the database does not know that "
                    f"log: was it restored? Run `rollcall audit new-log --reason TEXT` if this is the database to go on with"
                )
    return log or await begin_log(rt, reason="the first log of this record")


async def _check_consistent(conn: AsyncConnection, log: Log, checkpoint: Checkpoint, what: str) -> None:
    if checkpoint.size > log.size:
        raise SealingStopped(
            f"a checkpoint of {checkpoint.size} leaves was {what}, and the log has {log.size}: was the database restored? "
            "Run `rollcall audit verify`, then `rollcall audit new-log --reason TEXT`"
        )
    if checkpoint.origin != log.origin or await root_at(conn, log, checkpoint.size) != checkpoint.root:
        raise SealingStopped(
            f"the log's hashes are not those of the checkpoint of {checkpoint.size} leaves that was {what}: "
            "run `rollcall audit verify`"
        )


async def _begin_pass(conn: AsyncConnection, log: Log) -> Log:
    """Begin a pass, or continue the one that was broken off."""
    if await seals.newest(conn, lock=True) != log:
        raise LeaseLost("the log")
    if log.pass_table is not None:
        return log
    now, server = await unsealed.snapshot(conn), await unsealed.server_identifier(conn)
    # Another server, such as one that a dump was restored into, counts transactions from the beginning: look at every row.
    sealed = log.sealed if server == log.server else None
    begun = replace(
        log,
        server=server,
        snapshot=str(sealed) if sealed else None,
        pass_snapshot=str(now),
        pass_size=log.size,
        pass_table=SEALED[0],
        pass_after=None,
    )
    await seals.save_log(conn, begun, from_size=log.size)
    return begun


async def _page(conn: AsyncConnection, log: Log, rt: Runtime) -> tuple[Log, int]:
    """Seal the next rows; the log as it is then, and how many they were. Without any left, the pass is over."""
    if await seals.newest(conn, lock=True) != log:
        raise LeaseLost("the log")
    moved, rows = log, 0
    while moved.pass_table is not None and not rows:
        found = await _unsealed(conn, moved, moved.pass_table)
        known = await unsealed.sealed_keys(conn, log, moved.pass_table, found, before=log.pass_size) if found else set()
        new = [row for row in found if row.key not in known]
        rows = len(new)
        if new:
            moved = await _append(conn, moved, moved.pass_table, new, rt)
        moved = _behind(moved, found)
    await seals.save_log(conn, moved, from_size=log.size)
    return moved, rows


async def _unsealed(conn: AsyncConnection, log: Log, table: str) -> list[Unsealed]:
    # The first pass of a log has no end: a row of another server's transactions may claim one that is still to come.
    until = XactSnapshot.parse(log.pass_snapshot) if log.pass_snapshot and log.snapshot else None
    return await unsealed.find_unsealed(conn, table, sealed=log.sealed, until=until, after=log.pass_after, limit=PAGE)


async def _append(conn: AsyncConnection, log: Log, table: str, rows: list[Unsealed], rt: Runtime) -> Log:
    """Put rows into the tree, and behind them the leaf that says which they are and when that was."""
    lines = [row.key for row in rows]
    one = Seal(
        log_id=log.log_id,
        first_leaf=log.size,
        rows=len(rows),
        table_name=table,
        row_keys=seals.packed(lines),
        first_xact=rows[0].xact_id,
        last_xact=rows[-1].xact_id,
        sealed_at=rt.clock.now(),
    )
    await seals.insert_seal(conn, one)
    last = await seals.read_tiles(conn, log.log_id, merkle.last_tiles(log.size))
    written = merkle.grown(log.size, last, [*(row.hash for row in rows), merkle.leaf_hash(seal_leaf(one))])
    await seals.write_tiles(conn, log.log_id, written.items())
    return replace(log, size=log.size + len(rows) + 1)


def _behind(log: Log, found: list[Unsealed]) -> Log:
    """The log with its pass moved behind these rows."""
    if len(found) == PAGE:
        return replace(log, pass_after=[found[-1].xact_id, found[-1].key])
    tables = dict(pairwise(SEALED))
    table = tables.get(log.pass_table or "")
    if table is not None:
        return replace(log, pass_table=table, pass_after=None)
    return replace(
        log, snapshot=log.pass_snapshot, pass_snapshot=None, pass_size=None, pass_table=None, pass_after=None
    )

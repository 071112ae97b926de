"""The record and its log as verification reads them from a database. An export gives the same (`SealedRecord`, verify.py)."""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, NamedTuple, Self
from uuid import UUID

from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine

from service.audit.leaf import Raw, key_of, leaf_of
from service.audit.merkle import TileId, Tiles, leaf_hash
from service.errors import Unstorable
from service.storage import leaf_sql, partitions, seals, unsealed
from service.storage.engine import begin, cursor, transact
from service.storage.leaf_sql import LEFT_OUT, TIMES
from service.storage.seals import DroppedMonth, Log, Seal, StoredCheckpoint, XactSnapshot
from service.storage.tables import metadata

_AT_ONCE: Final = 1000


class Row(NamedTuple):
    """A row of the record: its transaction, its key, the hash of its leaf, and when it says that it came to be."""

    xact_id: int
    key: str
    hash: bytes
    at: datetime


class LiveRecord:
    """A database. Each question is a transaction of its own, but those that stream."""

    def __init__(self, engine: AsyncEngine, log: Log, server: str, stored: Sequence[StoredCheckpoint]) -> None:
        self._engine = engine
        self._stored = stored
        self.log = log
        # Another server counts transactions anew: nothing follows from a number until the sealer has looked at every row.
        self.sealed: XactSnapshot | None = None
        with suppress(ValueError):
            self.sealed = log.sealed if server == log.server else None

    @classmethod
    async def read(cls, engine: AsyncEngine, log_id: UUID) -> Self:
        """The record and this log, which others may be sealing into. Read what was published before."""
        async with begin(engine) as conn:
            stored = await seals.read_checkpoints(conn, log_id)
            # Read after what was signed of it: the log is never behind an honest checkpoint then.
            log = next(one for one in await seals.all_logs(conn) if one.log_id == log_id)
            return cls(engine, log, await unsealed.server_identifier(conn), stored)

    async def checkpoints(self) -> Sequence[StoredCheckpoint]:
        return self._stored

    async def tiles(self, wanted: Iterable[TileId]) -> Tiles:
        listed = list(wanted)
        return await transact(self._engine, lambda conn: seals.read_tiles(conn, self.log.log_id, listed))

    async def seals(self) -> AsyncIterator[Seal]:
        """Every seal, in the order of the leaves."""
        after = -1
        while found := await transact(
            self._engine,
            lambda conn: seals.read_seals(conn, self.log.log_id, after=after, below=self.log.size, limit=_AT_ONCE),  # noqa: B023  runs at once
        ):
            for one in found:
                yield one
            after = found[-1].first_leaf

    async def seals_by_transaction(self, table: str) -> AsyncIterator[Seal]:
        """The seals of one table, by their first transactions."""
        async with begin(self._engine) as conn:
            async for one in seals.by_transaction(conn, self.log.log_id, table, below=self.log.size):
                yield one

    async def rows(self, table: str) -> AsyncIterator[list[Row]]:
        """The rows of a table by transaction and key, in pages. The hash is of what the row holds now."""
        async with begin(self._engine) as conn:
            sql = leaf_sql.of(table)
            columns = [_read(table, name) for name in sql.columns]
            whole = [f"sha256({name}) = digest AS whole" for left, name in LEFT_OUT if left == table] or [
                "true AS whole"
            ]
            chosen = ", ".join([*columns, *whole])
            relations = [table, *(await partitions.apart(conn) if table == "events" else [])]
            parts = " UNION ALL ".join(f"SELECT {chosen} FROM {one}" for one in relations)  # noqa: S608  our own names
            rows = await cursor(conn, f"{parts} ORDER BY xact_id, {', '.join(sql.key)}")
            while page := await rows.fetch(_AT_ONCE):
                yield [_row(table, one) for one in page]

    async def existing(self, table: str, keys: Collection[str]) -> set[str]:
        """Which of these keys have a row."""
        try:
            return await transact(self._engine, lambda conn: seals.existing(conn, table, keys))
        except Unstorable:  # a key that the log was made to name
            return set()

    def expects(self, table: str, key: str) -> bool:  # noqa: ARG002  as `SealedRecord` has it
        """Every row that was sealed should be there."""
        return True

    async def dropped_months(self) -> list[DroppedMonth]:
        """The months that retention dropped."""
        return await transact(self._engine, seals.dropped_months_of)

    async def keys(self) -> list[str]:
        """The verifier keys that the log names as its own."""
        return await transact(self._engine, lambda conn: seals.keys_of(conn, self.log.log_id))


def _read(table: str, name: str) -> str:
    return f"{name}::text AS {name}" if isinstance(metadata.tables[table].c[name].type, JSONB) else name


def _row(table: str, found: Any) -> Row:
    sql = leaf_sql.of(table)
    values: dict[str, Any] = {
        name: Raw(value) if isinstance(metadata.tables[table].c[name].type, JSONB) and value is not None else value
        for name, value in found.items()
        if name != "whole"
    }
    # A body that is not what its digest says makes the row another one.
    leaf = leaf_of(table, values) if found["whole"] else b""
    return Row(values["xact_id"], key_of(sql, values), leaf_hash(leaf), values[TIMES[table]])

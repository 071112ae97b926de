"""Whatever an administrator changes in the sealed record is found, and named for what it is.

    .venv/bin/python -m pytest tests/integration/test_mutations.py --mutations 1000

Each try changes one thing at random, verifies, and takes it back. `make test` makes 100 of them.
"""

import random
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import orjson
import pytest
from clock import NOON
from sealing import Expected, SealedStage, kinds

from service.audit import keys, merkle
from service.audit.findings import named
from service.audit.note import Checkpoint, Note
from service.storage import leaf_sql, seals
from service.storage.leaf_sql import SEALED, TIMES
from service.storage.tables import metadata

LOG = ("logs", "log_tiles", "seals", "checkpoints")
FILLED = [name for name in SEALED if name != "dropped_months"]


class Tampering:
    """A sealed record and an administrator with a dice: each method changes one thing and says what it has to be found as."""

    def __init__(self, stage: SealedStage, rng: random.Random) -> None:
        self.stage = stage
        self.rng = rng
        self.touched: set[str] = set()

    async def run(self, *statements: str, **values: Any) -> None:
        await self.stage.tamper(*statements, **values)

    async def rows(self, table: str) -> list[dict[str, Any]]:
        columns = [column.name for column in metadata.tables[table].columns]
        found = await self.stage.sql(
            f"SELECT {', '.join(columns)} FROM {table} ORDER BY xact_id, {', '.join(leaf_sql.of(table).key)}"
        )
        return [dict(zip(columns, row, strict=True)) for row in found]

    async def a_row(self, table: str | None = None) -> tuple[str, dict[str, Any], str]:
        """A sealed row at random: its table, its values, and its name."""
        table = table or self.rng.choice(FILLED)
        self.touched.add(table)
        row = self.rng.choice(await self.rows(table))
        return table, row, await self.name(table, row)

    async def name(self, table: str, row: dict[str, Any]) -> str:
        where, values = this(table, row)
        ((key,),) = await self.stage.sql(f"SELECT {leaf_sql.of(table).key_text} FROM {table} WHERE {where}", **values)
        return named(table, key)

    async def row_of(self, table: str, key: str) -> dict[str, Any]:
        columns = [column.name for column in metadata.tables[table].columns]
        (row,) = await self.stage.sql(f"SELECT {', '.join(columns)} FROM {table} WHERE {by_key(table)}", key=key)
        return dict(zip(columns, row, strict=True))

    async def changed(self, column: Any = None) -> Expected:
        """Any column of any row."""
        table, row, name = await self.a_row(column.table.name if column is not None else None)
        column = self.rng.choice(list(metadata.tables[table].columns)) if column is None else column
        value = another(row[column.name], column, self.rng)
        where, values = this(table, row)
        await self.run(f"UPDATE {table} SET {column.name} = :new WHERE {where}", new=value, **values)
        return Expected(("removed",) if column.primary_key else ("changed",), name)

    async def exchanged(self) -> Expected:
        """The contents of two rows, which keep their keys."""
        table, one, _ = await self.a_row()
        column = self.rng.choice([c for c in metadata.tables[table].columns if not c.primary_key])
        others = [row for row in await self.rows(table) if row[column.name] != one[column.name]]
        if not others:
            return await self.changed()
        two = self.rng.choice(others)
        for row, other in ((one, two), (two, one)):
            where, values = this(table, row)
            value = other[column.name]
            value = orjson.dumps(value).decode() if isinstance(value, dict) else value
            await self.run(f"UPDATE {table} SET {column.name} = :new WHERE {where}", new=value, **values)
        return Expected(("changed", "reordered"))

    async def removed(self) -> Expected:
        table, row, name = await self.a_row()
        where, values = this(table, row)
        await self.run(f"DELETE FROM {table} WHERE {where}", **values)
        return Expected(("removed",), name)

    async def _insert(self, xact: str, hours: int) -> tuple[str, str]:
        """A copy of a row under a new key, which claims to be older than it is."""
        table, row, _ = await self.a_row()
        new = {**row, TIMES[table]: row[TIMES[table]] - timedelta(hours=hours, microseconds=self.rng.randrange(10**6))}
        for column in metadata.tables[table].primary_key.columns:
            new[column.name] = (
                another(new[column.name], column, self.rng) if column.name != TIMES[table] else new[column.name]
            )
        del new["xact_id"]
        new = {name: orjson.dumps(value).decode() if isinstance(value, dict) else value for name, value in new.items()}
        listed = ", ".join(new)
        await self.run(
            f"INSERT INTO {table} ({listed}, xact_id) VALUES ({', '.join(f':{name}' for name in new)}, {xact})", **new
        )
        return table, await self.name(table, new)

    async def inserted(self) -> Expected:
        _, name = await self._insert("pg_current_xact_id()::text::bigint", 3)
        return Expected((), name, notice="unsealed")

    async def inserted_and_sealed(self) -> Expected:
        _, name = await self._insert("pg_current_xact_id()::text::bigint", 3)
        self.touched |= {"logs", "log_tiles", "seals", "checkpoints"}
        self.stage.rt.clock.advance(10_000)
        await self.run("DELETE FROM scheduled_jobs")
        await self.stage.seal()
        return Expected((), name, notice="late")

    async def inserted_with_a_forged_transaction(self) -> Expected:
        _, name = await self._insert("(SELECT min(xact_id) FROM events)", 3)
        return Expected(("inserted",), name)

    async def log_list_reordered(self) -> Expected:
        """Two rows exchange their places in the log's list of them."""
        seal = self.rng.choice([one for one in await self.seals() if one[1] > 1])
        first, _, packed, _ = seal
        self.touched.add("seals")
        lines = seals.unpacked(packed).split("\n")
        one, two = sorted(self.rng.sample(range(len(lines)), 2))
        lines[one], lines[two] = lines[two], lines[one]
        await self.run(
            "UPDATE seals SET row_keys = :keys WHERE first_leaf = :first", keys=seals.packed(lines), first=first
        )
        return Expected(("reordered", "log changed"))

    async def log_hashes_reordered(self) -> Expected:
        """Two leaves exchange their hashes."""
        self.touched.add("log_tiles")
        size = await self.size()
        one, two = self.rng.sample(range(min(size, 256)), 2)
        hashes = await self.tile()
        row = merkle.split(hashes)
        row[one], row[two] = row[two], row[one]
        await self.run("UPDATE log_tiles SET hashes = :new WHERE level = 0 AND tile_no = 0", new=b"".join(row))
        return Expected(("reordered", "log changed", "rewritten"))

    async def rewritten(self) -> Expected:
        """A row and the log's hash of it, as one who has the database and our code can do it."""
        seal = self.rng.choice(
            [
                one
                for one in await self.seals()
                if one[3] not in {"events", "dropped_months", "log_keys"} and one[0] + one[1] < 256
            ]
        )
        first, rows, packed, table = seal
        self.touched |= {table, "log_tiles"}
        place = self.rng.randrange(rows)
        sql = leaf_sql.of(table)
        key = seals.unpacked(packed).split("\n")[place]
        column = self.rng.choice(
            [c for c in metadata.tables[table].columns if not c.primary_key and c.name != "xact_id"]
        )
        row = await self.row_of(table, key)
        where, values = this(table, row)
        await self.run(
            f"UPDATE {table} SET {column.name} = :new WHERE {where}",
            new=another(row[column.name], column, self.rng),
            **values,
        )
        ((hash_,),) = await self.stage.sql(f"SELECT {sql.hash} FROM {table} WHERE {where}", **values)
        tile = merkle.split(await self.tile())
        tile[first + place] = hash_
        await self.run("UPDATE log_tiles SET hashes = :new WHERE level = 0 AND tile_no = 0", new=b"".join(tile))
        return Expected(("rewritten", "log changed"))

    async def log_row_changed(self) -> Expected:
        """Any column of the log's own tables that says something of the record."""
        table, column = self.rng.choice([
            ("seals", "rows"), ("seals", "table_name"), ("seals", "row_keys"), ("seals", "first_xact"), ("seals", "last_xact"),
            ("seals", "sealed_at"), ("seals", "first_leaf"), ("log_tiles", "hashes"), ("logs", "reason"), ("logs", "begun_at"),
            ("logs", "origin"),
        ])  # fmt: skip
        self.touched.add(table)
        target = metadata.tables[table]
        found = await self.stage.sql(f"SELECT ctid::text, {column} FROM {table}")
        place, value = self.rng.choice(found)
        new = another(value, target.c[column], self.rng)
        if column == "table_name":
            new = self.rng.choice([one for one in FILLED if one != value])
        if column == "row_keys":
            new = seals.packed([*seals.unpacked(value).split("\n")[1:], seals.unpacked(value).split("\n")[0] + " "])
        await self.run(
            f"UPDATE {table} SET {column} = :new WHERE ctid = CAST(CAST(:place AS text) AS tid)", new=new, place=place
        )
        return Expected(
            ("log changed", "changed", "removed", "reordered", "rewritten", "checkpoint", "key", "inserted")
        )

    async def cut_off(self) -> Expected:
        """The end of the log, with its checkpoints; and perhaps the rows too."""
        self.touched |= {*LOG, *FILLED}
        sizes = [size for (size,) in await self.stage.sql("SELECT size FROM checkpoints ORDER BY size")]
        size = self.rng.choice(sizes[:-1])
        if self.rng.random() < 0.5:
            for first, _, packed, table in await self.seals():
                if first >= size:
                    for key in seals.unpacked(packed).split("\n"):
                        await self.run(f"DELETE FROM {table} WHERE {by_key(table)}", key=key)
        await self.run(
            f"DELETE FROM seals WHERE first_leaf >= {size}",
            f"DELETE FROM checkpoints WHERE size > {size}",
            f"UPDATE logs SET size = {size}",
        )
        return Expected(("cut off",), "")

    async def checkpoints_swapped(self) -> Expected:
        self.touched.add("checkpoints")
        (one, a), (two, b) = self.rng.sample(await self.stage.sql("SELECT size, note FROM checkpoints"), 2)
        await self.run(
            "UPDATE checkpoints SET note = :b WHERE size = :one",
            "UPDATE checkpoints SET note = :a WHERE size = :two",
            a=a,
            b=b,
            one=one,
            two=two,
        )
        return Expected(("checkpoint",), "swapped")

    async def another_key(self) -> Expected:
        """Every checkpoint is signed anew, by a key of the administrator's own, and the log names that key."""
        self.touched |= {"checkpoints", "log_keys"}
        seed = self.rng.randbytes(32)
        found = await self.stage.sql("SELECT size, note FROM checkpoints")
        for size, note in found:
            checkpoint = Note.parse(note).checkpoint
            forged = checkpoint.signed(keys.signers_of([seed], checkpoint.origin))
            await self.run("UPDATE checkpoints SET note = :note WHERE size = :size", note=forged, size=size)
        if self.rng.random() < 0.5:
            key = str(keys.signers_of([seed], checkpoint.origin)[0].key)
            await self.run("UPDATE log_keys SET verifier_key = :key", key=key)
        return Expected(("key", "removed", "checkpoint"))

    async def checkpoint_forged(self) -> Expected:
        """One checkpoint says something else, with the signatures that it had."""
        self.touched.add("checkpoints")
        size, note = self.rng.choice(await self.stage.sql("SELECT size, note FROM checkpoints"))
        parsed = Note.parse(note)
        forged = (
            Checkpoint(parsed.checkpoint.origin, size, self.rng.randbytes(32)).text
            + note[len(parsed.checkpoint.text) :]
        )
        await self.run("UPDATE checkpoints SET note = :note WHERE size = :size", note=forged, size=size)
        return Expected(("key", "checkpoint"))

    async def seals(self) -> list[Any]:
        return await self.stage.sql("SELECT first_leaf, rows, row_keys, table_name FROM seals ORDER BY first_leaf")

    async def size(self) -> int:
        ((size,),) = await self.stage.sql("SELECT size FROM logs")
        return size

    async def tile(self) -> bytes:
        ((hashes,),) = await self.stage.sql("SELECT hashes FROM log_tiles WHERE level = 0 AND tile_no = 0")
        return hashes


#: How often each is drawn.
MUTATIONS = {
    Tampering.changed: 10, Tampering.exchanged: 2, Tampering.removed: 4, Tampering.inserted: 3,
    Tampering.inserted_and_sealed: 1, Tampering.inserted_with_a_forged_transaction: 2, Tampering.log_list_reordered: 2,
    Tampering.log_hashes_reordered: 2, Tampering.rewritten: 2, Tampering.log_row_changed: 4, Tampering.cut_off: 2,
    Tampering.checkpoints_swapped: 1, Tampering.another_key: 1, Tampering.checkpoint_forged: 1,
}  # fmt: skip


def by_key(table: str) -> str:
    """The condition that finds a row by its key's text."""
    sql = leaf_sql.of(table)
    return f"({', '.join(sql.key)}) = ({sql.key_values('CAST(:key AS text)')})"


def this(table: str, row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The condition that finds a row, and its values."""
    key = leaf_sql.of(table).key
    return " AND ".join(f"{name} = :key_{name}" for name in key), {f"key_{name}": row[name] for name in key}


def another(value: Any, column: Any, rng: random.Random) -> Any:
    """Some other value that the column takes."""
    kind = column.type.python_type
    if kind is object or isinstance(value, dict):
        return orjson.dumps({**(value or {}), "x-added": str(rng.random())}).decode()
    if value is not None and column.nullable and rng.random() < 0.3:
        return None
    if kind is int and column.primary_key:
        return rng.randrange(10**6, 10**9)
    if kind is bytes:
        at = rng.randrange(len(value))
        return value[:at] + bytes([value[at] ^ rng.choice([1, 128])]) + value[at + 1 :]
    return OTHERS.get(kind, lambda *_: uuid4())(value, rng)


#: For each type of a column what makes another value.
OTHERS = {
    str: lambda value, rng: f"{value or ''}{rng.choice('abc ')}" if rng.random() < 0.7 else f"another {rng.random()}",
    int: lambda value, rng: value + rng.choice([-1, 1, 7]) if value else 10_007,
    Decimal: lambda value, rng: (value or Decimal()) + Decimal(rng.choice(["1", "0.000001"])),
    datetime: lambda value, rng: (value or NOON) + timedelta(microseconds=rng.choice([1, -1, 10**9])),
}


@pytest.fixture
async def stage(runtime, tmp_path):
    stage = SealedStage(runtime, tmp_path)
    for rows in (4, 1, 6, 3):
        await stage.record(rows)
        await stage.seal()
    # No constraint is in the way of whoever owns the database.
    checks = await stage.sql(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype = 'c' AND connamespace = 'public'::regnamespace"
    )
    for table, name in checks:
        await stage.sql(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")
    for table in (*SEALED, *LOG):
        await stage.sql(f"CREATE TABLE saved_{table} AS SELECT * FROM {table}")
    return stage


async def restore(stage: SealedStage, tables: set[str]) -> None:
    for table in tables:
        await stage.tamper(f"DELETE FROM {table}", f"INSERT INTO {table} SELECT * FROM saved_{table}")


async def test_a_change_of_each_column_of_each_table_is_found_and_named(stage):
    for number, column in enumerate(column for name in FILLED for column in metadata.tables[name].columns):
        tampering = Tampering(stage, random.Random(number))
        expected = await tampering.changed(column)
        assert not expected.complaint(await stage.verify()), column
        await restore(stage, tampering.touched)
    assert kinds(await stage.verify()) == []


async def test_a_random_change_anywhere_in_the_sealed_record_is_found_and_named(stage, request):
    tries = request.config.getoption("--mutations")
    rng = random.Random(request.config.getoption("--mutation-seed"))
    folder = stage.rt.settings.seal_publish_dir
    published = {path: path.read_text() for path in folder.rglob("*.checkpoint")}
    clock, complaints = stage.rt.clock.now(), []
    for number in range(tries):
        tampering = Tampering(stage, random.Random(rng.random()))
        (mutation,) = rng.choices(list(MUTATIONS), list(MUTATIONS.values()))
        expected = await mutation(tampering)
        complaint = expected.complaint(await stage.verify())
        if complaint:
            complaints.append(f"{number} {mutation.__name__}: {complaint}")
        await restore(stage, tampering.touched)
        stage.rt.clock.set(clock)
        for path in set(folder.rglob("*.checkpoint")) - published.keys():
            path.unlink()
        for path, note in published.items():
            path.write_text(note)
        stage.rt.settings.data_dir.joinpath("checkpoints/latest.checkpoint").write_text(
            published[folder / "latest.checkpoint"]
        )
    assert not complaints, "\n".join(complaints)
    report = await stage.verify()
    assert (kinds(report), report.unsealed.count, report.late.count) == ([], 0, 0)

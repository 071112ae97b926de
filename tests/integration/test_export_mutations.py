"""Whatever somebody changes in the files of an export is found without a database, and named for what it is.

    .venv/bin/python -m pytest tests/integration/test_export_mutations.py --mutations 1000

Each try changes one thing at random, rewrites the manifest so that it agrees where a forger would, verifies, and takes it back.
"""

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from operator_api import TOKEN, Api, serving
from sealing import Expected, SealedStage, kinds

from service.app.audit import verify_export
from service.audit import keys, merkle
from service.audit.export_formats import LEAF_HASH, STRUCK_OUT
from service.audit.export_record import _hash, _key
from service.audit.findings import named
from service.audit.keys import parse_keys
from service.audit.note import Checkpoint, Note
from service.cli.main import main
from service.errors import ExportInvalid
from service.runtime.runtime import Runtime
from service.storage import leaf_sql, seals
from service.storage.leaf_sql import SEALED
from service.storage.tables import metadata

FILLED = [one for one in SEALED if one != "dropped_months"]
Row = dict[str, Any]


class Files:
    """The files of an export in memory; `write` puts them into the folder, and the manifest agrees with them unless told otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.manifest = json.loads(self.data["manifest.json"])
        self.cloudevents = self.manifest["format"] == "cloudevents"

    def name(self, table: str) -> str:
        return next(name for name in self.data if name.partition(".")[0] == table)

    def wraps(self, table: str) -> bool:
        return self.cloudevents and table not in {"seals", "log_tiles", "checkpoints"}

    def lines(self, table: str) -> list[Row]:
        return [json.loads(line) for line in self.data[self.name(table)].splitlines()]

    def rows(self, table: str) -> list[Row]:
        return [line["data"] if self.wraps(table) else line for line in self.lines(table)]

    def replace(self, table: str, rows: list[Row]) -> None:
        """Rows in place of those of a table, and the manifest made to fit."""
        envelope = (self.lines(table) or [{}])[0]
        lines = [{**envelope, "data": row} if self.wraps(table) else row for row in rows]
        self.data[self.name(table)] = b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    def change(self, table: str, number: int, /, **values: Any) -> None:
        rows = self.rows(table)
        rows[number] = {**rows[number], **values}
        self.replace(table, rows)

    def write(self, *, forge_manifest: bool = True) -> None:
        if forge_manifest:
            for name, said in self.manifest["files"].items():
                data = self.data[name]
                said |= {"rows": data.count(b"\n"), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            self.data["manifest.json"] = json.dumps(self.manifest).encode()
        for name, data in self.data.items():
            (self.folder / name).write_bytes(data)


class Forger:
    """An export and somebody with a dice: each method changes one thing and says what it has to be found as."""

    def __init__(self, files: Files, rng: random.Random) -> None:
        self.files = files
        self.rng = rng
        self.origin = Note.parse(files.rows("checkpoints")[0]["note"]).checkpoint.origin
        self.forge_manifest = True

    def a_row(self) -> tuple[str, int, Row, str]:
        table = self.rng.choice(FILLED)
        rows = self.files.rows(table)
        at = self.rng.randrange(len(rows))
        return table, at, rows[at], named(table, _key(table, rows[at]))

    def changed(self) -> Expected:
        """Any column of any row."""
        table, at, row, name = self.a_row()
        column = self.rng.choice(list(metadata.tables[table].columns))
        self.files.change(table, at, **{column.name: another(row.get(column.name), column, self.rng)})
        # A key that does not vouch for itself any more leaves others untrusted first.
        of_keys = ("key",) if table == "log_keys" else ()
        return Expected((("removed",) if column.primary_key else ("changed",)) + of_keys, "" if of_keys else name)

    def exchanged(self) -> Expected:
        """A column of two rows, which keep their keys."""
        table, at, row, _ = self.a_row()
        column = self.rng.choice([c.name for c in metadata.tables[table].columns if not c.primary_key])
        rows = self.files.rows(table)
        others = [number for number, one in enumerate(rows) if one.get(column) != row.get(column)]
        if not others:
            return self.changed()
        other = self.rng.choice(others)
        rows[at][column], rows[other][column] = rows[other].get(column), rows[at].get(column)
        self.files.replace(table, rows)
        return Expected(("changed", "reordered"))

    def removed(self) -> Expected:
        table, at, _, name = self.a_row()
        rows = self.files.rows(table)
        self.files.replace(table, rows[:at] + rows[at + 1 :])
        return Expected(
            ("removed", "key") if table == "log_keys" else ("removed",), "" if table == "log_keys" else name
        )

    def lines_reordered(self) -> Expected:
        """Whole rows, which are all there and as they were."""
        table = self.rng.choice([one for one in FILLED if len({row["xact_id"] for row in self.files.rows(one)}) > 1])
        rows = self.files.rows(table)
        new = list(rows)
        while [row["xact_id"] for row in new] == [row["xact_id"] for row in rows]:
            if self.rng.random() < 0.5:
                self.rng.shuffle(new)
            else:
                one, two = self.rng.sample(range(len(rows)), 2)
                new[one], new[two] = new[two], new[one]
        self.files.replace(table, new)
        return Expected(("reordered",))

    def _inserted(self, xact_id: int) -> str:
        table, _, row, _ = self.a_row()
        new = dict(row)
        for name in leaf_sql.of(table).key:
            column = metadata.tables[table].c[name]
            new[name] = another(new[name], column, self.rng)
        new["xact_id"] = xact_id
        new.pop(LEAF_HASH, None)
        rows = [*self.files.rows(table), new]
        self.files.replace(table, sorted(rows, key=lambda one: int(one["xact_id"])))
        return named(table, _key(table, new))

    def inserted_with_a_sealed_transaction(self) -> Expected:
        return Expected(("inserted",), self._inserted(min(row["xact_id"] for row in self.files.rows("events"))))

    def inserted_with_a_new_transaction(self) -> Expected:
        return Expected((), self._inserted(10**9), notice="unsealed")

    def struck_out(self) -> Expected:
        """A row that claims that something was struck out of it, and has the hash that was sealed."""
        table, at, row, name = self.a_row()
        hash_ = _hash(table, row).hex()
        column = self.rng.choice(
            [c for c in metadata.tables[table].columns if c.type.python_type is str and not c.primary_key] or [None]
        )
        if column is None:
            return self.changed()
        self.files.change(table, at, **{column.name: "…", STRUCK_OUT: [column.name], LEAF_HASH: hash_})
        return Expected((), name, notice="struck_out")

    def cut_to_whole_rows(self) -> Expected:
        """The end of a file, and the manifest made to fit."""
        table, at, _, _ = self.a_row()
        rows = self.files.rows(table)
        name = named(table, _key(table, rows[at]))
        self.files.replace(table, rows[:at])
        found = Expected(("removed", "key") if table == "log_keys" else ("removed",))
        return found if table == "log_keys" or at < len(rows) - 1 else Expected(found.kinds, name)

    def list_of_rows_reordered(self) -> Expected:
        """Two rows exchange their places in the log's list of them."""
        at = self.rng.choice([number for number, row in enumerate(self.files.rows("seals")) if row["rows"] > 1])
        lines = seals.unpacked(bytes.fromhex(self.files.rows("seals")[at]["row_keys"])).split("\n")
        one, two = sorted(self.rng.sample(range(len(lines)), 2))
        lines[one], lines[two] = lines[two], lines[one]
        self.files.change("seals", at, row_keys=seals.packed(lines).hex())
        return Expected(("reordered", "log changed", "key"))

    def hashes_reordered(self) -> Expected:
        """Two leaves exchange their hashes."""
        (at,) = [n for n, row in enumerate(self.files.rows("log_tiles")) if (row["level"], row["tile_no"]) == (0, 0)]
        row = merkle.split(bytes.fromhex(self.files.rows("log_tiles")[at]["hashes"]))
        one, two = self.rng.sample(range(len(row)), 2)
        row[one], row[two] = row[two], row[one]
        self.files.change("log_tiles", at, hashes=b"".join(row).hex())
        return Expected(("reordered", "log changed", "rewritten", "key"))

    def rewritten(self) -> Expected:
        """A row and the log's hash of it."""
        numbered = [row for row in self.files.rows("seals") if row["table_name"] not in {"log_keys", "dropped_months"}]
        one = self.rng.choice([row for row in numbered if row["first_leaf"] + row["rows"] < 256])
        table, place = one["table_name"], self.rng.randrange(one["rows"])
        key = seals.unpacked(bytes.fromhex(one["row_keys"])).split("\n")[place]
        (at,) = [number for number, row in enumerate(self.files.rows(table)) if _key(table, row) == key]
        kept = {"xact_id", "digest", "body"}
        column = self.rng.choice(
            [c for c in metadata.tables[table].columns if not c.primary_key and c.name not in kept]
        )
        self.files.change(
            table, at, **{column.name: another(self.files.rows(table)[at].get(column.name), column, self.rng)}
        )
        (tile,) = [n for n, row in enumerate(self.files.rows("log_tiles")) if (row["level"], row["tile_no"]) == (0, 0)]
        hashes = merkle.split(bytes.fromhex(self.files.rows("log_tiles")[tile]["hashes"]))
        hashes[one["first_leaf"] + place] = _hash(table, self.files.rows(table)[at])
        self.files.change("log_tiles", tile, hashes=b"".join(hashes).hex())
        return Expected(("rewritten", "log changed"))

    def log_changed(self) -> Expected:
        """Any column of the log's own tables that says something of the record, or what the manifest says of the log."""
        table, column = self.rng.choice([
            ("seals", "rows"), ("seals", "table_name"), ("seals", "first_xact"), ("seals", "last_xact"), ("seals", "sealed_at"),
            ("seals", "first_leaf"), ("log_tiles", "hashes"), ("log", "reason"), ("log", "begun_at"), ("log", "origin"),
        ])  # fmt: skip
        if table == "log":
            new = {"reason": "another", "begun_at": "2026-01-01T00:00:00Z", "origin": "another/log"}[column]
            self.files.manifest["log"][column] = new
        else:
            rows = self.files.rows(table)
            at = self.rng.randrange(len(rows))
            new = another(rows[at][column], metadata.tables[table].c[column], self.rng)
            if column == "table_name":
                new = self.rng.choice([one for one in FILLED if one != rows[at][column]])
            self.files.change(table, at, **{column: new})
        return Expected(
            ("log changed", "changed", "removed", "reordered", "rewritten", "checkpoint", "key", "inserted", "cut off")
        )

    def cut_off(self) -> Expected:
        """The end of the log with its checkpoints, and of the rows: only what was published tells."""
        size = self.rng.choice(sorted(row["size"] for row in self.files.rows("checkpoints"))[:-1])
        gone = [row for row in self.files.rows("seals") if row["first_leaf"] >= size]
        if self.rng.random() < 0.5:
            for one in gone:
                names = set(seals.unpacked(bytes.fromhex(one["row_keys"])).split("\n"))
                table = one["table_name"]
                self.files.replace(table, [row for row in self.files.rows(table) if _key(table, row) not in names])
        self.files.replace("seals", [row for row in self.files.rows("seals") if row["first_leaf"] < size])
        self.files.replace("checkpoints", [row for row in self.files.rows("checkpoints") if row["size"] <= size])
        self.files.manifest["log"]["size"] = size
        return Expected(("cut off",))

    def checkpoints_swapped(self) -> Expected:
        rows = self.files.rows("checkpoints")
        one, two = self.rng.sample(range(len(rows)), 2)
        rows[one]["note"], rows[two]["note"] = rows[two]["note"], rows[one]["note"]
        self.files.replace("checkpoints", rows)
        return Expected(("checkpoint",), "swapped")

    def another_key(self) -> Expected:
        """Every checkpoint is signed anew, by a key of the forger's own, and perhaps the log names that key."""
        seed = self.rng.randbytes(32)
        signers = keys.signers_of([seed], self.origin)
        rows = self.files.rows("checkpoints")
        for row in rows:
            row["note"] = Note.parse(row["note"]).checkpoint.signed(signers)
        self.files.replace("checkpoints", rows)
        if self.rng.random() < 0.5:
            self.files.change("log_keys", 0, verifier_key=str(signers[0].key))
        return Expected(("key", "removed", "checkpoint"))

    def checkpoint_forged(self) -> Expected:
        """A checkpoint of another root, with the signatures that it had."""
        rows = self.files.rows("checkpoints")
        at = self.rng.randrange(len(rows))
        note = rows[at]["note"]
        forged = Checkpoint(self.origin, rows[at]["size"], self.rng.randbytes(32)).text
        self.files.change("checkpoints", at, note=forged + note[len(Note.parse(note).checkpoint.text) :])
        return Expected(("key", "checkpoint"))

    def damaged(self) -> Expected:
        """A byte of any file, and nothing made to fit."""
        self.forge_manifest = False
        name = self.rng.choice([one for one, data in self.files.data.items() if data and one != "manifest.json"])
        data = bytearray(self.files.data[name])
        data[self.rng.randrange(len(data))] ^= self.rng.choice([1, 2, 64])
        self.files.data[name] = bytes(data)
        return Expected(("file", "refused"), name)

    def truncated(self) -> Expected:
        """The end of any file."""
        self.forge_manifest = False
        name = self.rng.choice([one for one, data in self.files.data.items() if data])
        data = self.files.data[name]
        self.files.data[name] = data[: self.rng.randrange(len(data))]
        return Expected(("refused",), name)


#: How often each is drawn.
MUTATIONS: dict[Callable[[Forger], Expected], int] = {
    Forger.changed: 10, Forger.exchanged: 2, Forger.removed: 4, Forger.inserted_with_a_sealed_transaction: 3,
    Forger.inserted_with_a_new_transaction: 2, Forger.struck_out: 2, Forger.cut_to_whole_rows: 3, Forger.list_of_rows_reordered: 2,
    Forger.lines_reordered: 2,
    Forger.hashes_reordered: 2, Forger.rewritten: 2, Forger.log_changed: 4, Forger.cut_off: 2, Forger.checkpoints_swapped: 1,
    Forger.another_key: 1, Forger.checkpoint_forged: 1, Forger.damaged: 3, Forger.truncated: 2,
}  # fmt: skip


def another(value: Any, column: Any, rng: random.Random) -> Any:
    """Some other value that the column takes, as an export has it."""
    kind = column.type.python_type
    if kind is object or isinstance(value, dict):
        return {**(value or {}), "x-added": str(rng.random())}
    if value is not None and column.nullable and rng.random() < 0.3:
        return None
    if kind is int:
        return rng.randrange(10**6, 10**9) if column.primary_key else (value or 10_000) + rng.choice([-1, 1, 7])
    if kind is bytes:
        return value[:-1] + ("0" if value[-1] != "0" else "1") if column.name != "body" else f"{value[:-4]}AAAB"
    if kind is Decimal:
        return str(Decimal(value or 0) + Decimal(rng.choice(["1", "0.000001"])))
    if kind is datetime:
        at = datetime.fromisoformat(value or "2026-03-02T12:00:00Z")
        return (at + timedelta(microseconds=rng.choice([1, -1, 10**9]))).isoformat()
    if kind is UUID:
        return str(uuid4())
    return f"{value or ''}{rng.choice('abc')}"


@pytest.fixture
async def stage(runtime: Runtime, tmp_path: Path) -> SealedStage:
    stage = SealedStage(runtime, tmp_path)
    for rows in (4, 1, 6, 3):
        await stage.record(rows)
        await stage.seal()
    return stage


@pytest.fixture
async def api(stage: SealedStage, runtime: Runtime) -> AsyncIterator[Api]:
    async with serving(runtime) as api:
        # The first export of an hour goes on record: then nothing is exported that is not sealed.
        for path in ("/v1/export/begin", "/v1/export?table=vms"):
            assert (await api.request("GET", path)).status == 200
        await stage.seal()
        yield api


async def exported(api: Api, folder: Path, kind: str) -> Files:
    """The whole record, as `rollcall export` writes it."""

    def write() -> None:
        with pytest.raises(SystemExit) as ended:
            main(["--api-url", api.url, "--api-token", TOKEN, "export", str(folder), "--format", kind])
        assert ended.value.code == 0

    await asyncio.to_thread(write)
    return Files(folder)


async def complaint_of(files: Files, expected: Expected, key: str, published: Path) -> str | None:
    try:
        report = await verify_export(files.folder, parse_keys([key]), [published])
    except ExportInvalid as error:
        named_right = "refused" in expected.kinds and expected.names in str(error)
        return None if named_right else f"refused: {error}"
    if expected.kinds and report.findings and report.findings[0].kind == "file" and "file" not in expected.kinds:
        return f"the manifest was not made to fit: {report.findings[0]}"
    return expected.complaint(report)


@pytest.mark.parametrize("kind", ["ndjson", "cloudevents"])
async def test_a_random_change_anywhere_in_an_export_is_found_and_named(
    api: Api, stage: SealedStage, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    tries = request.config.getoption("--mutations") // 2
    rng = random.Random(f"{request.config.getoption('--mutation-seed')} {kind}")
    whole = await exported(api, tmp_path / "files", kind)
    ((key,),) = await stage.sql("SELECT verifier_key FROM log_keys")
    published = stage.rt.settings.seal_publish_dir
    assert published is not None
    complaints = []
    for number in range(tries):
        forger = Forger(Files(whole.folder), random.Random(rng.random()))
        (mutation,) = rng.choices(list(MUTATIONS), list(MUTATIONS.values()))
        expected = mutation(forger)
        forger.files.write(forge_manifest=forger.forge_manifest)
        if complaint := await complaint_of(forger.files, expected, key, published):
            complaints.append(f"{number} {mutation.__name__}: {complaint}")
        whole.write()
    assert not complaints, "\n".join(complaints)
    report = await verify_export(whole.folder, parse_keys([key]), [published])
    assert (kinds(report), report.unsealed.count, report.struck_out.count) == ([], 0, 0)

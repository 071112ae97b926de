"""Exports: whole, in every format, without secrets, and the same rows however often the stream breaks."""

import base64
import csv
import hashlib
import io
import json
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from command_line import Run, running
from operator_api import TOKEN, Api, serving
from pyarrow import parquet
from sealing import SealedStage
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import LargeBinary
from stored_events import event
from structlog.testing import capture_logs

from service.api.context import EXPORTS
from service.app.audit import verify_export
from service.audit import export
from service.audit.export_tables import COSTS, LOG, RECORD, TABLES, Selection, columns_of
from service.audit.keys import parse_keys
from service.client.errors import ApiError, ErrorKind
from service.client.http import ApiClient
from service.client.operation import Prepared
from service.core.token import CreationRef, mint
from service.runtime.cpu import GivingWay
from service.runtime.runtime import Runtime
from service.storage import calls, events, leaf_sql
from service.storage.engine import begin
from service.storage.leaf_sql import SEALED, TIMES
from service.storage.tables import metadata


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    return running(capsys)


@pytest.fixture
async def stage(runtime: Runtime, tmp_path: Path) -> SealedStage:
    return SealedStage(runtime, tmp_path)


@pytest.fixture
async def api(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    with capture_logs():
        async with serving(runtime) as api:
            monkeypatch.setenv("ROLLCALL_API_URL", api.url)
            monkeypatch.setenv("ROLLCALL_API_TOKEN", TOKEN)
            # The first export of an hour goes on record; a test compares what it exports later.
            for path in ("/v1/export/begin", "/v1/export?table=vms"):
                assert (await api.request("GET", path)).status == 200
            yield api


async def lines(api: Api, query: str) -> list[dict[str, Any]]:
    answer = await api.request("GET", f"/v1/export?{query}")
    assert answer.status == 200, answer
    return [json.loads(line) for line in answer.json.splitlines()]


async def test_every_table_is_exported_with_every_row(api: Api, stage: SealedStage) -> None:
    await api.submit(count=3)
    await stage.record(5)
    await stage.seal()
    begun = await api.get("/v1/export/begin")
    assert begun["tables"] == list(RECORD)
    log = f"&log_id={begun['log']['log_id']}&log_size={begun['log']['size']}"
    for table in TABLES:
        rows = await lines(api, f"table={table}&snapshot={begun['snapshot']}{log}")
        counted = "vms" if table == "costs" else table
        ((expected,),) = await stage.sql(f"SELECT count(*) FROM {counted}")
        assert len(rows) == expected > 0 or table in {"dropped_months", "dead_letters", "orphans", "costs"}, table


class Others(GivingWay):
    """Others who have work, or not, however long one rests."""

    def __init__(self, *, busy: bool) -> None:
        super().__init__()
        self.busy = busy
        self.rests = 0

    async def rest(self) -> None:
        self.rests += 1


@pytest.mark.parametrize("busy", [True, False])
async def test_an_export_reads_little_at_once_while_others_have_work_and_rests_after_each_page(
    api: Api, stage: SealedStage, monkeypatch: pytest.MonkeyPatch, *, busy: bool
) -> None:
    await api.submit(count=30)
    monkeypatch.setattr(export, "_ROWS", 10)
    monkeypatch.setattr(export, "_ROWS_BESIDE", 2)
    others = Others(busy=busy)
    got = [some async for some in export.pages(stage.engine, "vms", Selection(), after=None, others=others)]
    assert [len(some) for some in got] == ([10, *[2] * 10] if busy else [10, 10, 10])
    assert len({line for some in got for line in some}) == 30
    assert others.rests == (11 if busy else 1)


def test_whoever_adds_a_column_that_may_hold_a_secret_has_to_decide_whether_it_is_exported() -> None:
    """A column of text that a caller chose is searched for tokens; JSON and bytes may hold anything."""
    opaque = {
        f"{table}.{name}"
        for table in (*RECORD, *LOG)
        if table != COSTS
        for name in columns_of(table)
        if isinstance(metadata.tables[table].c[name].type, JSONB | LargeBinary)
    }
    assert opaque == {
        "submissions.spec", "submissions.policy", "submissions.reasons", "submissions.warnings", "submissions.hardware",
        "creations.answer", "creations.refused_alternatives", "events.body", "events.headers", "events.digest",
        "seals.row_keys", "log_tiles.hashes",
    }  # fmt: skip


async def test_a_table_is_continued_behind_a_row_and_only_shows_what_its_snapshot_shows(
    api: Api, stage: SealedStage
) -> None:
    await stage.record(6)
    snapshot = (await api.get("/v1/export/begin"))["snapshot"]
    await stage.record(3)
    whole = await lines(api, f"table=transitions&snapshot={snapshot}")
    assert len(whole) == 6
    for number, row in enumerate(whole, 1):
        after = json.dumps([row[name] for name in ("xact_id", "submission_id", "vm_no", "seq")])
        rest = await lines(api, f"table=transitions&snapshot={snapshot}&after={quote(f'transitions:{after}')}")
        assert rest == whole[number:]
    assert len(await lines(api, "table=transitions")) == 9


async def test_a_period_and_a_submission_narrow_what_is_exported(api: Api, stage: SealedStage) -> None:
    made = await api.submit()
    stage.submissions[0] = UUID(made["submission_id"])
    await stage.record(8)
    stage.rt.clock.advance(3600)
    await stage.record(5)
    since = (stage.rt.clock.now() - timedelta(seconds=5)).isoformat().replace("+00:00", "Z")
    assert len(await lines(api, f"table=events&until={since}")) == 8
    assert len(await lines(api, f"table=events&since={since}")) == 5
    for table in ("events", "transitions", "calls", "call_ends", "assignments", "actions"):
        found = await lines(api, f"table={table}&submission_id={made['submission_id']}")
        assert {row["submission_id"] for row in found} == {made["submission_id"]}


async def test_what_is_wrong_with_a_query_is_said_with_the_field(api: Api) -> None:
    for query, field in (
        ("", "table"),
        ("table=secrets", "table"),
        ("table=vms&since=2026-03-01T12:00:00", "since"),
        ("table=vms&since=2026-03-02T00:00:00Z&until=2026-03-01T00:00:00Z", "body"),
        ("table=vms&after=transitions:[1]", "after"),
        ("table=vms&after=vms:[7,7]", "after"),
        ("table=costs&after=costs:[7]", "after"),
        ("table=vms&after=vms", "after"),
        ("table=seals", "body"),
        ("table=vms&format=parquet&after=vms:[]", "body"),
        ("table=vms&snapshot=1", "snapshot"),
        ("table=vms&colour=red", "colour"),
    ):
        answer = await api.request("GET", f"/v1/export?{query}")
        assert answer.status == 422, answer
        assert field in {one["field"] for one in answer.json["errors"]}, answer.json


async def test_a_third_export_waits_for_one_of_two_to_end(api: Api, runtime: Runtime) -> None:
    assert (await api.request("HEAD", "/v1/export?table=vms")).status == 200
    api.app[EXPORTS].count = 2
    assert (await api.request("GET", "/v1/export?table=vms")).status == 503
    api.app[EXPORTS].count = 0
    assert (await api.request("GET", "/v1/export?table=vms")).status == 200


async def test_csv_and_cloudevents_say_the_same_as_ndjson(api: Api, stage: SealedStage) -> None:
    await stage.record(5)
    for table in SEALED:
        rows = await lines(api, f"table={table}")
        answer = await api.request("GET", f"/v1/export?table={table}&format=csv")
        written = list(csv.DictReader(io.StringIO(answer.json, newline="")))
        assert len(written) == len(rows)
        for row, cells in zip(rows, written, strict=True):
            for name, value in row.items():
                shown = value if isinstance(value, str) else "" if value is None else json.dumps(value, separators=(",", ":"), ensure_ascii=False)  # fmt: skip
                assert cells[name].removeprefix("'") == shown.removeprefix("'"), name
        events = await lines(api, f"table={table}&format=cloudevents")
        assert [one["data"] for one in events] == rows
        assert len({one["id"] for one in events}) == len(rows)
        assert {(one["specversion"], one["type"]) for one in events} <= {("1.0", f"rollcall.{table}")}


async def test_parquet_holds_the_same_rows(api: Api, stage: SealedStage, run: Run, tmp_path: Path) -> None:
    await stage.record(5)
    assert (await run("export", "files", "--format", "parquet")).code == 0
    for table in SEALED:
        rows = await lines(api, f"table={table}")
        read = parquet.read_table(tmp_path / "files" / f"{table}.parquet").to_pylist()
        assert len(read) == len(rows)
        for row, cells in zip(rows, read, strict=True):
            for name, value in row.items():
                cell = cells[name]
                if isinstance(cell, datetime):
                    assert datetime.fromisoformat(value) == cell
                elif isinstance(value, dict):
                    assert json.loads(cell) == value
                else:
                    assert cell == value


TOKEN_OF_A_CALLBACK = mint(CreationRef(UUID(int=7), 1), b"a secret")
SECRET_HALF = TOKEN_OF_A_CALLBACK[-32:]


async def with_secrets(stage: SealedStage) -> None:
    """Rows that hold a callback token: in a body that is text, in one that is not, in a header, and in an error."""
    url = f"https://rollcall.example.com/callbacks/{TOKEN_OF_A_CALLBACK}"
    await stage.sql("""UPDATE submissions SET notify = '{"encrypted": "gAAAA-a-url", "shown": "https://x/…"}'""")
    async with begin(stage.engine) as conn:
        for number, one in enumerate((url.encode(), b"\xff" + url.encode(), b"plain")):
            headers = {"referer": url} if number == 2 else {}
            await events.insert(conn, [event(number, body=one, headers=headers, submission_id=stage.submissions[0])])
        call_id = stage.uuid()
        now = stage.rt.clock.now()
        await calls.begin(conn, [calls.Call(stage.submissions[0], call_id, "create", now)])
        await calls.end(conn, [calls.CallEnd(stage.submissions[0], call_id, "refused", 3, now, error=f"no: {url}")])


async def test_no_secret_is_in_an_export_and_it_still_verifies(
    api: Api, stage: SealedStage, run: Run, tmp_path: Path
) -> None:
    await with_secrets(stage)
    await stage.record(3)
    await stage.seal()
    key = await the_key(stage)
    for kind in ("ndjson", "csv", "cloudevents"):
        assert (await run("export", kind, "--format", kind)).code == 0
        for path in (tmp_path / kind).iterdir():
            assert SECRET_HALF.encode() not in path.read_bytes(), path
            assert b"gAAAA" not in path.read_bytes(), path
    rows = [json.loads(line) for line in (tmp_path / "ndjson" / "events.ndjson").read_bytes().splitlines()]
    assert sorted(row.get("struck_out", []) for row in rows)[-3:] == [["body"], ["body"], ["headers"]]
    assert SECRET_HALF not in base64.b64decode(rows[1]["body"]).decode("latin-1")
    for kind in ("ndjson", "cloudevents"):
        verified = await run("audit", "verify", "--export", kind, "--key", key)
        assert verified.code == 0, verified
        assert "4 rows had something struck out" in verified.out
        assert "are as they were sealed" in verified.out
    refused = await run("audit", "verify", "--export", "csv", "--key", key)
    assert (refused.code, "does not hold rows exactly" in refused.err) == (1, True)


async def the_key(stage: SealedStage) -> str:
    ((key,),) = await stage.sql("SELECT verifier_key FROM log_keys")
    return str(key)


async def test_an_export_of_a_period_or_a_submission_verifies_and_says_what_it_is_not_of(
    api: Api, stage: SealedStage, run: Run, tmp_path: Path
) -> None:
    made = await api.submit()
    stage.submissions[0] = UUID(made["submission_id"])
    await stage.record(20)
    stage.rt.clock.advance(86_400)
    await stage.record(10)
    await stage.seal()
    day = f"{stage.rt.clock.now():%Y-%m-%d}"
    key = await the_key(stage)
    assert (await run("export", "day", "--since", day)).code == 0
    assert (await run("export", "one", "--submission", made["submission_id"])).code == 0
    for name in ("day", "one"):
        verified = await run("audit", "verify", "--export", name, "--key", key)
        assert verified.code == 0, verified
        assert "are not of this export" in verified.out
    whole = tmp_path / "one" / "transitions.ndjson"
    await rewrite(tmp_path / "one", "transitions", whole.read_bytes().splitlines(keepends=True)[1:])
    verified = await run("audit", "verify", "--export", "one", "--key", key)
    assert (verified.code, "was removed" in verified.out) == (1, True)


async def rewrite(folder: Path, table: str, lines: list[bytes]) -> None:
    """What a forger does who knows the manifest."""
    data = b"".join(lines)
    (folder / f"{table}.ndjson").write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][f"{table}.ndjson"] = {
        "rows": len(lines), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(),
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))


async def test_whatever_is_changed_in_an_export_is_found_and_named(
    api: Api, stage: SealedStage, run: Run, tmp_path: Path
) -> None:
    await stage.record(4)
    await stage.seal()
    key = await the_key(stage)
    assert (await run("export", "files")).code == 0
    folder = tmp_path / "files"
    for table in [one for one in SEALED if one != "dropped_months"]:
        path = folder / f"{table}.ndjson"
        before, manifest = path.read_bytes(), (folder / "manifest.json").read_bytes()
        rows = before.splitlines(keepends=True)
        row = json.loads(rows[-1])
        for change, word in (
            (rows[:-1], "removed"),
            ([*rows[:-1], changed(table, row)], "changed"),
            ([*rows, inserted(table, row)], "inserted"),
        ):
            if table == "log_keys" and word == "removed":
                continue  # then no key vouches for another, which is no change of the record
            await rewrite(folder, table, change)
            report = await verify_export(folder, parse_keys([key]), [])
            assert [one.kind for one in report.findings][:1] == [word], (table, word, report.findings)
        path.write_bytes(before[:-10])
        (folder / "manifest.json").write_bytes(manifest)
        cut = await run("audit", "verify", "--export", "files", "--key", key)
        assert (cut.code, f"{table}.ndjson is truncated" in cut.err) == (1, True)
        path.write_bytes(before)
    assert (await run("audit", "verify", "--export", "files", "--key", key)).code == 0


def changed(table: str, row: dict[str, Any]) -> bytes:
    column = {"events": "peer", "log_keys": "added_at"}.get(table) or next(
        name for name, value in row.items() if isinstance(value, str) and name not in [*leaf_sql.of(table).key, TIMES[table]]
    )  # fmt: skip
    value = "2026-01-01T00:00:00Z" if column == "added_at" else "another"
    return json.dumps(row | {column: value}).encode() + b"\n"


def inserted(table: str, row: dict[str, Any]) -> bytes:
    name = leaf_sql.of(table).key[-1]
    value = row[name]
    if isinstance(value, int):
        value += 1000
    elif name.endswith("_id"):
        value = str(UUID(int=UUID(value).int ^ 1))
    elif name == "verifier_key":
        value += "x"
    else:
        value = "2026-03-02T11:00:00.000001Z"
    return json.dumps(row | {name: value}).encode() + b"\n"


async def test_foreign_and_unfinished_exports_are_refused(
    api: Api, stage: SealedStage, run: Run, tmp_path: Path
) -> None:
    await stage.record(2)
    await stage.seal()
    key = await the_key(stage)
    assert (await run("export", "files")).code == 0
    folder = tmp_path / "files"
    again = await run("export", "files")
    assert (again.code, "is not empty" in again.err) == (1, True)
    for name, data, words in (
        ("more.ndjson", b"", "no file of this export"),
        ("manifest.json", b'{"export": "of another"}', "is no rollcall-export/1"),
        ("manifest.json", b"{", "not the manifest of an export"),
        ("manifest.json", b'{"export": "rollcall-export/1", "files": {}, "complete": false}', "is not finished"),
    ):
        before = (folder / name).read_bytes() if (folder / name).exists() else None
        (folder / name).write_bytes(data)
        refused = await run("audit", "verify", "--export", "files", "--key", key)
        assert (refused.code, words in refused.err) == (1, True), refused
        (folder / name).unlink() if before is None else (folder / name).write_bytes(before)
    (tmp_path / "empty").mkdir()
    assert "it has no manifest.json" in (await run("audit", "verify", "--export", "empty", "--key", key)).err
    assert (await run("audit", "verify", "--export", "files")).code == 2


@pytest.mark.parametrize("kind", ["csv", "parquet"])
async def test_an_export_that_breaks_off_anywhere_is_continued_to_the_same_files(
    api: Api, stage: SealedStage, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    await stage.record(30)
    await stage.seal()
    assert (await run("export", "whole", "--format", kind)).code == 0
    # So that the pieces are small, and the broken export sees the same record as the whole one.
    monkeypatch.setattr("service.client.exchange.PIECE", 700)
    breaks, real, pieces, code, broke = {4, 11, 29, 50}, ApiClient._pieces, count(), 1, 0

    def breaking(client: ApiClient, request: Prepared) -> Iterator[bytes]:
        for piece in real(client, request):
            if next(pieces) in breaks:
                raise ApiError(ErrorKind.UNREACHABLE, "the stream broke off")
            yield piece

    monkeypatch.setattr(ApiClient, "_pieces", breaking)
    arguments: tuple[str, ...] = ("export", "broken", "--format", kind)
    while code != 0:
        ended = await run(*arguments)
        code, broke = ended.code, broke + (ended.code != 0)
        assert code in {0, 3}, ended
        manifest = json.loads((tmp_path / "broken" / "manifest.json").read_bytes())
        assert manifest["complete"] is (code == 0)
        arguments = ("export", "--resume", "broken")
    assert broke == len(breaks)
    for path in (tmp_path / "whole").iterdir():
        if path.name != "manifest.json" and "costs" not in path.name:
            assert (tmp_path / "broken" / path.name).read_bytes() == path.read_bytes(), path.name

"""Old months of events: archived and dropped as the settings say, and never by accident."""

import base64
import gzip
import hashlib
import json
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from stored_events import event

from service.audit.archive import Archive
from service.errors import AppendOnly, StorageUnavailable
from service.storage import events, partitions, seals
from service.storage.engine import begin
from service.storage.partitions import Month
from service.storage.seals import DroppedMonth
from service.worker import retention

#: The clock of these tests says March 2026. Two whole months are kept beside it.
NOVEMBER, DECEMBER, JANUARY = (datetime(year, month, 10, tzinfo=UTC) for year, month in ((2025, 11), (2025, 12), (2026, 1)))  # fmt: skip
EACH = 3


@pytest.fixture
async def rt(runtime, tmp_path):
    """A daemon that archives, with three events in each of three months, all of them applied."""
    runtime.settings = runtime.settings.model_copy(
        update={"events_keep_months": 2, "events_export_dir": tmp_path / "archive"}
    )
    heard = [
        event(10 * number + one, received_at=month.replace(minute=one), body=b"\xff\x00 %d" % one)
        for number, month in enumerate((NOVEMBER, DECEMBER, JANUARY))
        for one in range(EACH)
    ]
    async with begin(runtime.engine) as conn:
        await partitions.make_partitions(conn, now=NOVEMBER, months=5)
        await events.insert(conn, heard)
        await applied(conn)
    return runtime


async def applied(conn) -> None:
    """All that waits was applied."""
    await events.remove_from_inbox(conn, await events.take_due(conn, now=JANUARY.replace(day=28), limit=100))


def changed(rt, **settings):
    rt.settings = rt.settings.model_copy(update=settings)


async def sql(rt, statement):
    async with begin(rt.engine) as conn:
        done = await conn.execute(text(statement))
        return list(done.scalars()) if done.returns_rows else []


async def tables(rt):
    return await sql(rt, "SELECT relname FROM pg_class WHERE relname LIKE 'events\\_p20%' AND relkind = 'r' ORDER BY 1")


async def kept(rt):
    return await sql(rt, "SELECT count(*) FROM events")


def archived(rt):
    """The manifests of the archive, each with the lines of its file."""
    folder = rt.settings.events_export_dir
    found = []
    for path in sorted(folder.glob("*.json")):
        manifest = json.loads(path.read_text())
        data = (folder / manifest["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == manifest["sha256"]
        assert len(data) == manifest["bytes"]
        found.append((manifest, [json.loads(line) for line in gzip.decompress(data).splitlines()]))
    return found


async def test_months_that_are_old_enough_are_archived_whole_and_then_dropped(rt):
    before = await sql(
        rt, "SELECT row_to_json(e)::text FROM events e WHERE received_at < '2025-12-01' ORDER BY event_id"
    )
    assert await retention.run_once(rt) == 2
    before_april = [one for one in await tables(rt) if one < "events_p2026_04"]  # the template has later ones
    assert before_april == ["events_p2026_01", "events_p2026_02", "events_p2026_03"]
    assert await kept(rt) == [EACH]
    (november, lines), (december, _) = archived(rt)
    assert (november["events"], december["events"]) == (EACH, EACH)
    assert november["first"].startswith("2025-11-10T00:00:00")
    for line, row in zip(sorted(lines, key=lambda one: one["event_id"]), map(json.loads, before), strict=True):
        assert line["event_id"] == row["event_id"]
        assert "\\x" + base64.b64decode(line["body"]).hex() == row["body"]
        assert "\\x" + line["digest"] == row["digest"]
        assert {name: line[name] for name in ("submission_id", "creation_no", "source", "headers", "peer")} == {
            name: row[name] for name in ("submission_id", "creation_no", "source", "headers", "peer")
        }
    rt.clock.advance(3601)
    assert await retention.run_once(rt) == 0
    assert len(archived(rt)) == 2
    assert not list(rt.settings.events_export_dir.glob(".*"))


async def test_where_no_time_is_set_nothing_is_ever_dropped(rt):
    changed(rt, events_keep_months=None, events_drop=True)
    assert await retention.run_once(rt) == 0
    assert await kept(rt) == [3 * EACH]


async def test_without_an_archive_months_are_dropped_where_that_was_asked_for(rt):
    changed(rt, events_export_dir=None, events_drop=True)
    assert await retention.run_once(rt) == 2
    assert await kept(rt) == [EACH]


async def test_a_month_of_which_an_event_waits_to_be_applied_stays(rt):
    late = event(99, received_at=DECEMBER.replace(day=20))
    async with begin(rt.engine) as conn:
        await events.insert(conn, [late])
    assert await retention.run_once(rt) == 1
    assert "events_p2025_12" in await tables(rt)
    assert await kept(rt) == [2 * EACH + 1]
    async with begin(rt.engine) as conn:
        await applied(conn)
    rt.clock.advance(301)
    assert await retention.run_once(rt) == 1
    assert [manifest["events"] for manifest, _ in archived(rt)] == [EACH, EACH + 1]


async def test_an_archive_that_cannot_be_written_leaves_everything_as_it_was_and_is_a_trouble(rt):
    rt.settings.events_export_dir.write_text("a file where a folder should be")
    assert await retention.run_once(rt) == 0
    assert await kept(rt) == [3 * EACH]
    assert "archive" in rt.health.issues
    rt.settings.events_export_dir.unlink()
    rt.clock.advance(301)
    assert await retention.run_once(rt) == 2
    assert rt.health.issues == {}


async def test_a_table_that_somebody_uses_for_long_is_left_for_later(rt):
    async with begin(rt.engine) as conn:
        await conn.execute(text("SELECT count(*) FROM events"))
        assert await retention.run_once(rt) == 0
    assert await kept(rt) == [3 * EACH]
    assert rt.health.issues == {}
    rt.clock.advance(301)
    assert await retention.run_once(rt) == 2


async def test_who_is_at_work_on_another_month_does_not_matter(rt):
    async with begin(rt.engine) as conn:
        await conn.execute(text("LOCK TABLE events_p2026_03 IN SHARE UPDATE EXCLUSIVE MODE"))  # as its vacuum does
        assert await retention.run_once(rt) == 2


async def test_a_month_that_was_taken_out_by_a_daemon_that_died_is_archived_by_the_next(rt):
    async with begin(rt.engine) as conn:
        assert await partitions.take_out(conn, Month.of(NOVEMBER))
        assert await partitions.take_out(conn, Month.of(NOVEMBER))
    with pytest.raises(AppendOnly):
        await sql(rt, "DELETE FROM events_p2025_11")
    with pytest.raises(AppendOnly):
        await sql(rt, "TRUNCATE events_p2025_11")
    assert await retention.run_once(rt) == 2
    assert [manifest["events"] for manifest, _ in archived(rt)] == [EACH, EACH]


async def test_a_month_is_not_dropped_while_it_is_a_part_or_holds_something_else_than_the_archive(rt):
    november = Month.of(NOVEMBER)
    said = DroppedMonth(november.first, rt.clock.now(), events=EACH)
    async with begin(rt.engine) as conn:
        assert not await partitions.drop(conn, november, holding=EACH, dropped=said)
        assert await partitions.take_out(conn, november)
        assert not await partitions.drop(conn, november, holding=EACH - 1, dropped=said)
        assert await partitions.count(conn, november) == EACH
        assert await seals.dropped_months_of(conn) == []
        assert await partitions.drop(conn, november, holding=EACH, dropped=said)
        assert await seals.dropped_months_of(conn) == [said]


async def test_one_daemon_does_it_at_a_time(rt):
    rows = "INSERT INTO scheduled_jobs (job, due_at, lease_token, lease_until) VALUES ('retention', '{0}', gen_random_uuid(), '{1}')"
    await sql(rt, rows.format(rt.clock.now(), rt.clock.now().replace(hour=23)))
    assert await retention.run_once(rt) == 0
    assert await kept(rt) == [3 * EACH]


async def test_large_months_are_read_in_pieces(rt, monkeypatch):
    monkeypatch.setattr(retention, "_AT_ONCE", 2)
    assert await retention.run_once(rt) == 2
    assert [len({line["event_id"] for line in lines}) for _, lines in archived(rt)] == [EACH, EACH]


async def test_an_export_that_was_interrupted_is_resumed_and_writes_no_event_twice(rt, monkeypatch):
    monkeypatch.setattr(retention, "_AT_ONCE", 1)
    sound, written, cut_offs = Archive.write, [], [OSError(28, "No space left on device"), StorageUnavailable("57P01")]

    def write(archive, events):
        if written and cut_offs:
            raise cut_offs.pop()
        sound(archive, events)
        written.extend(one.event_id for one in events)

    monkeypatch.setattr(Archive, "write", write)
    for _ in range(2):
        assert await retention.run_once(rt) == 0
        rt.clock.advance(301)
    assert await retention.run_once(rt) == 2
    assert len(written) == len(set(written)) == 2 * EACH
    assert [len({line["event_id"] for line in lines}) for _, lines in archived(rt)] == [EACH, EACH]
    assert not list(rt.settings.events_export_dir.glob(".*"))


def test_months_are_counted_across_years():
    january = Month.of(datetime(2026, 1, 31, 23, tzinfo=UTC))
    assert [str(january.back(number)) for number in (0, 1, 2, 13)] == ["2026-01", "2025-12", "2025-11", "2024-12"]
    assert str(Month.of(DECEMBER).following) == "2026-01"


async def test_a_month_is_counted_in_parts_and_exported_once_however_often_it_cannot_be_dropped(rt, monkeypatch):
    monkeypatch.setattr(partitions, "_COUNTED", 2)
    sound = partitions.drop

    async def busy(*_args, **_values):
        raise StorageUnavailable("55P03 canceling statement due to lock timeout")

    monkeypatch.setattr(partitions, "drop", busy)
    for _ in range(3):
        assert await retention.run_once(rt) == 0
        rt.clock.advance(400)
    (first,) = rt.settings.events_export_dir.glob("*.jsonl.gz")
    monkeypatch.setattr(partitions, "drop", sound)
    assert await retention.run_once(rt) > 0
    of_month = first.name.rpartition("-")[0]
    assert [path.name for path in rt.settings.events_export_dir.glob(f"{of_month}-*.jsonl.gz")] == [first.name]

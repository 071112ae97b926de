"""The record is sealed: everything once, whoever seals and whenever it comes, and an honest record never alarms."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest
from sealing import EACH, SealedStage

from service.audit import seal as sealing
from service.errors import SealingStopped
from service.storage import seals
from service.storage.engine import begin
from service.worker import seal


@pytest.fixture
def stage(runtime, tmp_path):
    return SealedStage(runtime, tmp_path)


async def honest(stage, *, unsealed=0):
    """The record verifies, every row was sealed once, and so many are not sealed yet."""
    report = await stage.verify()
    assert report.findings == []
    assert report.unsealed.count == unsealed
    assert report.rows == await stage.count() - unsealed
    ((rows,),) = await stage.sql("SELECT sum(rows) FROM seals")
    assert rows == report.rows + sum(report.dropped.values())
    return report


async def test_every_row_of_every_table_is_sealed_once_and_verifies(stage):
    for rows in (3, 0, 7):
        await stage.record(rows)
        await stage.seal()
        await honest(stage)
    report = await honest(stage)
    assert report.signed_size == report.size
    assert report.late.count == 0
    assert stage.rt.health.issues == {}


async def test_what_was_recorded_since_is_not_sealed_yet(stage):
    await stage.record(2)
    await stage.seal()
    await stage.record(3)
    report = await honest(stage, unsealed=3 * EACH)
    assert "2026-03-02 12:01:00Z" in report.unsealed.named[0]


async def test_a_row_of_a_transaction_that_was_open_meanwhile_is_sealed_later(stage):
    await stage.record()
    async with begin(stage.engine) as conn:
        await stage._one_of_each(conn, stage.rt.clock.now())
        await stage.record(2)
        await stage.seal()
        await honest(stage)
    await honest(stage, unsealed=EACH)
    await stage.record(1)
    assert await stage.seal() == 2 * EACH
    await honest(stage)


async def test_what_is_sealed_while_somebody_verifies_is_no_finding(stage, monkeypatch):
    await stage.record()
    await stage.seal()
    read = seals.read_checkpoints

    async def and_sealing_goes_on(conn, log_id):
        found = await read(conn, log_id)
        monkeypatch.undo()
        await stage.record(1)
        await stage.seal()
        return found

    monkeypatch.setattr(seals, "read_checkpoints", and_sealing_goes_on)
    await honest(stage)


async def test_late_rows_are_sealed_when_they_come_and_are_named(stage):
    await stage.record()
    await stage.seal()
    stage.rt.clock.advance(86_400)
    await stage.record(1, at=stage.rt.clock.now() - timedelta(hours=20))
    await stage.seal()
    report = await honest(stage)
    assert report.late.count == EACH
    assert "claims 2026-03-02 16:01:00Z and was sealed at 2026-03-03 12:02:02Z" in report.late.named[0]


async def test_a_page_ends_anywhere_also_within_a_transaction(stage, monkeypatch):
    for page in (1, 2, 7):
        monkeypatch.setattr(sealing, "PAGE", page)
        await stage.record(5)
        await stage.record(1)
        assert await stage.seal() >= 6 * EACH
        await honest(stage)


async def test_a_pass_that_was_broken_off_at_any_page_is_continued(stage, monkeypatch):
    monkeypatch.setattr(sealing, "PAGE", 4)
    await stage.record(6)

    class DiedError(Exception):
        pass

    async def dies_after(pages):
        async def extend():
            nonlocal pages
            pages -= 1
            if pages < 0:
                raise DiedError

        await sealing.seal(stage.rt, extend)

    for pages in range(1, 14):
        with suppress(DiedError):
            await dies_after(pages % 3)
        await stage.record(1)
    await stage.seal()
    await stage.seal()
    await honest(stage)


async def test_several_daemons_seal_one_after_another(stage, monkeypatch):
    monkeypatch.setattr(sealing, "PAGE", 3)
    for _ in range(4):
        await stage.record(4)
        stage.rt.clock.advance(100)
        await asyncio.gather(*(seal.run_once(stage.rt) for _ in range(4)))
    await stage.seal()
    await honest(stage)


async def test_two_that_believe_to_have_the_lease_seal_nothing_twice(stage, monkeypatch):
    monkeypatch.setattr(sealing, "PAGE", 3)
    await stage.seal()

    async def lets_others_go():
        await asyncio.sleep(0)

    for _ in range(3):
        await stage.record(4)
        await asyncio.gather(*(sealing.seal(stage.rt, lets_others_go) for _ in range(3)), return_exceptions=True)
    await stage.seal()
    await stage.seal()
    await honest(stage)


async def test_a_dump_that_was_restored_into_a_server_that_counts_from_the_beginning_is_sealed_on(stage):
    await stage.record()
    await stage.seal()
    # The rows carry the numbers of the old server, far beyond those of this one.
    await stage.tamper("UPDATE logs SET server = 'another', snapshot = '900000:900000:'")
    await stage.record(2)
    report = await stage.verify()
    assert (report.findings, report.unsealed.count) == ([], 2 * EACH)
    assert await stage.seal() == 2 * EACH
    await honest(stage)
    await stage.record(1)
    assert await stage.seal() == EACH
    await honest(stage)


async def test_a_restored_record_is_not_sealed_until_a_log_is_begun_on_purpose(stage):
    await stage.record()
    await stage.seal()
    saved = {name: await stage.sql(f"SELECT * FROM {name}") for name in ("logs",)}
    ((size,),) = await stage.sql("SELECT size FROM logs")
    await stage.record()
    await stage.seal()
    assert saved
    # The database as it was before the second seal.
    await stage.tamper(
        f"DELETE FROM seals WHERE first_leaf >= {size}", f"DELETE FROM checkpoints WHERE size > {size}",
        f"UPDATE logs SET size = {size}",
    )  # fmt: skip
    assert await stage.seal() == 0
    assert "was the database restored?" in stage.rt.health.issues["sealing stopped"]
    with pytest.raises(SealingStopped):
        await sealing.seal(stage.rt, lambda: asyncio.sleep(0))
    await sealing.begin_log(stage.rt, reason="restored in a test")
    assert await stage.seal() > 0
    assert stage.rt.health.issues == {}
    report = await stage.verify()
    assert report.findings == []


async def test_a_database_that_does_not_know_the_published_log_is_not_sealed(stage):
    await stage.record()
    await stage.seal()
    await stage.tamper("DELETE FROM logs", "DELETE FROM log_tiles", "DELETE FROM seals", "DELETE FROM checkpoints")
    assert await stage.seal() == 0
    assert "does not know that log" in stage.rt.health.issues["sealing stopped"]


async def test_a_log_that_was_tampered_with_is_not_signed(stage):
    await stage.record()
    await stage.seal()
    await stage.tamper("UPDATE log_tiles SET hashes = set_byte(hashes, 40, get_byte(hashes, 40) # 1) WHERE level = 0")
    await stage.record()
    assert await stage.seal() == 0
    assert "hashes are not those" in stage.rt.health.issues["sealing stopped"]


async def test_a_checkpoint_is_published_to_a_directory_and_to_a_command(stage, tmp_path):
    told = tmp_path / "told"
    stage.rt.settings = stage.rt.settings.model_copy(update={"seal_publish_command": f"tee {told}"})
    await stage.record()
    await stage.seal()
    async with begin(stage.engine) as conn:
        log = await seals.newest(conn)
        checkpoint = await seals.latest_checkpoint(conn, log.log_id)
    folder = stage.rt.settings.seal_publish_dir
    each = folder / str(log.log_id) / "2026-03-02" / f"{checkpoint.size:012d}.checkpoint"
    for path in (
        told,
        each,
        folder / "latest.checkpoint",
        stage.rt.settings.data_dir / "checkpoints/latest.checkpoint",
    ):
        assert path.read_text() == checkpoint.note


async def test_a_place_that_is_away_gets_its_checkpoints_later_and_sealing_goes_on(stage, tmp_path):
    stage.rt.settings = stage.rt.settings.model_copy(update={"seal_publish_command": "false"})
    for _ in range(2):
        await stage.record()
        assert await stage.seal() > 0
    assert "exit code 1" in stage.rt.health.issues["checkpoints not published"]
    stage.rt.settings = stage.rt.settings.model_copy(update={"seal_publish_command": None})
    await stage.seal()
    assert stage.rt.health.issues == {}
    assert await stage.sql("SELECT count(*) FROM checkpoints WHERE published_at IS NULL") == [(0,)]
    await honest(stage)

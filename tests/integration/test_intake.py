"""Durable before answered, on a Postgres that goes away, comes back, is slow, or was never there."""

import asyncio
import errno
import os
import random
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from conftest import SECRET, NoProvider
from hypothesis import HealthCheck, given
from hypothesis import settings as trying
from postgres import in_a_thread, migrated
from pydantic import SecretStr
from receiving import listening
from sqlalchemy import text
from stored_events import EVENTS, REF, event
from structlog.testing import capture_logs

from service.core.token import CreationRef
from service.errors import StorageUnavailable
from service.provider.client import Client
from service.receiver.app import Receiver
from service.receiver.segments import Segments
from service.runtime.clock import DatabaseClock
from service.runtime.runtime import Runtime
from service.storage.engine import begin, create_engine
from service.storage.event_writer import EventWriter


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"spool_after_seconds": 0.5})


@pytest.fixture
async def away(own_postgres, settings):
    """A runtime whose Postgres a test may stop and start. Time is real: nothing else would let an outage end."""
    in_a_thread(migrated(own_postgres.url))
    transport = NoProvider()
    engine = create_engine(own_postgres.url)
    yield Runtime(
        settings=settings,
        engine=engine,
        client=Client(transport, base_url=settings.infrahub_url, api_key=SecretStr("an-api-key-of-tests")),
        transport=transport,
        callback_secrets=(SECRET.encode(),),
        clock=DatabaseClock(),
        rng=random.Random(7),
    )
    await engine.dispose()


async def stop(postgres):
    await asyncio.to_thread(postgres.stop, "immediate")


async def start(postgres):
    await asyncio.to_thread(postgres.start)


def numbered(start, end):
    return [f"callback {number:04d}".encode() for number in range(start, end)]


async def posted(heard, bodies):
    return [await heard.post(body) for body in bodies]


async def drained(heard):
    await heard.receiver._spool.empty.wait()


async def test_callbacks_are_acknowledged_while_postgres_is_away_and_recorded_when_it_is_back(away, own_postgres):
    async with listening(away) as heard:
        assert set(await posted(heard, numbered(0, 20))) == {200}
        await stop(own_postgres)
        assert set(await posted(heard, numbered(20, 60))) == {200}
        await start(own_postgres)
        assert set(await posted(heard, numbered(60, 80))) == {200}
        assert await heard.recorded(80) == numbered(0, 80)
        assert await heard.queued() == 80


async def test_a_postgres_that_crashes_under_load_loses_nothing_and_repeats_nothing(away, own_postgres):
    bodies = [[f"{sender} {number:03d}".encode() for number in range(150)] for sender in range(4)]

    async with listening(away) as heard:
        senders = [asyncio.create_task(posted(heard, some)) for some in bodies]
        await heard.recorded(50)
        await stop(own_postgres)
        await start(own_postgres)
        answers = await asyncio.gather(*senders)
        assert {status for some in answers for status in some} == {200}
        recorded = await heard.recorded(600)
    assert sorted(recorded) == sorted(body for some in bodies for body in some)
    for sender, some in enumerate(bodies):
        assert [body for body in recorded if body.startswith(f"{sender} ".encode())] == some


async def test_the_spool_comes_to_its_end_under_callbacks_that_never_pause(away, own_postgres):
    async with listening(away) as heard:
        over = asyncio.Event()
        senders = [asyncio.create_task(posted_until(over, heard, sender)) for sender in range(8)]
        await stop(own_postgres)
        while heard.receiver._spool.empty.is_set():
            assert await heard.post(b"one more") == 200
        await start(own_postgres)
        async with asyncio.timeout(30):
            await drained(heard)
        over.set()
        sent = [body for some in await asyncio.gather(*senders) for body in some]
        recorded = await heard.bodies()
        assert {body for body in recorded if body != b"one more"} == set(sent)
        for sender in range(8):
            mine = [body for body in recorded if body.startswith(f"{sender} ".encode())]
            assert mine == [body for body in sent if body in set(mine)]


async def posted_until(over, heard, sender):
    """The bodies that were posted, each acknowledged before the next was sent."""
    bodies = []
    while not over.is_set():
        bodies.append(f"{sender} {len(bodies)}".encode())
        assert await heard.post(bodies[-1]) == 200
    return bodies


async def test_what_is_acknowledged_survives_a_crash_of_postgres(away, own_postgres):
    async with listening(away) as heard:
        assert set(await posted(heard, numbered(0, 50))) == {200}
        await stop(own_postgres)
    await start(own_postgres)
    async with begin(away.engine) as conn:
        assert (await conn.execute(text("SELECT count(*) FROM events"))).scalar_one() == 50


async def test_a_receiver_that_starts_without_postgres_hears_all_the_same(away, own_postgres):
    await stop(own_postgres)
    async with listening(away) as heard:
        assert set(await posted(heard, numbered(0, 5))) == {200}
        await start(own_postgres)
        assert await heard.recorded(5) == numbered(0, 5)


async def test_what_waits_when_the_receiver_stops_is_recorded_by_the_next_one_and_first(away, own_postgres):
    await stop(own_postgres)
    async with listening(away) as heard:
        assert set(await posted(heard, numbered(0, 5))) == {200}
    async with listening(away) as heard:
        assert set(await posted(heard, numbered(5, 10))) == {200}
        await start(own_postgres)
        assert await heard.recorded(10) == numbered(0, 10)
        await heard.receiver._spool.empty.wait()
    assert list((away.settings.data_dir / "spool").glob("process-*")) == []


async def test_a_postgres_that_is_too_slow_does_not_keep_the_sender_waiting(runtime):
    async with listening(runtime) as heard:
        async with locked_events(runtime):
            assert set(await posted(heard, numbered(0, 10))) == {200}
            assert not heard.receiver._spool.empty.is_set()
        assert await heard.recorded(10) == numbered(0, 10)


@asynccontextmanager
async def locked_events(runtime):
    async with runtime.engine.connect() as conn:
        await conn.execute(text("LOCK TABLE events IN ACCESS EXCLUSIVE MODE"))
        yield
        await conn.rollback()


async def test_a_segment_of_a_dead_process_is_recorded_and_its_repeats_are_not(runtime):
    spool = runtime.settings.data_dir / "spool"
    dead = Segments(spool, most_bytes=2**20)
    dead.open()
    dead.append([event(1), event(2)])
    dead.append([event(2), event(3)])
    dead.close()
    async with listening(runtime) as heard:
        assert sorted(await heard.recorded(3)) == [b"callback 1", b"callback 2", b"callback 3"]
        await drained(heard)
        assert await heard.queued() == 3
    assert list(spool.glob("process-*")) == []


async def test_an_event_that_was_applied_already_is_not_queued_again_by_the_spool(runtime):
    writer = EventWriter(runtime.engine.url)
    await writer.store([event(1)], within=5)
    async with begin(runtime.engine) as conn:
        await conn.execute(text("DELETE FROM inbox"))
    await writer.store([event(1), event(2)], within=5)
    await writer.close()
    async with begin(runtime.engine) as conn:
        assert (await conn.execute(text("SELECT count(*) FROM events"))).scalar_one() == 2
        assert (await conn.execute(text("SELECT count(*) FROM inbox"))).scalar_one() == 1


async def test_a_damaged_segment_is_put_aside_and_the_rest_of_it_recorded(runtime):
    spool = runtime.settings.data_dir / "spool"
    dead = Segments(spool, most_bytes=2**20)
    dead.open()
    dead.append([event(1), event(2)])
    (segment,) = dead.complete()
    dead.close()
    segment.write_bytes(segment.read_bytes()[:-1])
    async with listening(runtime) as heard:
        assert await heard.recorded(1) == [b"callback 1"]
        await drained(heard)
    assert len(list(spool.glob("*.damaged"))) == 1


async def test_a_segment_that_the_disk_does_not_give_holds_up_no_other(runtime):
    spool = runtime.settings.data_dir / "spool"
    dead = Segments(spool, most_bytes=2**20)
    dead.open()
    dead.append([event(1), event(2)])
    (segment,) = dead.complete()
    dead.close()
    # Reading a folder as a file fails, as reading a bad sector does.
    (segment.parent / f"{0:018d}-bad{segment.suffix}").mkdir()
    async with listening(runtime) as heard:
        assert await heard.recorded(2) == [b"callback 1", b"callback 2"]
        await drained(heard)
        assert await heard.post(b"callback 3") == 200
        assert sorted(await heard.recorded(3)) == [b"callback 1", b"callback 2", b"callback 3"]
        assert "cannot be read" in runtime.health.issues["spool segment"]
        await heard.receiver._spool.look()
        await drained(heard)
        assert "cannot be read" in runtime.health.issues["spool segment"]  # nothing has changed
        (segment.parent / f"{0:018d}-bad{segment.suffix}").rmdir()
        await heard.receiver._spool.look()
        await drained(heard)
        assert runtime.health.issues == {}


async def test_a_disk_that_becomes_writable_again_resolves_its_issues_by_itself(away, own_postgres, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    async with listening(away) as heard:
        spool = heard.receiver._spool
        await stop(own_postgres)
        assert await heard.post(b"spooled") == 200
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "TemporaryFile", read_only)
            patch.setattr(Path, "unlink", read_only)
            patch.setattr("service.receiver.segments._Active.append", read_only)
            assert await heard.post(b"lost with both") == 503
            await start(own_postgres)
            await drained(heard)
            await spool.look()
            await drained(heard)
            assert set(away.health.issues) == {"spool disk", "spool segment"}
        await spool.look()
        await drained(heard)
        assert away.health.issues == {}
        assert await heard.bodies() == [b"spooled"]
    assert list((away.settings.data_dir / "spool").rglob("*.segment")) == []


async def test_a_disk_that_failed_is_tried_again_although_nothing_is_spooled(runtime, monkeypatch):
    """Nothing but the probe can know that the disk works again."""

    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    async with listening(runtime) as heard:
        spool = heard.receiver._spool
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "TemporaryFile", read_only)
            patch.setattr("service.receiver.segments._Active.append", read_only)
            async with locked_events(runtime):
                assert await heard.post(b"lost with both") == 503
            await drained(heard)
            await spool.look()
            assert set(runtime.health.issues) >= {"spool disk"}
        await spool.look()
        assert "spool disk" not in runtime.health.issues


async def test_a_segment_that_cannot_be_removed_is_recorded_once_and_holds_up_nobody(away, own_postgres, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    async with listening(away) as heard:
        await stop(own_postgres)
        assert await heard.post(b"spooled") == 200
        monkeypatch.setattr(Segments, "remove", read_only)
        monkeypatch.setattr(Segments, "append", read_only)
        await start(own_postgres)
        await drained(heard)
        assert await heard.post(b"after it") == 200
        assert await heard.recorded(2) == [b"spooled", b"after it"]
        assert "cannot be removed" in away.health.issues["spool segment"]
    monkeypatch.undo()
    async with listening(away) as heard:  # the next process finds it again, and it is there once
        await drained(heard)
        assert await heard.bodies() == [b"spooled", b"after it"]


async def test_a_disk_that_takes_no_more_is_no_reason_to_turn_callbacks_away_from_postgres(
    away, own_postgres, monkeypatch
):
    async def not_yet(_):
        return False

    def refuses(*_):
        raise StorageUnavailable("the spool cannot be written: Read-only file system")

    async with listening(away) as heard:
        await stop(own_postgres)
        assert await heard.post(b"spooled") == 200
        with monkeypatch.context() as patch:
            patch.setattr(type(heard.receiver._spool), "_drained", not_yet)
            patch.setattr(Segments, "append", refuses)
            assert await heard.post(b"lost with both") == 503
            await start(own_postgres)
            assert await heard.post(b"kept by Postgres") == 200
            assert await heard.recorded(1) == [b"kept by Postgres"]
        assert sorted(await heard.recorded(2)) == [b"kept by Postgres", b"spooled"]


async def test_where_neither_postgres_nor_the_spool_can_be_had_the_sender_is_told_to_come_again(away, own_postgres):
    away.settings.data_dir.mkdir(parents=True)
    (away.settings.data_dir / "spool").write_text("this is no folder")
    await stop(own_postgres)
    async with listening(away) as heard:
        async with heard.session.post(f"http://127.0.0.1:{heard.port}{heard.path()}", data=b"{}") as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) > 0
        assert set(away.health.issues) == {"spool", "spool disk"}
        await start(own_postgres)
        await until_heard(heard)
        assert await heard.bodies() == [b"again"]
        assert "spool" not in away.health.issues


async def until_heard(heard):
    while await heard.post(b"again") != 200:
        pass


async def test_a_full_spool_turns_callbacks_away_and_keeps_what_it_has(away, own_postgres):
    away.settings = away.settings.model_copy(update={"spool_max_bytes": 2000})
    await stop(own_postgres)
    async with listening(away) as heard:
        assert await heard.post(b"x" * 1000) == 200
        assert await heard.post(b"y" * 1000) == 503
        assert "the spool is full" in away.health.issues["spool disk"]
        await start(own_postgres)
        assert await heard.recorded(1) == [b"x" * 1000]
        await drained(heard)
        assert await heard.post(b"z" * 1000) == 200
        assert away.health.issues == {}


async def test_an_outage_is_told_once_in_the_log_and_for_as_long_as_it_lasts_in_health(away, own_postgres):
    with capture_logs() as lines:
        async with listening(away) as heard:
            await stop(own_postgres)
            await posted(heard, numbered(0, 10))
            assert set(away.health.issues) == {"spool"}
            assert away.metrics.registry.get_sample_value("rollcall_spool_bytes") > 0
            await start(own_postgres)
            await heard.recorded(10)
            await drained(heard)
            assert away.health.issues == {}
            assert away.metrics.registry.get_sample_value("rollcall_spool_bytes") == 0
    told = [line["event"] for line in lines]
    assert (told.count("spool.begun"), told.count("spool.ended")) == (1, 1)


@trying(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(one=EVENTS)
def test_postgres_takes_whatever_can_be_heard(database_url, one):
    async def kept():
        engine = create_engine(database_url)
        writer = EventWriter(engine.url)
        await writer.store([one], within=5)
        await writer.close()
        await engine.dispose()

    asyncio.run(kept())


async def test_a_keeper_that_gave_up_begins_anew(runtime):
    writer = EventWriter(runtime.engine.url)
    await writer.store([event(1)], within=5)
    async with locked_events(runtime):
        with pytest.raises(StorageUnavailable):
            await writer.store([event(2)], within=0.05)
    await writer.store([event(2), event(3)], within=5)
    await writer.close()
    async with begin(runtime.engine) as conn:
        assert (await conn.execute(text("SELECT count(*) FROM events"))).scalar_one() == 3


async def test_two_receivers_on_one_database_and_one_folder_record_all_that_both_heard(away, own_postgres):
    async with listening(away) as one, listening(away) as two:
        await stop(own_postgres)
        refs = [CreationRef(REF.submission_id, number) for number in range(2)]
        for number in range(10):
            heard = (one, two)[number % 2]
            assert await heard.post(f"{number}".encode(), heard.path(refs[number % 2])) == 200
        await start(own_postgres)
        assert sorted(await one.recorded(10)) == [f"{number}".encode() for number in range(10)]


async def test_a_listener_without_an_address_says_so_and_leaves_nothing_running(runtime):
    async with listening(runtime) as heard:
        second = Receiver(runtime)
        with pytest.raises(OSError, match="address already in use"):
            await second.start("127.0.0.1", heard.port)
        await second.close()

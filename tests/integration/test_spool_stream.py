"""The spool in a JetStream stream: one real server. Postgres is taken away from a receiver by its own connections."""

import asyncio
import hashlib
import re
import subprocess
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import nats
import pytest
from nats.js import api
from nats_servers import BINARY, PASSWORD, USER, NatsServer, nats_server, spool_url
from pydantic import SecretStr
from receiving import listening
from stored_events import event
from tls import Authority

from service.app import checks
from service.errors import StorageUnavailable
from service.receiver import spool_stream
from service.receiver.nats_session import NatsError, NatsSession
from service.receiver.records import header, pack
from service.receiver.segments import Segments
from service.runtime.health import Health
from service.runtime.metrics import Metrics
from service.storage.event_writer import EventWriter

STREAM = "ROLLCALL"
SALT = b"sixteen bytes..."


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(spool_stream.StreamStorage, "look_seconds", 0.05)


@pytest.fixture
def server(tmp_path):
    with nats_server(tmp_path) as running:
        yield running


@pytest.fixture
def streamed(runtime, server):
    runtime.settings = with_stream(runtime.settings, server)
    return runtime


def with_stream(settings, server, query="?replicas=1", **changes):
    return settings.model_copy(update={"spool_url": SecretStr(spool_url([server], STREAM, query)), **changes})


def elsewhere(runtime, tmp_path):
    """The same daemon on another machine: nothing is shared but Postgres and the stream."""
    settings = runtime.settings.model_copy(update={"data_dir": tmp_path / "elsewhere"})
    return replace(runtime, settings=settings, metrics=Metrics(), health=Health(), events_stored=asyncio.Event())


@contextmanager
def without_postgres(heard):
    """Postgres is away for this receiver."""

    async def refuse(*_, **__):
        raise StorageUnavailable("Postgres is away")

    writers = heard.receiver._writers
    for writer in writers:
        writer.store = refuse
    try:
        yield
    finally:
        for writer in writers:
            del writer.store


@asynccontextmanager
async def jetstream(server):
    client = await nats.connect(f"nats://127.0.0.1:{server.port}", user=USER, password=PASSWORD)
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def posted(heard, start, end):
    return {await heard.post(body) for body in numbered(start, end)}


def numbered(start, end):
    return [f"callback {number:04d}".encode() for number in range(start, end)]


async def drained(heard):
    await heard.receiver._spool.empty.wait()


async def until_issues(heard, *names):
    async with asyncio.timeout(20):
        while set(heard.runtime.health.issues) != set(names):
            await heard.receiver._spool.look()
            await asyncio.sleep(0)


def shown_bytes(runtime):
    return runtime.metrics.registry.get_sample_value("rollcall_spool_bytes")


async def test_callbacks_are_acknowledged_while_postgres_is_away_and_recorded_when_it_is_back(streamed):
    async with listening(streamed) as heard:
        assert await posted(heard, 0, 10) == {200}
        with without_postgres(heard):
            assert await posted(heard, 10, 40) == {200}
            assert set(streamed.health.issues) == {"spool"}
            assert shown_bytes(streamed) > 0
        assert await posted(heard, 40, 50) == {200}
        assert await heard.recorded(50) == numbered(0, 50)
        await drained(heard)
        assert await posted(heard, 50, 51) == {200}
        assert await heard.queued() == 51
        await heard.receiver._spool.look()
        assert streamed.health.issues == {}
        assert shown_bytes(streamed) == 0
    assert not (streamed.settings.data_dir / "spool").exists()


async def test_what_a_machine_left_is_recorded_by_another_that_is_sent_nothing(streamed, tmp_path):
    with ExitStack() as until_it_has_ended:
        async with listening(streamed) as heard:
            until_it_has_ended.enter_context(without_postgres(heard))
            assert await posted(heard, 0, 20) == {200}
    async with listening(elsewhere(streamed, tmp_path)) as heard:
        assert await heard.recorded(20) == numbered(0, 20)
        await drained(heard)
        assert await heard.queued() == 20


async def test_a_receiver_that_cannot_reach_postgres_is_drained_by_one_that_can(streamed, tmp_path):
    other = elsewhere(streamed, tmp_path)
    async with listening(streamed) as cut_off, listening(other) as heard:
        with without_postgres(cut_off):
            assert await posted(cut_off, 0, 5) == {200}
            assert await heard.recorded(5) == numbered(0, 5)
            assert await posted(heard, 5, 10) == {200}
            assert await posted(cut_off, 10, 15) == {200}
            assert sorted(await heard.recorded(15)) == numbered(0, 15)
            assert heard.receiver._spool.empty.is_set()  # its own callbacks take no detour
        await drained(cut_off)
        assert await heard.queued() == 15


async def test_new_callbacks_go_to_the_stream_until_another_receiver_is_done_with_the_earlier_ones(streamed):
    url = streamed.settings.spool
    async with listening(streamed) as heard:
        with without_postgres(heard):
            assert await posted(heard, 0, 3) == {200}
            other = await NatsSession.connect(url, url.servers[0])
            in_hand = await other.pull()
        assert await posted(heard, 3, 6) == {200}
        assert await heard.recorded(3) == numbered(3, 6)  # of what it could take
        assert not await heard.receiver._spool._storage.is_drained()
        assert not heard.receiver._spool.empty.is_set()
        await other.give_back(in_hand)
        await other.close()
        assert await heard.recorded(6) == numbered(0, 6)
        await drained(heard)


async def test_an_event_whose_acknowledgement_was_lost_is_recorded_once(streamed, monkeypatch):
    sound, lost = NatsSession.acknowledge, []

    async def lose(session, messages):
        if not lost:
            lost.append(messages)
            raise NatsError("the connection was lost")
        await sound(session, messages)

    monkeypatch.setattr(NatsSession, "acknowledge", lose)
    async with listening(streamed) as heard:
        with without_postgres(heard):
            assert await posted(heard, 0, 5) == {200}
        async with asyncio.timeout(20):
            await drained(heard)
        assert lost
        assert await heard.bodies() == numbered(0, 5)
        assert await heard.queued() == 5


async def test_a_message_that_is_published_again_is_in_the_stream_once(streamed, server, monkeypatch):
    sound, failures = NatsSession.publish, []

    async def publish_and_lose(session, messages, acknowledged):
        if not failures:
            failures.append(session)
            await sound(session, messages, {})
            raise NatsError("the connection was lost")
        await sound(session, messages, acknowledged)

    monkeypatch.setattr(NatsSession, "publish", publish_and_lose)
    async with listening(streamed) as heard:
        with without_postgres(heard):
            assert await posted(heard, 0, 1) == {200}
            async with jetstream(server) as js:
                assert (await js.stream_info(STREAM)).state.messages == 1
    assert failures


async def test_without_the_server_callbacks_go_to_postgres_and_the_issue_ends_by_itself(streamed, server):
    server.kill()
    async with listening(streamed) as heard:
        assert set(streamed.health.issues) == {"spool server"}
        assert PASSWORD not in str(streamed.health.issues)
        assert await posted(heard, 0, 5) == {200}
        server.start()
        await until_issues(heard)
        with without_postgres(heard):
            assert await posted(heard, 5, 10) == {200}
        assert await heard.recorded(10) == numbered(0, 10)


async def test_without_both_a_callback_is_refused_and_nothing_goes_to_the_disk(streamed, server, monkeypatch):
    monkeypatch.setattr(spool_stream, "_APPEND_SECONDS", 0.5)
    async with listening(streamed) as heard:
        with without_postgres(heard):
            assert await posted(heard, 0, 3) == {200}
            server.kill()
            assert await posted(heard, 3, 6) == {503}
            assert set(streamed.health.issues) == {"spool", "spool server"}
            server.start()
            await until_issues(heard, "spool")
            assert await posted(heard, 6, 9) == {200}
        assert await heard.recorded(6) == [*numbered(0, 3), *numbered(6, 9)]
    assert not (streamed.settings.data_dir / "spool").exists()


async def test_a_server_that_hangs_costs_a_bounded_time_and_then_nothing(streamed, server, monkeypatch):
    monkeypatch.setattr(spool_stream, "_APPEND_SECONDS", 1.0)
    async with listening(streamed) as heard:
        server.freeze()
        with without_postgres(heard):
            assert await posted(heard, 0, 1) == {503}
        assert await posted(heard, 1, 3) == {200}
        server.thaw()
        await until_issues(heard)
        with without_postgres(heard):
            assert await posted(heard, 3, 6) == {200}
        recorded = await heard.recorded(5)
        assert set(recorded) - set(numbered(0, 1)) == set(numbered(1, 6))


@pytest.mark.parametrize(
    "poison",
    [
        b"",
        b"not ours",
        header(SALT) + pack(event(1), SALT)[:-1],
        header(SALT) + pack(event(1, headers={"a": 7}), SALT),
        header(SALT) + pack(event(1, peer="\x00"), SALT),
        header(SALT) + pack(event(1, creation_no=2**40), SALT),
        header(SALT) + pack(event(1, creation_no=1.5), SALT),
        header(SALT) + pack(event(1, source="history"), SALT),
    ],
)
async def test_a_message_that_is_not_ours_holds_up_no_other_and_is_kept_for_people(streamed, server, poison):
    async with listening(streamed) as heard, jetstream(server) as js:
        with without_postgres(heard):
            assert await posted(heard, 0, 2) == {200}
            await js.publish(f"{STREAM}.events", poison)
            assert await posted(heard, 2, 4) == {200}
        assert await heard.recorded(4) == numbered(0, 4)
        async with asyncio.timeout(20):
            await drained(heard)
        await until_issues(heard, "spool messages")
        assert streamed.health.ready
        assert (await js.get_last_msg(STREAM, f"{STREAM}.damaged")).data in {poison, None}
        await js.purge_stream(STREAM, subject=f"{STREAM}.damaged")
        await until_issues(heard)


async def test_a_full_stream_turns_callbacks_away_and_keeps_what_it_has(streamed):
    streamed.settings = streamed.settings.model_copy(update={"spool_max_bytes": 20_000})
    async with listening(streamed) as heard:
        with without_postgres(heard):
            assert await heard.post(b"x" * 18_500) == 200  # up to nine tenths, a look at the stream finds room again
            assert await heard.post(b"y" * 15_000) == 503
            assert "the spool is full" in streamed.health.issues["spool server"]
        assert await heard.recorded(1) == [b"x" * 18_500]
        await drained(heard)
        await until_issues(heard)
        with without_postgres(heard):
            assert await heard.post(b"z" * 15_000) == 200


async def test_what_an_earlier_run_spooled_to_the_disk_is_recorded_too(streamed):
    dead = Segments(streamed.settings.data_dir / "spool", most_bytes=2**20)
    dead.open()
    dead.append([event(1), event(2)])
    dead.close()
    async with listening(streamed) as heard:
        assert await heard.recorded(2) == [b"callback 1", b"callback 2"]
        async with asyncio.timeout(20):
            await heard.receiver._spools[1].empty.wait()
        assert list((streamed.settings.data_dir / "spool").glob("process-*")) == []
        assert shown_bytes(streamed) == 0


@pytest.mark.parametrize(
    ("changes", "issue"),
    [
        ({"storage": "memory"}, "in memory"),
        ({"num_replicas": 1}, "it has 1 replica, and 3 are wanted"),
    ],
)
async def test_a_stream_that_is_weaker_than_it_should_be_is_used_and_reported(runtime, server, changes, issue):
    runtime.settings = with_stream(runtime.settings, server, query="")
    async with jetstream(server) as js:
        await js.add_stream(replace(stream(), **changes))
    async with listening(runtime) as heard:
        assert issue in runtime.health.issues["spool stream"]
        assert runtime.health.ready
        with without_postgres(heard):
            assert await posted(heard, 0, 1) == {200}


async def test_a_stream_that_others_made_is_reported_since_another_database_may_use_it(streamed, tmp_path):
    async with listening(streamed):
        assert streamed.health.issues == {}
    other = elsewhere(streamed, tmp_path)
    other.settings = other.settings.model_copy(update={"public_url": "https://others.example.com"})
    async with listening(other):
        assert "made for https://rollcall.example.com, not https://others" in other.health.issues["spool stream"]
        assert other.health.ready


def stream():
    return api.StreamConfig(
        name=STREAM, subjects=[f"{STREAM}.>"], retention=api.RetentionPolicy.WORK_QUEUE, discard=api.DiscardPolicy.NEW
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"retention": "limits"}, "workqueue"),
        ({"discard": "old"}, "discard new"),
        ({"max_age": 3600}, "limit of age"),
        ({"max_msgs_per_subject": 5}, "for a subject"),
        ({"subjects": [f"{STREAM}.events"]}, "subjects"),
        ({"no_ack": True}, "acknowledge"),
        ({"max_msg_size": 1000}, "max_payload"),
    ],
)
async def test_a_stream_that_may_lose_what_it_acknowledged_is_not_used(runtime, server, changes, why):
    runtime.settings = with_stream(runtime.settings, server)
    async with jetstream(server) as js:
        await js.add_stream(replace(stream(), **changes))
    async with listening(runtime) as heard:
        assert why in runtime.health.issues["spool server"]
        assert await posted(heard, 0, 1) == {200}


async def test_three_replicas_are_asked_for_and_one_server_says_why_it_has_none(runtime, server):
    runtime.settings = with_stream(runtime.settings, server, query="")
    async with listening(runtime) as heard:
        assert "cannot be made with 3 replicas" in runtime.health.issues["spool server"]
        assert await posted(heard, 0, 1) == {200}


async def test_a_server_whose_messages_are_too_small_for_a_callback_is_refused_at_once(runtime, tmp_path):
    with nats_server(tmp_path, max_payload=64 * 1024) as small:
        runtime.settings = with_stream(runtime.settings, small)
        async with listening(runtime):
            assert "raise max_payload" in runtime.health.issues["spool server"]


async def test_a_callback_whose_headers_are_too_large_for_a_message_costs_no_other(streamed, server):
    storage = spool_stream.StreamStorage(streamed.health, streamed.settings, streamed.settings.spool)
    await storage.open()
    huge = event(2, headers={"x-request-id": "x" * 2**20})
    with pytest.raises(StorageUnavailable, match="larger than a message"):
        await storage.append([event(1), huge, event(3)])
    await storage.close()
    async with listening(streamed) as heard:
        assert await heard.recorded(2) == [b"callback 1", b"callback 3"]


async def test_a_wrong_password_is_an_issue_and_in_no_text(runtime, server):
    wrong = spool_url([server], STREAM).replace(PASSWORD, "another-password")
    runtime.settings = runtime.settings.model_copy(update={"spool_url": SecretStr(wrong)})
    async with listening(runtime):
        assert "Authorization" in runtime.health.issues["spool server"]
        assert "another-password" not in str(runtime.health.issues)


async def test_no_password_is_sent_to_a_server_without_tls_if_the_url_asks_for_tls(runtime, server):
    plain = spool_url([server], STREAM).replace("nats://", "tls://")
    runtime.settings = runtime.settings.model_copy(update={"spool_url": SecretStr(plain)})
    async with listening(runtime):
        assert "secure connection" in runtime.health.issues["spool server"]
    assert USER not in server.log


async def test_a_server_with_tls_is_used_if_its_certificate_is_good(runtime, tmp_path, monkeypatch):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server", "127.0.0.1")
    with nats_server(tmp_path, tls=f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}') as secured:
        url = spool_url([secured], STREAM, "?replicas=1").replace("nats://", "tls://")
        runtime.settings = runtime.settings.model_copy(update={"spool_url": SecretStr(url)})
        async with listening(runtime):
            assert "certificate verify failed" in runtime.health.issues["spool server"]
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.root))
        async with listening(runtime) as heard:
            await until_issues(heard)
            with without_postgres(heard):
                assert await posted(heard, 0, 3) == {200}
            assert await heard.recorded(3) == numbered(0, 3)


async def test_every_pull_gets_all_that_waits_also_after_full_ones(server, settings):
    # After a full batch the server sends a status too; taken for the next one's answer, it hid what waited.
    session = await NatsSession.connect(with_stream(settings, server).spool, f"127.0.0.1:{server.port}")
    try:
        await session.prepare(most_bytes=2**26, longest=2**16)
        sizes, wanted = [], []
        for batch in range(3):
            await session.publish({f"{batch}.{one}": b"one" for one in range(600)}, {})
            while pulled := await session.pull():
                sizes.append(len(pulled))
                await session.acknowledge(pulled)
            wanted += [256, 256, 88]
            assert await session.drained_up_to(2**62)
        assert sizes == wanted
    finally:
        await session.close()


async def test_what_postgres_did_not_take_comes_first_again(streamed, monkeypatch):
    monkeypatch.setattr("service.receiver.nats_session._AT_ONCE", 20)
    tried = []
    store = EventWriter.store

    async def fails_at_times(writer, group, **how):
        bodies = [one.body for one in group]
        tried.append(bodies)
        if group and len(tried) % 3 == 0:
            raise StorageUnavailable("Postgres is away")
        await store(writer, group, **how)

    async with listening(streamed) as heard:
        with without_postgres(heard):
            assert await posted(heard, 0, 150) == {200}
            monkeypatch.setattr(EventWriter, "store", fails_at_times)
        assert sorted(await heard.recorded(150)) == numbered(0, 150)
        await drained(heard)
    parts = [bodies for bodies in tried if bodies]
    assert len(parts) > 8
    first = [bodies for number, bodies in enumerate(parts) if bodies != parts[number - 1]]
    assert [body for bodies in first for body in bodies] == sorted(numbered(0, 150))


async def test_new_callbacks_wait_for_the_last_few_alone_however_much_is_drained(streamed, monkeypatch):
    monkeypatch.setattr("service.receiver.spool._FEW", 30)
    monkeypatch.setattr("service.receiver.nats_session._AT_ONCE", 20)
    while_waiting = []
    async with listening(streamed) as heard:
        spool = heard.receiver._spool
        store = EventWriter.store

        async def note(writer, group, **how):
            while_waiting.append((spool.turn.locked(), len(group)))
            await store(writer, group, **how)

        with without_postgres(heard):
            assert await posted(heard, 0, 150) == {200}
            monkeypatch.setattr(EventWriter, "store", note)
        assert await heard.recorded(150) == numbered(0, 150)
        await drained(heard)
    assert sum(events for _, events in while_waiting) == 150
    assert sum(events for is_waiting, events in while_waiting if is_waiting) <= 30


@pytest.mark.parametrize("most_at_once", [16 * 2**20, 1000])
async def test_large_callbacks_are_spooled_and_recorded_whole(streamed, monkeypatch, most_at_once):
    monkeypatch.setattr("service.receiver.nats_session._BYTES_AT_ONCE", most_at_once)
    bodies = [hashlib.sha512(b"%d" % number).digest() * 4000 for number in range(8)]
    async with listening(streamed) as heard:
        with without_postgres(heard):
            assert await asyncio.gather(*map(heard.post, bodies)) == [200] * 8
        assert sorted(await heard.recorded(8)) == sorted(bodies)


async def test_check_says_whether_the_spool_can_be_reached_and_makes_nothing(runtime, server):
    settings = with_stream(runtime.settings, server)
    absent = ("note", "there is no stream ROLLCALL")
    assert [(one.state, one.found) for one in await checks._spool(settings)] == [absent]
    assert [(one.state, one.found) for one in await checks._spool(settings)] == [absent]
    async with jetstream(server) as js:
        await js.add_stream(replace(stream(), num_replicas=1))
    (found,) = await checks._spool(settings)
    assert (found.state, "1 replica; 0 messages wait" in found.found) == ("ok", True)
    weak, found = await checks._spool(with_stream(runtime.settings, server, query=""))
    assert (weak.state, weak.found) == ("note", "the stream ROLLCALL: it has 1 replica, and 3 are wanted")
    server.kill()
    (found,) = await checks._spool(settings)
    assert found.state == "failed"
    assert PASSWORD not in str(found)


def test_the_server_reads_the_configuration_of_the_how_to(tmp_path):
    page = (Path(__file__).parent.parent.parent / "docs/howto/spool.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```\n(server_name.*?)```", page, re.DOTALL)
    file = tmp_path / "nats.conf"
    file.write_text(block)
    read = subprocess.run([BINARY, "-t", "-c", file], capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stderr


def test_the_server_of_these_tests_ends(tmp_path):
    with nats_server(tmp_path) as running:
        assert isinstance(running, NatsServer)
    assert running._popen.poll() is not None

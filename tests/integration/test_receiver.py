"""The callback listener over real HTTP on a real Postgres: who is heard, who is refused, and what that looks like."""

import asyncio
import gzip
import socket

import pytest
from receiving import listening, request, status
from sqlalchemy import text
from stored_events import REF
from structlog.testing import capture_logs

from service.core.token import CreationRef, mint
from service.receiver.bounds import Bounds
from service.receiver.intake import Intake
from service.runtime.paced import PacedConnection
from service.storage.engine import begin

LARGEST = 4096


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"callback_max_bytes": LARGEST})


@pytest.fixture
async def heard(runtime):
    async with listening(runtime) as made:
        yield made


class Noticing(Bounds):
    """Bounds that say when room was taken: a request is under way then."""

    def __init__(self, **options):
        super().__init__(**options)
        self.taken = asyncio.Event()

    def take(self, size):
        self.taken.set()
        return super().take(size)


def requests_of(heard):
    """Set when the next request of a creation is under way."""
    front = heard.receiver._callbacks
    front._bounds = Noticing(most_connections=front._bounds.most_connections, most_bytes=front._bounds.most_bytes)
    return front._bounds.taken


def bounded(runtime, **limits):
    runtime.settings = runtime.settings.model_copy(update=limits)
    return listening(runtime)


async def test_what_is_acknowledged_is_in_the_record_and_waits_to_be_applied(heard):
    assert await heard.post(b'{"resource": {"id": "7"}}') == 200
    assert await heard.bodies() == [b'{"resource": {"id": "7"}}']
    assert await heard.queued() == 1
    assert heard.runtime.events_stored.is_set()


async def test_the_record_says_whose_callback_it_was_when_it_came_and_what_it_looked_like(heard):
    headers = {"Content-Type": "application/json", "User-Agent": "Infrahub", "Authorization": "Bearer secret"}
    await heard.post(b"{}", headers=headers)
    async with begin(heard.runtime.engine) as conn:
        row = (await conn.execute(text("SELECT * FROM events"))).mappings().one()
    assert (row["submission_id"], row["creation_no"]) == REF
    assert row["received_at"] == heard.runtime.clock.now()
    assert row["headers"] == {"content-type": "application/json", "user-agent": "Infrahub"}
    assert row["peer"] == "127.0.0.1"
    assert row["source"] == "callback"


@pytest.mark.parametrize(
    "body",
    [b"", b"not JSON", b"\x00\xff\xfe", b"[" * LARGEST, b'{"a": null}', "{\ud7ff}".encode()],
    ids=["empty", "text", "binary", "deep", "null", "unicode"],
)
async def test_any_body_is_kept_as_it_came(heard, body):
    assert await heard.post(body) == 200
    assert await heard.bodies() == [body]


async def test_a_repeated_callback_is_kept_each_time(heard):
    assert [await heard.post(b"same") for _ in range(3)] == [200, 200, 200]
    assert await heard.bodies() == [b"same"] * 3


async def test_a_storm_is_kept_whole(heard):
    bodies = [f"callback {number}".encode() for number in range(500)]
    assert set(await asyncio.gather(*map(heard.post, bodies))) == {200}
    assert sorted(await heard.bodies()) == sorted(bodies)
    assert await heard.queued() == 500


async def test_callbacks_of_one_connection_are_recorded_in_the_order_they_were_sent(heard):
    path = heard.path()
    bodies = [f"{number:03d}".encode() for number in range(100)]
    wire = b"".join(request("Content-Length: 3", path=path, body=body) for body in bodies)
    answers = await heard.raw(wire + request("Connection: close", method="GET", path="/livez"))
    assert answers.count(b"HTTP/1.1 200 OK") == 101
    assert await heard.bodies() == bodies


@pytest.mark.parametrize("method", ["POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"])
async def test_a_wrong_token_looks_like_any_path_that_is_not_there(heard, method):
    wrong = mint(REF, b"another secret of thirty-two characters")
    paths = [
        "/",
        "/nowhere",
        f"/callbacks/{wrong}",
        f"/callbacks/{wrong[:-1]}",
        "/callbacks/",
        f"{heard.path()}//",
        heard.path().upper(),
        "/metrics",
    ]
    closing = ("Connection: close", "Content-Length: 2")
    found = {await heard.raw(request(*closing, method=method, path=path, body=b"{}")) for path in paths}
    undated = {answer.split(b"Date:")[0] + answer.split(b"GMT")[-1] for answer in found}
    assert len(undated) == 1
    assert status(undated.pop()) == 404
    assert await heard.bodies() == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_a_right_token_with_another_method_looks_like_a_wrong_one(heard, method):
    right, wrong = [
        await heard.raw(request("Connection: close", method=method, path=path)) for path in (heard.path(), "/nowhere")
    ]
    assert right.split(b"Date:")[0] == wrong.split(b"Date:")[0]
    assert status(right) == 404


async def test_a_token_is_refused_before_the_body_is_sent(heard):
    answer = await heard.first(request("Content-Length: 4000", path="/callbacks/x"))
    assert status(answer) == 404


async def test_any_of_the_secrets_is_good(runtime):
    runtime.callback_secrets = (b"a newer secret of thirty-two chars", *runtime.callback_secrets)
    async with listening(runtime) as heard:
        paths = [f"/callbacks/{mint(REF, secret)}" for secret in runtime.callback_secrets]
        assert [await heard.post(b"{}", path) for path in paths] == [200, 200]


async def test_each_creation_has_a_token_of_its_own(heard):
    other = CreationRef(REF.submission_id, 4)
    await heard.post(b"{}", heard.path(other))
    async with begin(heard.runtime.engine) as conn:
        assert (await conn.execute(text("SELECT creation_no FROM events"))).scalar_one() == 4


async def test_a_query_is_passed_over(heard):
    assert await heard.post(b"{}", heard.path() + "?from=Infrahub") == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_listener_says_that_it_lives(heard, method):
    answer = await heard.raw(request("Connection: close", method=method, path="/livez"))
    assert status(answer) == 200
    assert answer.endswith(b"{}") == (method == "GET")


async def test_the_largest_body_is_heard_and_one_byte_more_is_not(heard):
    assert await heard.post(b"x" * LARGEST) == 200
    assert await heard.post(b"x" * (LARGEST + 1)) == 413
    assert len(await heard.bodies()) == 1


async def test_a_body_that_says_it_is_too_large_is_refused_unread(heard):
    answer = await heard.first(request("Content-Length: 99999999", path=heard.path()))
    assert status(answer) == 413


async def chunks(*parts):
    for part in parts:
        yield part


async def test_a_chunked_body_is_heard(heard):
    assert await heard.post(chunks(b"one", b"two")) == 200
    assert await heard.bodies() == [b"onetwo"]


async def test_a_chunked_body_is_refused_where_it_becomes_too_large(heard):
    head = request("Transfer-Encoding: chunked", path=heard.path())
    answer = await heard.first(head, *[b"400\r\n" + b"x" * 0x400 + b"\r\n"] * 5)
    assert status(answer) == 413
    assert await heard.bodies() == []


async def test_a_compressed_body_is_kept_as_it_came(heard):
    bomb = gzip.compress(b"\x00" * 2**20)
    assert await heard.post(bomb, headers={"Content-Encoding": "gzip"}) == 200
    assert await heard.bodies() == [bomb]


async def test_a_sender_that_waits_to_be_asked_is_asked(heard):
    assert await heard.post(b"{}", expect100=True) == 200


async def test_a_sender_that_breaks_off_while_it_waits_to_be_asked_is_no_line_in_the_log(heard):
    head = request("Content-Length: 10", "Expect: 100-continue", path=heard.path())
    with capture_logs() as lines:
        for _ in range(20):
            async with heard.connected() as (_, writer):
                writer.write(head)
                writer.transport.abort()
        assert await heard.post(b"good") == 200
    assert lines == []


async def test_an_offer_to_change_the_protocol_is_passed_over(heard):
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAM", "Content-Length: 3")
    async with heard.connected() as (reader, writer):
        for body in (b"one", b"two"):
            writer.write(request(*offer, path=heard.path(), body=body))
            assert status(await reader.readuntil(b"{}")) == 200
    assert await heard.bodies() == [b"one", b"two"]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # somebody speaks TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /x HTTP/9.9\r\n\r\n",
        request("Content-Length: 1", "Content-Length: 2"),
        request("Content-Length: -1"),
        request("Content-Length: 99999999999999999999999999"),
        request("Content-Length: 2", "Transfer-Encoding: chunked", body=b"{}"),
        request("Bad Header: x"),
        request("X: a\x00b"),
        request("X: " + "y" * 20_000),
        request(*[f"X-{number}: y" for number in range(300)]),
        b"\r\n" * 100 + b"\x00",
    ],
)
async def test_nonsense_is_refused_and_the_next_callback_heard(heard, nonsense, caplog):
    assert status(await heard.raw(nonsense, half_close=True)) in {0, 400}
    assert await heard.post(b"{}") == 200
    assert caplog.records == []


async def test_a_broken_chunk_is_refused_and_nothing_is_kept(heard):
    answer = await heard.raw(request("Transfer-Encoding: chunked", path=heard.path(), body=b"3\r\nabc\r\nzz\r\n"))
    assert status(answer) in {0, 400}
    assert await heard.bodies() == []


async def test_a_sender_that_leaves_in_the_middle_is_forgotten(heard):
    await heard.raw(request("Content-Length: 100", path=heard.path(), body=b"half"), half_close=True)
    assert await heard.post(b"{}") == 200
    assert await heard.bodies() == [b"{}"]


async def test_a_sender_whose_headers_do_not_come_is_cut_off(runtime):
    async with bounded(runtime, head_timeout_seconds=0.05) as heard:
        assert await heard.raw(b"POST /callbacks/") == b""


async def test_a_sender_whose_body_does_not_come_is_told_so(runtime):
    async with bounded(runtime, body_timeout_seconds=0.05) as heard:
        answer = await heard.first(request("Content-Length: 100", path=heard.path(), body=b"half"))
        assert status(answer) == 408
        assert await heard.bodies() == []


async def test_a_sender_of_single_bytes_is_heard_in_few_pieces_whatever_it_sends(heard, monkeypatch):
    pieces = []
    received = PacedConnection.data_received
    monkeypatch.setattr(
        PacedConnection, "data_received", lambda self, data: (pieces.append(len(data)), received(self, data))[1]
    )
    body = b"x" * 300
    whole = request(f"Content-Length: {len(body)}", path=heard.path(), body=body)
    for _ in range(2):  # of one connection and of the next
        async with heard.connected() as (reader, writer):
            for number in range(len(whole)):
                writer.write(whole[number : number + 1])
                await asyncio.sleep(0)
            assert status(await reader.readuntil(b"}")) == 200
    assert await heard.bodies() == [body, body]
    assert sum(pieces) == 2 * len(whole)
    assert len([one for one in pieces if one]) < 60


async def test_a_sender_whose_pieces_are_large_is_not_slowed_down(heard, monkeypatch):
    monkeypatch.setattr(PacedConnection, "_pause", lambda self, times: pytest.fail("paused"))
    parts = [request("Content-Length: 4096", path=heard.path()), *[b"x" * 1024] * 4]
    async with heard.connected() as (reader, writer):
        for _ in range(20):
            for part in parts:
                writer.write(part)
                await asyncio.sleep(0)
            assert status(await reader.readuntil(b"}")) == 200


async def test_a_connection_that_falls_quiet_is_closed(runtime):
    async with bounded(runtime, idle_timeout_seconds=0.05) as heard:
        answer = await heard.raw(request("Content-Length: 2", path=heard.path(), body=b"{}"))
        assert status(answer) == 200


async def test_bodies_beyond_the_bound_are_turned_away_before_they_are_read(runtime):
    async with bounded(runtime, intake_max_bytes=6000) as heard, heard.connected() as (_, writer):
        begun = requests_of(heard)
        writer.write(request("Content-Length: 3000", path=heard.path()))
        await begun.wait()
        answer = await heard.first(request("Content-Length: 4000", path=heard.path()))
        assert status(answer) == 503
        assert b"Retry-After: " in answer
        assert await heard.post(b"small") == 200


async def test_bounds_are_given_back_whatever_became_of_the_request(heard):
    refused = request("Content-Length: 4000", path=heard.path(), body=b"half")
    await heard.raw(refused, half_close=True)
    await heard.post(b"x" * (LARGEST + 1))
    await heard.post(b"{}")
    assert heard.receiver._callbacks._bounds.held == 0


async def test_more_requests_than_may_be_are_told_to_come_again(runtime):
    async with bounded(runtime, callback_max_connections=1) as heard:
        begun = requests_of(heard)
        async with heard.connected() as (reader, writer):
            writer.write(request("Content-Length: 8", path=heard.path(), body=b"half"))
            await begun.wait()
            answer = await heard.raw(request("Content-Length: 2", path=heard.path(), body=b"{}"))
            assert status(answer) == 503
            assert b"Retry-After: " in answer
            writer.write(b"half")
            assert status(await reader.readuntil(b"{}")) == 200  # who was there first goes on
        assert await heard.post(b"{}") == 200


async def test_idle_connections_make_room_for_callbacks_longest_idle_first(runtime):
    async with bounded(runtime, callback_max_connections=2) as heard:
        live = request(method="GET", path="/livez")
        async with heard.connected() as (one, first), heard.connected() as (two, second):
            for reader, writer in ((one, first), (two, second)):
                writer.write(live)
                await reader.readuntil(b"{}")
            assert await heard.post(b"{}") == 200
            assert await one.read() == b""
            second.write(live)
            assert status(await two.readuntil(b"{}")) == 200


async def test_a_flood_of_connections_is_dropped(runtime):
    async with bounded(runtime, callback_max_connections=1) as heard:
        begun = requests_of(heard)
        half = request("Content-Length: 8", path=heard.path(), body=b"half")
        async with heard.connected() as (_, first), heard.connected() as (two, second):
            first.write(half)
            await begun.wait()
            second.write(half)
            assert status(await two.readuntil(b"}")) == 503
            assert await heard.raw(request(method="GET", path="/livez")) == b""


@pytest.mark.parametrize("lines", [["X-Long: " + "x" * 5000], [f"X-{number}: x" for number in range(80)]])
async def test_more_headers_than_may_be_are_refused(heard, lines):
    answer = await heard.raw(request("Content-Length: 2", *lines, path=heard.path(), body=b"{}"))
    assert answer.startswith(b"HTTP/1.0 400 ")
    assert await heard.bodies() == []


async def test_what_proxies_add_is_no_hindrance(heard):
    added = {f"X-Forwarded-{number}": "x" * 100 for number in range(20)} | {"Baggage": "x" * 3000}
    assert await heard.post(b"{}", headers=added) == 200


async def test_a_callback_is_kept_though_its_connection_is_known_no_more(heard):
    heard.receiver._callbacks._connection_states = Forgetful()
    assert await heard.post(b"whole") == 200
    assert await heard.bodies() == [b"whole"]


class Forgetful(dict):
    """Keeps nothing: as if each connection had ended before its handler's first step."""

    def __setitem__(self, key, value):
        pass


async def test_a_sender_that_never_reads_its_answers_is_cut_off(runtime):
    live = request(method="GET", path="/livez") * 1000

    async def ask_without_end(writer):
        while True:
            writer.write(live)
            await writer.drain()

    async with bounded(runtime, head_timeout_seconds=0.1, body_timeout_seconds=0.1) as heard:
        # Connections take after the socket that listens; by itself the system would hold megabytes for them.
        heard.receiver._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        async with heard.connected() as (_, writer):
            with pytest.raises(ConnectionError):
                await ask_without_end(writer)


async def test_more_than_may_wait_are_told_to_come_again(runtime, monkeypatch):
    runtime.settings = runtime.settings.model_copy(update={"intake_max_waiting": 1})
    async with listening(runtime) as heard:
        blocker = await lock_events(heard)
        try:
            posts = [asyncio.create_task(heard.post(str(number).encode())) for number in range(5)]
            done, _ = await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
            assert {one.result() for one in done} == {503}
        finally:
            await blocker.rollback()
            await blocker.close()
        results = await asyncio.gather(*posts)
        assert len(await heard.recorded(results.count(200))) == results.count(200)
        assert results.count(200) >= 1


async def lock_events(heard):
    conn = await heard.runtime.engine.connect()
    await conn.execute(text("LOCK TABLE events IN ACCESS EXCLUSIVE MODE"))
    return conn


async def test_a_mistake_of_ours_costs_one_answer_and_one_line_in_the_log(heard, monkeypatch):
    def broken(self, one):
        raise ZeroDivisionError("of ours")

    with monkeypatch.context() as patched, capture_logs() as lines:
        patched.setattr(Intake, "offer", broken)
        assert await heard.post(b"{}") == 503
    assert await heard.post(b"{}") == 200
    assert [line["event"] for line in lines] == ["receiver.answer"]
    assert heard.path().rpartition("/")[2] not in repr(lines)


async def test_what_has_begun_is_answered_when_the_listener_stops(runtime):
    async with listening(runtime) as heard:
        blocker = await lock_events(heard)
        begun = requests_of(heard)
        post = asyncio.create_task(heard.post(b"in flight"))
        await begun.wait()
        closing = asyncio.create_task(heard.receiver._callbacks.close(5))
        await asyncio.sleep(0)
        await blocker.rollback()
        await blocker.close()
        assert await post == 200
        await closing
    assert b"in flight" in await heard.bodies()


async def test_a_body_that_is_still_coming_when_the_listener_stops_is_heard_to_its_end(runtime):
    async with listening(runtime) as heard, heard.connected() as (reader, writer):
        begun = requests_of(heard)
        writer.write(request("Content-Length: 8", path=heard.path(), body=b"half"))
        await begun.wait()
        closing = asyncio.create_task(heard.receiver._callbacks.close(5))
        await asyncio.sleep(0)
        writer.write(b"half")
        assert status(await reader.read()) == 200
        await closing
    assert await heard.bodies() == [b"halfhalf"]


async def test_callbacks_are_counted_by_their_answer(heard):
    await heard.post(b"{}")
    await heard.post(b"{}", "/callbacks/x")
    registry = heard.runtime.metrics.registry
    for answer in ("stored", "not_found"):
        assert registry.get_sample_value("rollcall_callbacks_total", {"answer": answer}) == 1
    assert registry.get_sample_value("rollcall_callback_seconds_count") == 1
    assert registry.get_sample_value("rollcall_write_group_size_sum") == 1

"""Live streams: with the list of what was before, they are the whole, wherever the connection breaks."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as trying
from hypothesis import strategies as st
from operator_api import TOKEN, Api, serving
from sealing import SealedStage
from sqlalchemy import text

from service.api import stream as streams
from service.api.context import STREAMS
from service.audit.stream import STREAMED, StreamPlace
from service.audit.stream import here as here_now
from service.cli import follow
from service.client.errors import ApiError, ErrorKind
from service.client.http import ApiClient
from service.client.operation import Prepared
from service.client.sync import Rollcall
from service.runtime.runtime import Runtime
from service.storage.engine import begin


@pytest.fixture
async def stage(runtime: Runtime, tmp_path: Path) -> SealedStage:
    return SealedStage(runtime, tmp_path)


@pytest.fixture
async def api(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    async with serving(runtime) as api:
        yield api


class Reader:
    """A reader of the stream that may go away at any event, and comes back with the last id."""

    def __init__(self, api: Api, query: str = "") -> None:
        self.api = api
        self.query = query
        self.last: str | None = None
        self.found: list[tuple[str, Any]] = []

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        headers = {"Authorization": f"Bearer {TOKEN}"} | ({"Last-Event-ID": self.last} if self.last else {})
        async with self.api.client.get(f"/v1/stream{self.query}", headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            yield answer

    async def read(self, answer: Any, events: int) -> None:
        """So many events, and the id of each."""
        id_ = kind = ""
        while events:
            line = (await answer.content.readline()).decode().rstrip("\n")
            name, _, value = line.partition(": ")
            if name == "id":
                id_ = value
            elif name == "event":
                kind = value
            elif name == "data":
                self.last = id_
                if kind != "begun":
                    self.found.append((kind, json.loads(value)))
                    events -= 1
                elif events < 0:
                    return

    async def begin(self) -> None:
        """Connect once, so that there is a place to come back to."""
        async with self.connected() as answer:
            while not (line := (await answer.content.readline()).decode()).startswith("data"):
                if line.startswith("id: "):
                    self.last = line.removeprefix("id: ").rstrip("\n")


def keys(found: list[tuple[str, Any]]) -> list[Any]:
    return sorted(json.dumps(one) for one in found)


async def listed(api: Api, snapshot: str | None = None) -> list[tuple[str, Any]]:
    """What an export of the tables has, up to a snapshot."""
    found = []
    for table in STREAMED:
        shown = f"&snapshot={snapshot}" if snapshot else ""
        answer = await api.request("GET", f"/v1/export?table={table}{shown}")
        found += [(streams._KINDS[table], json.loads(line)) for line in answer.json.splitlines()]
    return found


@trying(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=st.lists(st.integers(1, 3), min_size=1, max_size=4), breaks=st.lists(st.integers(1, 12), max_size=6))
async def test_list_and_stream_together_are_the_whole_wherever_the_connection_breaks(
    stage: SealedStage, api: Api, steps: list[int], breaks: list[int]
) -> None:
    """Also with transactions that are open for a while, so that rows become visible out of the order of their ids."""
    await stage.record(2)
    reader = Reader(api)
    await reader.begin()
    assert reader.last is not None
    before = await listed(api, reader.last.split("/")[1])
    async with begin(stage.engine) as early:
        await early.execute(text("SELECT pg_current_xact_id()"))
        for rows in steps:
            await stage.record(rows)
        expected = 4 * sum(steps)
        for events in breaks:
            if len(reader.found) + events < expected:
                async with reader.connected() as answer:
                    await reader.read(answer, events)
        await stage._one_of_each(early, stage.rt.clock.now())
    expected += 4
    async with reader.connected() as answer:
        await reader.read(answer, expected - len(reader.found))
    assert keys(before + reader.found) == keys(await listed(api))


async def test_what_is_recorded_while_streams_are_open_comes_to_all_of_them_and_is_narrowed(
    stage: SealedStage, api: Api
) -> None:
    all_, some = Reader(api), Reader(api, "?tables=events,calls")
    one = Reader(api, f"?submission_id={stage.submissions[0]}")
    async with all_.connected() as first, some.connected() as second, one.connected() as third:
        await stage.record(6)
        await all_.read(first, 24)
        await some.read(second, 12)
        of_one = [row for row in all_.found if row[1]["submission_id"] == str(stage.submissions[0])]
        await one.read(third, len(of_one))
    assert some.found == [row for row in all_.found if row[0] in {"event", "call"}]
    assert one.found == of_one
    assert keys(all_.found) == keys(await listed(api))


async def test_a_place_of_another_daemon_that_is_ahead_is_no_reason_to_repeat_anything(
    stage: SealedStage, api: Api, runtime: Runtime
) -> None:
    async with serving(runtime) as another:
        here, there = Reader(api), Reader(another)
        async with here.connected():  # this daemon looked before the other one
            await stage.record(1)
            await there.begin()
            await stage.record(1)
            here.last = there.last
            async with here.connected() as answer:
                await here.read(answer, 4)
                await stage.record(1)
                await here.read(answer, 4)
    assert len(set(keys(here.found))) == 8


async def test_a_reader_that_is_ahead_makes_the_daemon_look_before_it_goes_on(
    stage: SealedStage, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: float) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(runtime.clock, "sleep", never)
    hub = streams.Streams(runtime)
    async with hub.opened(None) as (_, others):
        await stage.record(1)
        shown = await here_now(stage.engine)
        async with hub.opened(StreamPlace(shown, shown)) as (at, own):
            assert at.covers(shown)
            assert (others.qsize(), own.qsize()) == (4, 0)
    await hub.close()


async def test_streams_are_bounded_and_a_slow_reader_is_cut_off(
    stage: SealedStage, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MOST", 1)
    reader = Reader(api)
    async with reader.connected():
        refused = await api.request("GET", "/v1/stream")
        assert refused.status == 503
    while api.app[STREAMS]._queues:  # noqa: ASYNC110  until the daemon sees that the reader went away
        await asyncio.sleep(0)
    monkeypatch.setattr(streams, "WAITING", 3)
    async with reader.connected() as answer:
        await stage.record(5)
        assert b"event: begun" in await answer.content.read()  # which ends
    reader.last = None
    for wrong in ("rubbish", "1:2:/1:2:/x", "9:999999999999:/9:999999999999:/0"):
        answer = await api.request("GET", "/v1/stream", Last_Event_ID=wrong)
        assert answer.status == 422, answer
    assert (await api.request("GET", "/v1/stream?tables=prices")).status == 422
    assert not api.app[STREAMS]._queues


async def test_following_prints_a_row_once_though_the_connection_breaks(
    stage: SealedStage, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, breaks, real = Rollcall(api.url, TOKEN), {2, 5, 6}, ApiClient._pieces
    pieces = count()
    monkeypatch.setattr("service.cli.follow._AGAIN", 0)

    def breaking(client: ApiClient, request: Prepared) -> Iterator[bytes]:
        for piece in real(client, request):
            if next(pieces) in breaks:
                raise ApiError(ErrorKind.UNREACHABLE, "the stream broke off")
            yield piece

    monkeypatch.setattr(ApiClient, "_pieces", breaking)
    monkeypatch.setattr("service.client.exchange.PIECE", 300)

    def followed() -> list[tuple[str, Any]]:
        return list(islice(follow.events(client, "transitions", submission_id=None), 12))

    running = asyncio.create_task(asyncio.to_thread(followed))
    while api.app[STREAMS]._task is None:  # noqa: ASYNC110  made once the place of the first reader is known
        await asyncio.sleep(0)
    await stage.record(12)
    found = await running
    assert keys(found) == keys([one for one in await listed(api) if one[0] == "transition"])
    assert all(follow._line(*one) for one in found)
    assert next(pieces) > max(breaks)

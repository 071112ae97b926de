"""The stream narrowed by the filters of the lists: it shows the rows that the list with the same filter has."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from operator_api import Api, serving
from pydantic import ValidationError
from stage import Stage

from service.api.stream_filter import RowFilter, StreamQuery
from service.audit.stream import StreamPlace, StreamRow, here, rows_between
from service.queries import search
from service.queries.search_scope import SearchFilter
from service.runtime.runtime import Runtime
from service.storage.engine import begin
from service.storage.seals import XactSnapshot


@pytest.fixture
async def stage(engine: Any) -> Stage:
    """Two submissions, some callbacks lost, so that there are histories; one VM deleted."""
    stage = Stage(engine)
    stage.misbehave(callbacks={"lost": 0.3})
    await stage.submit(count=3, name="train")
    await stage.submit(count=2, name="serve")
    await stage.live(200)
    stage.misbehave()
    stage.console((await stage.vm(2)).provider_id, "delete", silent=False)
    await stage.live(200)
    return stage


@pytest.fixture
async def api(stage: Stage, runtime: Runtime) -> AsyncIterator[Api]:
    runtime.clock.set(stage.rt.clock.now())
    async with serving(runtime) as api:
        yield api


async def streamed(stage: Stage, vm_no: int | None = None, **filters: Any) -> list[StreamRow]:
    """All that was ever recorded, as a reader with this filter gets it."""
    vm = None if vm_no is None else (await stage.vms())[vm_no - 1]
    which = RowFilter(stage.rt, StreamQuery(**filters), vm)
    place = StreamPlace(XactSnapshot.parse("1:1:"), await here(stage.engine))
    return [row async for row in rows_between(stage.engine, place) if await which.wants(row)]


def ids(rows: list[StreamRow], table: str, name: str) -> list[str]:
    return sorted(_value(row, name) for row in rows if row.table == table)


def _value(row: StreamRow, name: str) -> str:
    return str(json.loads(row.line)[name])


async def listed(api: Api, path: str, name: str) -> list[str]:
    return sorted(one[name] for one in await api.every(path))


@pytest.mark.parametrize("number", [1, 2, 5])
async def test_what_is_about_a_vm_is_what_the_lists_have_of_it(stage: Stage, api: Api, number: int) -> None:
    vm = (await stage.vms())[number - 1]
    rows = await streamed(stage, number)
    ref = f"{vm.submission_id}.{vm.vm_no}"
    assert ids(rows, "events", "event_id") == await listed(api, f"/v1/events?vm={ref}&limit=1000", "event_id")
    calls = await listed(api, f"/v1/calls?vm={ref}&limit=1000", "call_id")
    assert ids(rows, "calls", "call_id") == ids(rows, "call_ends", "call_id") == calls
    async with begin(stage.engine) as conn:
        found = await search.page(conn, SearchFilter(kind="transition", vm=vm.ref), after=None, limit=1000)
    assert len(ids(rows, "transitions", "seq")) == len(found) >= 2


async def test_states_sources_operations_and_outcomes_narrow_as_in_the_lists(stage: Stage, api: Api) -> None:
    for source in ("callback", "history"):
        path = f"/v1/events?source={source}&limit=1000"
        rows = await streamed(stage, source=source)
        assert ids(rows, "events", "event_id") == await listed(api, path, "event_id") != []
        assert {row.table for row in rows} == {"events"}
    rows = await streamed(stage, operation="create")
    created = await listed(api, "/v1/calls?operation=create&limit=1000", "call_id")
    assert ids(rows, "calls", "call_id") == ids(rows, "call_ends", "call_id") == created != []
    ended = await streamed(stage, outcome="ok", operation="create")
    assert ids(ended, "call_ends", "call_id") == created
    assert {row.table for row in ended} == {"call_ends"}
    deleted = await streamed(stage, state="DELETED")
    assert [_value(row, "to_state") for row in deleted] == ["DELETED"]
    submission_id = (await stage.vms())[0].submission_id
    first = await streamed(stage, submission_id=submission_id, creation_no=1)
    path = f"/v1/events?submission_id={submission_id}&creation_no=1&limit=1000"
    assert ids(first, "events", "event_id") == await listed(api, path, "event_id")
    assert await streamed(stage, 5, submission_id=submission_id) == []


async def test_filters_that_never_match_together_are_refused(stage: Stage, api: Api) -> None:
    for query in ("tables=events&state=ACTIVE", "state=ACTIVE&outcome=ok", "creation_no=1", "state=x", "vm=%00"):
        assert (await api.request("GET", f"/v1/stream?{query}")).status == 422, query
    assert (await api.request("GET", "/v1/stream?vm=nobody")).status == 404
    with pytest.raises(ValidationError):
        StreamQuery(tables="calls", source="history")

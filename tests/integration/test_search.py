"""Search: everything about a VM, an address, a label or a caller, in one list whose pages no write shifts."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from operator_api import Api, serving
from stage import Stage

from service.errors import Invalid
from service.queries import search
from service.queries.search_scope import SearchFilter
from service.runtime.runtime import Runtime
from service.storage.engine import begin


@pytest.fixture
async def stage(engine: Any) -> Stage:
    """Two submissions whose VMs came up, one of them with a label, and one VM deleted."""
    stage = Stage(engine)
    await stage.submit(count=3, name="train", labels=["nightly"])
    await stage.submit(count=2, name="serve", assign_floating_ip=True)
    await stage.live(150)
    return stage


@pytest.fixture
async def api(stage: Stage, runtime: Runtime) -> AsyncIterator[Api]:
    runtime.clock.set(stage.rt.clock.now())
    async with serving(runtime) as api:
        yield api


async def found(api: Api, query: str) -> list[dict[str, Any]]:
    return await api.every(f"/v1/search?limit=1000&{query}")


async def test_everything_is_found_once_and_in_order_whatever_the_size_of_a_page(api: Api, stage: Stage) -> None:
    whole = await found(api, "")
    counted = 0
    for table in ("vms", "submissions", "transitions", "events", "calls", "actions"):
        ((number,),) = await stage.sql(f"SELECT count(*) FROM {table}")
        counted += number
    assert len(whole) == counted
    times = [datetime.fromisoformat(one["at"]) for one in whole]
    assert times == sorted(times, reverse=True)
    ids = [(one["kind"], one["id"]) for one in whole]
    assert len(set(ids)) == len(ids)
    for limit in (1, 7):
        paged = await api.every(f"/v1/search?kind=transition&limit={limit}")
        assert paged == [one for one in whole if one["kind"] == "transition"]
    assert await api.every("/v1/search?limit=13") == whole


async def test_what_is_written_between_two_pages_shifts_nothing(api: Api, stage: Stage) -> None:
    before = await found(api, "")
    page = await api.get("/v1/search?limit=10")
    items = page["items"]
    while page["next"]:
        stage.world.clock.advance(1)
        await stage.sql(
            "INSERT INTO actions (submission_id, action_id, kind, caller, at)"
            f" SELECT submission_id, gen_random_uuid(), 'change', 'x', '{stage.world.clock.now().isoformat()}' FROM submissions LIMIT 1"
        )
        page = await api.get(f"/v1/search?limit=10&cursor={page['next']}")
        items += page["items"]
    assert items == before


async def test_filters_find_the_rows_that_a_scan_finds(api: Api, stage: Stage) -> None:
    whole = await found(api, "")
    train, serve = [
        UUID(str(one)) for (one,) in await stage.sql("SELECT submission_id FROM submissions ORDER BY name DESC")
    ]
    vm_no, provider_id, name = (
        await stage.sql(f"SELECT vm_no, provider_id, name FROM vms WHERE submission_id = '{serve}' ORDER BY vm_no")
    )[1]
    ((address,),) = await stage.sql(f"SELECT floating_ip FROM vms WHERE submission_id = '{serve}' AND vm_no = {vm_no}")
    of_serve, of_train = str(serve), str(train)

    def about(one: dict[str, Any]) -> bool:
        """Whether a row of the whole list is about this one VM of `serve`."""
        if one["submission_id"] != of_serve:
            return False
        return {
            "vm": one["vm_no"] == vm_no,
            "transition": one["vm_no"] == vm_no,
            "event": one["provider_id"] == provider_id,
            "call": one["vm_no"] in {vm_no, None} and one["provider_id"] in {provider_id, None},
        }.get(one["kind"], True)

    for query in (f"vm={provider_id}", f"provider_id={provider_id}", f"name={name}", f"address={address}"):
        assert await found(api, query) == [one for one in whole if about(one)], query
    for query, wanted in (
        ("label=nightly", lambda one: one["submission_id"] == of_train),
        (f"submission_id={of_serve}", lambda one: one["submission_id"] == of_serve),
        ("name=train", lambda one: one["submission_id"] == of_train),
        ("label=another", lambda one: False),
        ("caller=nobody", lambda one: False),
        ("kind=vm&state=ACTIVE", lambda one: one["kind"] == "vm" and one["text"].startswith("ACTIVE")),
        ("kind=transition&state=ACTIVE", lambda one: one["kind"] == "transition" and "-> ACTIVE" in one["text"]),
        ("operation=create", lambda one: one["kind"] == "call" and one["text"].startswith("create")),
        (f"text=ACTIVE&submission_id={of_serve}", lambda one: one["kind"] == "event" and one["submission_id"] == of_serve and "ACTIVE" in one["text"]),
    ):  # fmt: skip
        assert await found(api, query) == [one for one in whole if wanted(one)], query
    ((caller,),) = await stage.sql("SELECT DISTINCT requested_by FROM submissions")
    of_caller = await found(api, f"caller={caller}")
    assert [one for one in whole if one["submission_id"]] == of_caller
    (in_the_middle,) = [whole[len(whole) // 2]["at"]]
    since = await found(api, f"since={in_the_middle}")
    assert since + await found(api, f"until={in_the_middle}") == whole
    for path, kind in (("events", "event"), ("calls", "call")):
        listed = await api.every(f"/v1/{path}?limit=3&vm={provider_id}")
        assert [one[f"{kind}_id"] for one in listed] == [
            one["id"] for one in whole if one["kind"] == kind and about(one)
        ]


async def test_what_is_wrong_with_a_search_is_said_with_the_field(api: Api) -> None:
    cursor = (await api.get("/v1/search?limit=1"))["next"]
    for query, status, field in (
        ("colour=red", 422, "colour"),
        ("kind=disk", 422, "kind"),
        ("since=2026-03-01T12:00:00", 422, "since"),
        ("since=2026-03-02T00:00:00Z&until=2026-03-01T00:00:00Z", 422, "body"),
        (f"kind=vm&limit=1&cursor={cursor}", 422, "cursor"),
        ("cursor=rubbish", 422, "cursor"),
        ("kind=vm&status_code=500", 422, "status_code"),
        ("state=ACTIVE&status_code=500", 422, "status_code"),
        ("text=ACTIVE", 422, "body"),
        ("vm=nothing", 404, ""),
        ("submission_id=01900000-0000-7000-8000-000000000009", 404, ""),
    ):
        answer = await api.request("GET", f"/v1/search?{query}")
        assert answer.status == status, (query, answer)
        assert status == 404 or field in {one["field"] for one in answer.json["errors"]}, (query, answer.json)


async def test_a_filter_that_selects_too_much_says_so(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    ((name,),) = await stage.sql("SELECT name FROM vms LIMIT 1")
    monkeypatch.setattr("service.queries.search_scope.MOST", 0)
    for which in (SearchFilter(name=name), SearchFilter(name="train"), SearchFilter(label="nightly")):
        with pytest.raises(Invalid, match="matches more than 0"):
            async with begin(stage.engine) as conn:
                await search.page(conn, which, after=None, limit=10)

"""Statistics of a period against a real Postgres: compared with the simulator, with a slow recomputation, and over HTTP."""

import csv
import gzip
import io
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from command_line import Run, running
from hypothesis import HealthCheck, given
from hypothesis import settings as trying
from hypothesis import strategies as st
from operator_api import TOKEN, Api, serving
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import START, Stage, refusal

from service.core.token import CreationRef
from service.queries import availability, corroboration, statistics
from service.queries.callback_statistics import CallbackStatistics, callbacks
from service.queries.statistics import Failure, StatisticsPeriod, TimesToState
from service.runtime.runtime import Runtime
from service.storage.engine import begin
from service.worker import contract, create, history, refresh, rescue

SECOND = timedelta(seconds=1)


@pytest.fixture
async def stage(engine: AsyncEngine) -> Stage:
    return Stage(engine)


def period_of(stage: Stage, since: datetime = START) -> StatisticsPeriod:
    return StatisticsPeriod(since, stage.world.clock.now() + SECOND)


async def of_callbacks(stage: Stage) -> CallbackStatistics:
    async with begin(stage.engine) as conn:
        return await callbacks(conn, period_of(stage))


async def times(stage: Stage, period: StatisticsPeriod) -> dict[tuple[str, str], TimesToState]:
    async with begin(stage.engine) as conn:
        return {(one.by, one.key): one for one in await statistics.times(conn, period)}


async def failures(stage: Stage) -> list[Failure]:
    async with begin(stage.engine) as conn:
        return await statistics.failures(conn, period_of(stage))


async def test_times_are_of_the_vms_that_were_asked_for_in_the_period(stage: Stage) -> None:
    await stage.submit(count=2)
    await stage.live(60)
    second = stage.world.clock.now()
    await stage.submit(count=1, name="second")
    await stage.live(60)
    await stage.sql("UPDATE vms SET flavor = 'slow', ready_at = ready_at + interval '100 s' WHERE vm_no = 2")
    found = await times(stage, period_of(stage))
    by_number = {
        vm.vm_no: (vm.ready_at - vm.created_at).total_seconds() for vm in await stage.vms() if vm.flavor == "slow"
    }
    assert [found["all", "all"].vms, found["flavor", "slow"].vms, found["flavor", "n3-A100x1"].vms] == [3, 1, 2]
    assert found["flavor", "slow"].ready.p50 == pytest.approx(by_number[2], abs=0.001)
    assert found["all", "all"].ready.p90 > found["all", "all"].ready.p50 > found["all", "all"].active.p50 - 0.001
    assert found["hour", "09"].vms == found["day", "2026-08-17"].vms == found["region", "CANADA-1"].vms == 3
    assert (await times(stage, period_of(stage, second)))["all", "all"].vms == 1


async def test_a_vm_that_never_came_counts_as_asked_for_and_in_no_percentile(stage: Stage) -> None:
    stage.misbehave(vms={"boot_error": 1.0})
    await stage.submit()
    await stage.live(60)
    one = (await times(stage, period_of(stage)))["all", "all"]
    assert (one.vms, one.creating.count, one.ready.count, one.ready.p50) == (1, 1, 0, None)


async def test_failures_are_counted_by_reason(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    stage.misbehave(vms={"boot_error": 1.0})
    await stage.submit(count=3)
    await stage.live(60)
    stage.between.prepared["POST"] = [refusal(400, "no such image")]
    await stage.submit(name="second")
    await stage.live(60)
    await stage.hear(CreationRef((await stage.submission()).submission_id, 1), b"not JSON")
    await stage.live(20)
    found = {(one.kind, one.what): one for one in await failures(stage)}
    assert found["vm", "ERROR"].count == 3
    assert found["vm", "ERROR"].reason.startswith("after ")
    assert "no such image" in found["vm", "REFUSED"].reason
    assert found["call", "create"].reason == "refused 400"
    assert found["callback", "unreadable"].count == 1


async def test_a_contract_without_room_is_a_failure_with_its_shortfall(engine: AsyncEngine) -> None:
    line = {"resource_name": "A100-80G-PCIe", "resource_count": 1}
    stage = Stage(engine, cloud={"contracts": [{"id": 41, "discounts": [line]}]})
    await stage.submit(count=3, contract_id=41, policy={"on_contract_error": "retry"})
    await stage.live(60)
    found = {one.what: one.count for one in await failures(stage) if one.kind == "contract"}
    assert found == {"not assigned": 3, "insufficient": 2}  # each VM once, however often it waited


WITHOUT_HISTORY = (create, contract, refresh, rescue)


async def hear(stage: Stage, vm_no: int, operation: str, status: str, pack: Callable[[bytes], bytes] = bytes) -> None:
    vm = await stage.vm(vm_no)
    body = orjson.dumps({
        "resource": {"id": vm.provider_id}, "operation": {"name": operation, "status": "SUCCESS"}, "data": {"status": status},
    })  # fmt: skip
    await stage.hear(CreationRef(vm.submission_id, vm.creation_no), pack(body))


async def test_a_callback_is_lost_until_it_comes_late_and_repeated_when_it_comes_again(stage: Stage) -> None:
    stage.misbehave(callbacks={"lost": 1.0})
    await stage.submit(count=3)
    await stage.live(400, job_runs=WITHOUT_HISTORY)
    assert await stage.states() == ["ACTIVE"] * 3
    seen = await of_callbacks(stage)
    assert (seen.received, seen.lost, seen.in_time) == (0, seen.changes, 0)
    assert seen.changes >= 3
    await stage.wait(1)
    await hear(stage, 1, "createInstance", "ACTIVE")
    await hear(stage, 2, "createInstance", "ACTIVE", gzip.compress)
    await hear(stage, 3, "createInstance", "BUILD")  # another state
    after = await of_callbacks(stage)
    assert (after.received, after.repeated, after.late, after.lost) == (3, 0, 2, seen.lost - 2)
    await hear(stage, 1, "createInstance", "ACTIVE")
    again = await of_callbacks(stage)
    assert (again.received, again.repeated, again.late) == (4, 1, 2)


def in_escapes(body: bytes) -> bytes:
    """The same with the VM's id as text, its digits as escapes."""
    return re.sub(rb'"id":([0-9]+)', lambda found: b'"id":"%s"' % b"".join(b"\\u%04x" % one for one in found[1]), body)


def with_an_exponent(body: bytes) -> bytes:
    """The same with the VM's id as a number with an exponent."""
    return re.sub(rb'"id":([0-9])([0-9]*)', lambda found: b'"id":%s.%sE+%d' % (*found.groups(), len(found[2])), body)


@pytest.mark.parametrize("pack", [in_escapes, with_an_exponent, gzip.compress])
async def test_a_callback_counts_in_whatever_form_it_names_its_vm(stage: Stage, pack: Callable[[bytes], bytes]) -> None:
    stage.misbehave(callbacks={"lost": 1.0})
    await stage.submit()
    await stage.live(400)
    await stage.live(10, job_runs=(history,))
    before, vm = await of_callbacks(stage), await stage.vm()
    async with begin(stage.engine) as conn:
        assert await corroboration.of_vm(conn, vm) == "observed"
    await hear(stage, 1, "createInstance", "ACTIVE", pack)
    after = await of_callbacks(stage)
    assert (after.lost, after.late) == (before.lost - 1, before.late + 1)
    assert after.history_unreported == before.history_unreported - 1
    async with begin(stage.engine) as conn:
        assert await corroboration.of_vm(conn, vm) == "confirmed"


async def test_a_callback_of_a_later_return_to_a_state_does_not_stand_for_the_first(stage: Stage) -> None:
    stage.misbehave(callbacks={"lost": 1.0})
    await stage.submit()
    await stage.live(400, job_runs=WITHOUT_HISTORY)
    lost = (await of_callbacks(stage)).lost
    stage.misbehave()
    vm = await stage.vm()
    stage.console(vm.provider_id, "error", silent=False)
    await stage.live(60)
    await stage.sql("UPDATE vms SET next_refresh_at = state_since")
    stage.real(vm.provider_id).status = "ACTIVE"
    await hear(stage, 1, "rebootInstance", "REBOOTING")
    await stage.live(10)
    await hear(stage, 1, "rebootInstance", "ACTIVE")
    await stage.live(10)
    assert (await of_callbacks(stage)).lost == lost


async def test_an_ended_vm_that_said_so_first_is_in_time_although_a_refresh_moved_it(stage: Stage) -> None:
    await stage.submit()
    await stage.live(60)
    stage.console((await stage.vm()).provider_id, "delete", silent=False)
    await stage.live(120)
    assert await stage.states() == ["DELETED"]
    found = await of_callbacks(stage)
    assert (found.lost, found.late, found.in_time) == (0, 0, found.changes)


async def test_operations_in_the_histories_without_a_callback_are_counted(stage: Stage) -> None:
    stage.misbehave(callbacks={"lost": 1.0})
    await stage.submit(count=2)
    await stage.live(400)
    await stage.live(10, job_runs=(history,))
    found = await of_callbacks(stage)
    assert found.history_operations == found.history_unreported >= 2
    await hear(stage, 1, "createInstance", "ACTIVE")
    assert (await of_callbacks(stage)).history_unreported == found.history_unreported - 1


# Availability, compared with a look at every second.


def moments(least: int = 0, most: int = 60) -> st.SearchStrategy[int]:
    return st.integers(least, most)


@st.composite
def vms(draw: Any) -> dict[str, Any]:
    created = draw(moments(0, 30))
    stages = draw(st.lists(st.sampled_from(["ACTIVE", "REBOOTING", "SHUTOFF"]), max_size=4))
    states = [one for number, one in enumerate(stages) if not number or one != stages[number - 1]]
    gone = draw(st.booleans())
    times_ = sorted(draw(st.lists(moments(created, 60), min_size=len(states) + gone, max_size=len(states) + gone)))
    moves = list(zip(times_, [*states, *(["DELETED"] if gone else [])], strict=True))
    active = [at for at, state in moves if state == "ACTIVE"]
    wish = draw(st.none() | moments(created, 60))
    return {
        "created": created,
        "moves": moves,
        "ready": active[0] + draw(moments(0, 3)) if active and draw(st.integers(0, 4)) else None,
        "ended": times_[-1] if gone else None,
        "wish": wish,
        "by_caller": wish is not None and draw(st.booleans()),
    }


@st.composite
def fleets(draw: Any) -> dict[str, Any]:
    state = draw(st.sampled_from(["open", "ready", "failed"]))
    return {
        "created": 0,
        "count": draw(st.integers(1, 3)),
        "state": state,
        "ended": None if state == "open" else draw(moments(1, 60)),
        "cancelled": draw(st.none() | moments(1, 60)),
        "expires": draw(st.none() | moments(1, 60)),
        "vms": draw(st.lists(vms(), min_size=1, max_size=4)),
    }


def up_at(vm: Mapping[str, Any], moment: float) -> bool:
    state = next((state for at, state in reversed(vm["moves"]) if at <= moment), None)
    known = vm["ready"] is not None and vm["ready"] <= moment
    return state == "ACTIVE" and known and (vm["wish"] is None or moment < vm["wish"])


def slowly(fleet: Mapping[str, Any], since: int, until: int) -> tuple[int, int, int] | None:
    """The seconds of a fleet in a period, those with enough VMs, and those before it was complete; None if it has no VM then."""
    alive = [vm for vm in fleet["vms"] if vm["created"] < until and (vm["ended"] is None or vm["ended"] > since)]
    ends = [until, fleet["cancelled"], fleet["expires"]]
    if fleet["state"] != "open" and all(vm["ended"] is not None for vm in fleet["vms"]):
        ends.append(max(vm["ended"] for vm in fleet["vms"]))
    upper = min(end for end in ends if end is not None)
    seconds = [one + 0.5 for one in range(since, upper)]
    if not alive or not seconds:
        return None
    gone = [vm["wish"] for vm in fleet["vms"] if vm["by_caller"]]
    enough = sum(
        sum(up_at(vm, one) for vm in fleet["vms"]) >= fleet["count"] - sum(at <= one for at in gone) for one in seconds
    )
    complete = fleet["ended"] if fleet["state"] == "ready" else upper
    return len(seconds), enough, max(0, min(upper, complete) - since)


def at(second: int | None) -> datetime | None:
    return None if second is None else START + second * SECOND


async def insert(conn: Any, number: int, fleet: Mapping[str, Any]) -> UUID:
    fleet_id = UUID(int=number + 1)
    await conn.execute(
        text(
            "INSERT INTO submissions (submission_id, name, count, spec, policy, state, requested_by, next_creation_no, next_vm_no,"
            " created_at, deadline_at, ended_at, cancelled_at, expires_at) VALUES (:id, 'f', :count, '{}', '{}', :state, 'me', 2,"
            " 9, :created, :created, :ended, :cancelled, :expires)"
        ),
        {"id": fleet_id, "count": fleet["count"], "state": fleet["state"]}
        | {name: at(fleet[name]) for name in ("created", "ended", "cancelled", "expires")},
    )
    await conn.execute(
        text(
            "INSERT INTO creations (submission_id, creation_no, vm_count, name, state, deadline_at, created_at, completed_at)"
            " VALUES (:id, 1, 4, 'c', 'answered', :created, :created, :created)"
        ),
        {"id": fleet_id, "created": at(0)},
    )
    for vm_no, vm in enumerate(fleet["vms"], 1):
        await insert_vm(conn, fleet_id, vm_no, vm)
    return fleet_id


async def insert_vm(conn: Any, fleet_id: UUID, vm_no: int, vm: Mapping[str, Any]) -> None:
    key = {"id": fleet_id, "no": vm_no}
    last, state = vm["moves"][-1] if vm["moves"] else (vm["created"], "REQUESTED")
    await conn.execute(
        text(
            "INSERT INTO vms (submission_id, vm_no, creation_no, state, state_since, next_refresh_at, wants_address, flavor,"
            " environment, assignment, created_at, ready_at, ended_at, deletion_requested_at) VALUES (:id, :no, 1, :state, :since,"
            " :refresh, false, 'f', 'e', 'none', :created, :ready, :ended, :wish)"
        ),
        {**key, "state": state, "since": at(last), "refresh": None if state in {"REQUESTED", "DELETED"} else at(99)}
        | {name: at(vm[name]) for name in ("created", "ready", "ended", "wish")},
    )
    before = "REQUESTED"
    for seq, (moment, reached) in enumerate(vm["moves"], 1):
        await conn.execute(
            text(
                "INSERT INTO transitions (submission_id, vm_no, seq, at, from_state, to_state, verdict, evidence, evidence_at)"
                " VALUES (:id, :no, :seq, :at, :before, :reached, 'moved', 'event', :at)"
            ),
            {**key, "seq": seq, "at": at(moment), "before": before, "reached": reached},
        )
        before = reached
    if vm["by_caller"]:
        await conn.execute(
            text("INSERT INTO actions VALUES (:id, gen_random_uuid(), :no, 'delete', 'me', :at)"),
            {**key, "at": at(vm["wish"])},
        )


@given(st.lists(fleets(), min_size=1, max_size=3), moments(0, 40), moments(1, 40), st.integers(1, 2))
@trying(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_availability_equals_a_look_at_every_second(
    engine: AsyncEngine, given_: list[dict[str, Any]], since: int, length: int, limit: int
) -> None:
    period = StatisticsPeriod(at(since), at(since + length))
    async with engine.connect() as conn:
        ids = [await insert(conn, number, fleet) for number, fleet in enumerate(given_)]
        found: list[Any] = []
        after: UUID | None = None
        while True:
            some, after = await availability.page(conn, period, after=after, limit=limit)
            found += some
            if after is None:
                break
        everything = await availability.total(conn, period)
        await conn.rollback()
    expected = {one: slowly(fleet, since, since + length) for one, fleet in zip(ids, given_, strict=True)}
    measured = {one.submission_id: (one.seconds, one.available_seconds, one.starting_seconds) for one in found}
    assert measured == {one: sums for one, sums in expected.items() if sums is not None}
    assert (everything.fleets, everything.seconds) == (len(found), sum(one.seconds for one in found))
    assert everything.available_seconds == sum(one.available_seconds for one in found)


# Over HTTP, and on the command line.


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    return running(capsys)


@pytest.fixture
async def api(stage: Stage, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    await stage.submit(count=3, name="=train")
    await stage.live(120)
    runtime.clock.set(stage.rt.clock.now())
    async with serving(runtime) as api:
        monkeypatch.setenv("ROLLCALL_API_URL", api.url)
        monkeypatch.setenv("ROLLCALL_API_TOKEN", TOKEN)
        yield api


async def test_the_last_thirty_days_are_the_period_if_none_is_named(api: Api, stage: Stage) -> None:
    report = await api.get("/v1/statistics")
    since, until = (datetime.fromisoformat(report[name]) for name in ("since", "until"))
    assert (until - since, until) == (timedelta(days=30), stage.rt.clock.now())
    assert report["availability"]["fleets"] == 1
    assert 0.7 < report["availability"]["share"] < 1
    (fleet,) = (await api.get("/v1/statistics/availability"))["items"]
    assert {fleet[name] for name in ("share",)} == {report["availability"]["share"]}


@pytest.mark.parametrize("path", ["/v1/statistics", "/v1/statistics/availability", "/v1/cost"])
async def test_a_period_at_the_beginning_of_time_is_empty(api: Api, path: str) -> None:
    assert (await api.request("GET", f"{path}?until=0001-01-02T00:00:00Z")).status == 200


@pytest.mark.parametrize("path", ["/v1/statistics", "/v1/statistics/availability"])
@pytest.mark.parametrize(
    ("query", "field", "status"),
    [
        ("since=2030-01-01T00:00:00Z", "since", 422),
        ("since=2026-01-01T00:00:00", "since", 422),
        ("since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", "since", 422),
        ("flavor=x", "flavor", 422),
        ("submission_id=00000000-0000-0000-0000-000000000001", None, 404),
    ],
)
async def test_a_wrong_question_is_refused_with_its_field(
    api: Api, path: str, query: str, field: str | None, status: int
) -> None:
    answer = await api.request("GET", f"{path}?{query}")
    assert answer.status == status
    assert field is None or field in {one["field"] for one in answer.json["errors"]}


async def test_csv_has_the_numbers_of_the_report_and_no_formula(api: Api, run: Run) -> None:
    printed = (await run("stats", "--csv")).out
    rows = {tuple(row[:4]): row[4] for row in csv.reader(io.StringIO(printed))}
    report = json.loads((await run("stats", "--json")).out)
    (fleet,) = report["fleets"]
    (flavor,) = [one for one in report["times"] if one["by"] == "flavor"]
    assert rows["time to ready", "flavor", flavor["key"], "p50"] == str(flavor["ready"]["p50"])
    assert rows["callbacks", "all", "all", "received"] == str(report["callbacks"]["received"])
    assert rows["availability", "submission", fleet["submission_id"], "asked"] == "3"
    assert not [one for row in rows for one in row if one.startswith("=")]
    by_api = await api.request("GET", "/v1/statistics", Accept="text/csv")
    assert "time to ready,flavor" in by_api.json


async def test_tables_have_bars_and_the_file_loads_and_runs_nothing(api: Api, run: Run, tmp_path: Path) -> None:
    ended = await run("stats", "--by", "hour")
    assert ended.code == 0
    assert "█" in ended.out
    assert "09" in ended.out
    for plot in ("times", "failures", "callbacks", "availability"):
        assert (await run("stats", "--svg", f"{plot}.svg", "--plot", plot)).code == 0
        drawn = (tmp_path / f"{plot}.svg").read_text(encoding="utf-8")
        assert drawn.replace("http://www.w3.org/", "").count("://") == 0
        assert not [word for word in ("<script", "@import", "onload", "javascript") if word in drawn]
    assert (await run("stats", "--svg", "missing/x.svg")).code == 1
    assert (await run("stats", "--csv", "--json")).code == 2

"""Questions about one VM, and about what is due, are answered by indexes and read next to nothing of a large fleet."""

import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import orjson
import pytest
from aiohttp import CookieJar
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from stage import Stage

from service.api.app import make_app
from service.core.token import CreationRef
from service.core.vm import Vm
from service.queries import callback_statistics, fleet, fleet_samples, search, statistics, timeline
from service.queries.callback_statistics import callbacks
from service.queries.search_scope import SearchFilter
from service.queries.statistics import StatisticsPeriod
from service.queries.typed import typed
from service.storage import creations, due, vms
from service.storage.engine import begin
from service.storage.vms import VmFilter
from service.web.dashboard import add_dashboard
from service.worker import apply, runner, sample

#: 4,000 creations in one submission, 200 of them with 20 VMs, ten events and one call about each VM.
LARGE = """
UPDATE submissions SET created_at = created_at - interval '1 day';
INSERT INTO creations (submission_id, creation_no, vm_count, name, state, created_at, completed_at, deadline_at)
SELECT submission_id, n, 20, 'c' || n, 'answered', created_at, created_at, created_at + interval '1 year' FROM submissions, generate_series(2, 4000) AS n;
INSERT INTO vms (submission_id, vm_no, creation_no, provider_id, state, state_since, next_refresh_at, wants_address, flavor,
                 environment, assignment, ready, created_at, bound_at)
SELECT submission_id, n, n / 20, n, 'ACTIVE', created_at, created_at + interval '1 day', false, 'f', 'e', 'none', true,
       created_at, created_at FROM submissions, generate_series(40, 3999) AS n;
INSERT INTO events (submission_id, received_at, event_id, creation_no, source, body, headers, digest)
SELECT submission_id, created_at + n * interval '10 seconds' + k * interval '1 second', gen_random_uuid(), n / 20,
       'callback', '{}', '{}', ''
FROM submissions, generate_series(40, 3999) AS n, generate_series(1, 10) AS k ORDER BY 2;
INSERT INTO calls (submission_id, call_id, operation, vm_no, provider_id, begun_at)
SELECT submission_id, gen_random_uuid(), 'get', n, n, created_at FROM submissions, generate_series(40, 3999) AS n;
ANALYZE
"""

#: Something is unfinished in every table, and its time comes in a year. So whatever reads more than its index must, shows.
WAITING = """
UPDATE vms SET next_refresh_at = created_at + interval '1 year', history_due_at = created_at + interval '1 year';
UPDATE vms SET desired_state = 'deleted', delete_due_at = created_at + interval '1 year' WHERE vm_no > 39 AND vm_no % 2 = 0;
UPDATE vms SET assignment = 'retrying', contract_due_at = created_at + interval '1 year' WHERE vm_no > 39 AND vm_no % 2 = 1;
UPDATE creations SET state = 'due', due_at = created_at + interval '1 year', completed_at = NULL WHERE creation_no % 4 = 1;
UPDATE creations SET state = 'unconfirmed', due_at = created_at + interval '1 year', completed_at = NULL,
                     lookup_until = created_at + interval '2 years', unconfirmed_since = created_at + interval '1 year'
WHERE creation_no % 4 = 2;
UPDATE creations SET state = 'calling', due_at = created_at + interval '1 year', completed_at = NULL,
                     lease_until = created_at + interval '1 year', lease_token = submission_id
WHERE creation_no > 3990 AND creation_no % 4 = 3;
INSERT INTO inbox SELECT submission_id, received_at, event_id, creation_no, received_at + interval '1 year'
FROM events LIMIT 4000;
INSERT INTO orphans SELECT submission_id, 100000 + n, 1, NULL, 'suspected', '', created_at - interval '1 year',
                           created_at + interval '1 year', 0,
                           NULL, CASE n % 2 WHEN 0 THEN 'list' ELSE 'callback' END
FROM submissions, generate_series(1, 4000) AS n;
INSERT INTO submissions (submission_id, name, count, spec, policy, state, requested_by, next_creation_no, next_vm_no, created_at,
                         deadline_at, ended_at, cancelled_at, withdraw_due_at, expires_at, expiry_notice_at, limit_due_at,
                         repair_due_at)
SELECT gen_random_uuid(), name, count, spec, policy, 'ready', requested_by, 2, 2, created_at, deadline_at, created_at,
       CASE n % 2 WHEN 0 THEN created_at END, CASE n % 2 WHEN 0 THEN created_at + interval '1 year' END,
       created_at + interval '1 year', created_at + interval '1 year', created_at + interval '1 year',
       created_at + interval '1 year'
FROM submissions, generate_series(1, 4000) AS n;
UPDATE scheduled_jobs SET due_at = due_at + interval '1 year', done_at = done_at + interval '1 month'
"""


def rows_read(plan: dict[str, Any]) -> int:
    """Rows that the scans of a plan went through, those that a filter threw away included."""
    here = (
        (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
        if "Scan" in plan["Node Type"]
        else 0
    )
    return int(here) + sum(map(rows_read, plan.get("Plans", [])))


@pytest.fixture
async def stage(engine: AsyncEngine) -> Stage:
    stage = Stage(engine)
    await stage.submit()
    await stage.live(120)
    for statement in LARGE.split(";\n"):
        await stage.sql(statement)
    return stage


async def explained(stage: Stage, statement: str, **values: Any) -> int:
    async with begin(stage.engine) as conn:
        found = await conn.execute(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"), values)
        plan = found.scalar_one()
    return rows_read((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])


@pytest.mark.parametrize("of", [timeline._EVENTS, timeline._CALLS])
async def test_the_timeline_of_a_vm_reads_its_own_creation_only(stage: Stage, of: Any):
    vm = await stage.vm(2000)
    compiled = of.compile(dialect=postgresql.dialect())
    given = {**timeline._parameters(vm), "evidence": []}
    filled = of.params({name: given[name] for name in compiled.params if name in given})
    statement = filled.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
    assert await explained(stage, str(statement).replace("ARRAY[]", "'{}'::uuid[]").replace(":", r"\:")) <= 2 * 20 * 10


async def vacuumed(stage: Stage) -> None:
    """Remove the entries of rows that are gone, which a query would read once more."""
    async with stage.engine.connect() as conn:
        await (await conn.execution_options(isolation_level="AUTOCOMMIT")).execute(text("VACUUM ANALYZE"))


@pytest.fixture
async def waiting(stage: Stage) -> Stage:
    """The large fleet after its first run of every job, with something unfinished everywhere."""
    for job in runner.ALL.values():
        await job(stage.rt)
    for statement in WAITING.split(";\n"):
        await stage.sql(statement)
    await vacuumed(stage)
    return stage


PLANS = ("force_generic_plan", "force_custom_plan")


def scans(plan: dict[str, Any]) -> int:
    """How many looks into a table or an index a plan made."""
    here = plan["Actual Loops"] if "Scan" in plan["Node Type"] else 0
    return int(here) + sum(map(scans, plan.get("Plans", [])))


async def test_the_question_what_is_due_reads_nothing_that_is_not_due(waiting: Stage):
    now, read = waiting.world.clock.now(), {}
    async with begin(waiting.engine) as conn:
        for job, condition in due._DUE.items():
            query = f"SELECT {condition}".replace(":now", "$1").replace(":limit", "$2")
            prepared = f"PREPARE {job}_due (timestamptz, bigint) AS {query}"
            await conn.execute(text(prepared.replace("::", r"\:\:")))
            for plans in PLANS:
                await conn.execute(text(f"SET LOCAL plan_cache_mode = {plans}"))
                explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {job}_due ('{now.isoformat()}', 1)"
                found = (await conn.execute(text(explain.replace(":", r"\:")))).scalar_one()
                plan = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
                blocks = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
                read[job, plans] = rows_read(plan), blocks / max(scans(plan), 1)
    assert max(rows for rows, _ in read.values()) < 20, read
    # An index's root, its leaf, a row, and one page more where a split has left one; whole tables have hundreds.
    assert max(blocks for _, blocks in read.values()) <= 5, read


LARGE_TABLES = (
    "submissions", "vms", "creations", "inbox", "orphans", "events", "transitions", "calls", "assignments",
)  # fmt: skip


async def reads(stage: Stage, work: Callable[[], Awaitable[object]]) -> tuple[int, int]:
    """Rows of the large tables that `work` read by going through a table from its beginning, and entries of indexes."""
    before = await read_so_far(stage)
    await work()
    rows, entries = await read_so_far(stage)
    return rows - before[0], entries - before[1]


async def scanned(stage: Stage, work: Callable[[], Awaitable[object]]) -> int:
    return (await reads(stage, work))[0]


async def read_so_far(stage: Stage) -> tuple[int, int]:
    await stage.engine.dispose()  # a connection counts what it read when it is closed, at the latest
    async with begin(stage.engine) as conn:
        others = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        while (await conn.execute(others)).scalar_one():
            await conn.execute(text("SELECT pg_stat_clear_snapshot()"))
        which = "relname = ANY (:tables) OR relname LIKE 'events%'"
        counted = text(
            f"""SELECT (SELECT sum(seq_tup_read)::int FROM pg_stat_user_tables WHERE {which}),
                       (SELECT sum(idx_tup_read)::int FROM pg_stat_user_indexes WHERE {which})"""
        )
        rows, entries = (await conn.execute(counted, {"tables": list(LARGE_TABLES)})).one()
        return rows, entries


async def test_idle_jobs_go_through_no_large_table_whichever_plan_postgres_keeps(waiting: Stage):
    """A statement that is run again and again gets a plan for any time and any limit, and not one for those given."""

    async def what_is_due() -> None:
        async with begin(waiting.engine) as conn:
            await due.due_jobs(conn, waiting.world.clock.now())

    questions = {"due": what_is_due} | {name: partial(job, waiting.rt) for name, job in runner.ALL.items()}
    for plans in PLANS:
        await waiting.sql(
            f"DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET plan_cache_mode = {plans}', current_database()); END $$"
        )
        read = {name: await reads(waiting, work) for name, work in questions.items()}
        assert max(rows for rows, _ in read.values()) < 10, (plans, read)
        assert max(entries for _, entries in read.values()) < 100, (plans, read)


#: All but 100 VMs have ended; a few of everything that is counted.
ENDED = """
UPDATE vms SET state = 'DELETED', ended_at = created_at, next_refresh_at = NULL,
               ready = false, member = vm_no % 3 > 0, on_demand_seconds = (vm_no % 100 = 0)::int * 7 WHERE vm_no >= 100;
UPDATE vms SET state = (ARRAY['ACTIVE', 'ERROR', 'LOST'])[1 + vm_no % 3], stuck = vm_no % 5 = 0, ready = vm_no % 4 = 0,
               region = CASE vm_no % 2 WHEN 0 THEN 'CANADA-1' END, flavor = 'f' || vm_no % 3, member = vm_no % 7 > 0,
               observed_contract_id = nullif(vm_no % 3, 0), on_demand_seconds = vm_no WHERE vm_no < 100
"""
#: The counts by their definitions.
COUNTED = {
    "by_state": "SELECT state, count(*) FROM vms WHERE member GROUP BY 1",
    "by_region": "SELECT coalesce(region, 'none'), count(*) FROM vms WHERE member AND ended_at IS NULL GROUP BY 1",
    "by_flavor": "SELECT flavor, count(*) FROM vms WHERE member AND ended_at IS NULL GROUP BY 1",
    "by_contract": """SELECT coalesce(observed_contract_id::text, 'none'), count(*) FROM vms
                      WHERE member AND ended_at IS NULL GROUP BY 1""",
    "alive": "SELECT count(*) FROM vms WHERE member AND ended_at IS NULL",
    "ready": "SELECT count(*) FROM vms WHERE member AND ready",
    "stuck": "SELECT count(*) FROM vms WHERE member AND ended_at IS NULL AND stuck",
    "on_demand_seconds": "SELECT sum(on_demand_seconds) FROM vms",
}


async def test_what_has_ended_is_counted_from_indexes_and_the_counts_are_right(stage: Stage):
    for statement in ENDED.split(";\n"):
        await stage.sql(statement)
    await vacuumed(stage)
    submission_id, counted = (await stage.submission()).submission_id, []

    async def count(submission_id: UUID | None = None) -> None:
        async with begin(stage.engine) as conn:
            now = stage.world.clock.now()
            await conn.execute(text("SET LOCAL random_page_cost = 1.1"))  # or the table is too small for its indexes
            counted.append(await fleet.count(conn, now=now, submission_id=submission_id))

    rows, _ = await reads(stage, count)
    assert rows < 100
    await count(submission_id)
    for field, definition in COUNTED.items():
        wanted = await stage.sql(definition)
        for found in (getattr(one, field) for one in counted):
            assert found == (dict(map(tuple, wanted)) if field.startswith("by_") else wanted[0][0]), field


async def test_a_list_of_living_vms_goes_through_none_that_has_ended(stage: Stage):
    for statement in ENDED.split(";\n"):
        await stage.sql(statement)
    await vacuumed(stage)
    listed: list[Vm] = []
    for which, condition in (
        (VmFilter(alive=True), "ended_at IS NULL"),
        (VmFilter(ready=True), "ready"),
        (VmFilter(stuck=True), "stuck"),
        (VmFilter(stuck=True, alive=True), "stuck AND ended_at IS NULL"),
        (VmFilter(state="ERROR"), "state = 'ERROR'"),
        (VmFilter(state="LOST", region="CANADA-1"), "state = 'LOST' AND region = 'CANADA-1'"),
        (VmFilter(state="ACTIVE"), "state = 'ACTIVE'"),
        (VmFilter(state="BUILD"), "state = 'BUILD'"),
    ):

        async def ask(which: VmFilter = which) -> None:
            async with begin(stage.engine) as conn:
                await conn.execute(text("SET LOCAL random_page_cost = 1.1"))  # as above
                listed[:] = await vms.page(conn, which, after=None, limit=200)

        assert sum(await reads(stage, ask)) <= 200, which
        wanted = await stage.sql(f"SELECT vm_no FROM vms WHERE {condition} ORDER BY submission_id, vm_no")
        assert [one.vm_no for one in listed] == [row[0] for row in wanted], which


async def test_a_few_creations_are_found_among_many(waiting: Stage):
    """By their names, those to be sent, those to be cancelled, and those too late: with an index for each question."""
    now = waiting.world.clock.now()
    submission_id = await waiting.sql("SELECT submission_id FROM creations LIMIT 1")

    async def asked(question: Callable[[AsyncConnection], Awaitable[Any]], *, found: int) -> tuple[int, int]:
        async def work() -> None:
            async with begin(waiting.engine) as conn:
                assert len(await question(conn)) == found

        return await reads(waiting, work)

    await waiting.sql(
        "UPDATE creations SET due_at = created_at, deadline_at = created_at WHERE creation_no IN (5, 9, 13)"
    )
    lease = {"lease": timedelta(minutes=1), "token": waiting.rt.uuid()}
    read = {
        "name": await asked(lambda conn: creations.by_names(conn, ["c7", "c3001"]), found=2),
        "late": await asked(lambda conn: creations.too_late(conn, now=now, limit=20), found=3),
        "sent": await asked(lambda conn: creations.claim_due(conn, now=now, limit=8, **lease), found=3),
        "cancelled": await asked(
            lambda conn: creations.cancel_due(conn, submission_id[0][0], now=now, limit=5), found=5
        ),
    }
    assert max(rows for rows, _ in read.values()) < 20, read
    assert max(entries for _, entries in read.values()) < 200, read


async def test_callbacks_of_many_vms_are_applied_without_going_through_all_vms(stage: Stage):
    """Also the first ones on a new connection, for which Postgres plans with the number of callbacks."""
    submission_id = (await stage.submission()).submission_id
    for number in range(1000, 2000):
        body = orjson.dumps({"resource": {"id": number}, "data": {"status": "STOPPING"}})
        await stage.hear(CreationRef(submission_id, number // 20), body)
    assert await scanned(stage, partial(apply.run_once, stage.rt)) <= 1000  # the inbox
    assert await stage.sql("SELECT count(*) FROM vms WHERE state = 'STOPPING'") == [(1000,)]


async def test_the_first_page_of_a_search_goes_through_no_large_table(stage: Stage):
    """What is about one VM, and what is newest of everything; the exception is a list of VMs by their state alone."""
    vm = await stage.vm(2000)
    await stage.sql("UPDATE vms SET name = 'vm-' || vm_no, floating_ip = '192.0.2.' || vm_no")
    await stage.sql("ANALYZE vms")
    # By the database's clock the stage's events are months old, and what came before so long a silence is read in long stretches.
    ((last,),) = await stage.sql("SELECT max(received_at) FROM events")
    for which in (
        SearchFilter(provider_id=vm.provider_id),
        SearchFilter(vm=(vm.submission_id, vm.vm_no)),
        SearchFilter(address="192.0.2.2000"),
        SearchFilter(name="vm-2000"),
        SearchFilter(kind="transition"),
        SearchFilter(kind="event", until=last + timedelta(seconds=1)),
        SearchFilter(kind="call"),
    ):

        async def first_page(which: SearchFilter = which) -> None:
            async with begin(stage.engine) as conn:
                assert await search.page(conn, which, after=None, limit=100)

        assert await scanned(stage, first_page) < 100, which


OLD = """
INSERT INTO transitions (submission_id, vm_no, seq, at, from_state, to_state, verdict, evidence, evidence_at)
SELECT submission_id, n / 10, 1000 + n % 10, created_at, 'BUILD', 'ERROR', 'moved', 'observation', created_at
FROM submissions, generate_series(400, 39999) AS n;
INSERT INTO assignments (submission_id, vm_no, attempt, at, step, outcome, reason)
SELECT submission_id, n / 10, n % 10, created_at, 'wait', 'waiting', '' FROM submissions, generate_series(400, 39999) AS n;
INSERT INTO events (submission_id, received_at, event_id, creation_no, source, body, headers, digest)
SELECT gen_random_uuid(), created_at, gen_random_uuid(), 1, 'callback', '{}', '{}', '' FROM submissions, generate_series(1, 40000);
SELECT brin_summarize_new_values(indexrelid) FROM pg_index JOIN pg_class c ON c.oid = indexrelid
JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'brin' AND c.relkind = 'i'
"""


async def test_statistics_of_an_hour_read_nothing_of_the_rest_of_the_month(stage: Stage):
    for statement in OLD.split(";\n"):
        await stage.sql(statement)
    await vacuumed(stage)
    now = stage.world.clock.now()
    period = StatisticsPeriod(now + timedelta(hours=1), now + timedelta(hours=2))
    for question in (statistics.times, statistics.failures, callbacks):

        async def ask(question: Any = question) -> None:
            async with begin(stage.engine) as conn:
                await question(conn, period)

        rows, entries = await reads(stage, ask)
        assert (rows < 200, entries < 200) == (True, True), (question.__name__, rows, entries)
    async with begin(stage.engine) as conn:
        explain = typed("EXPLAIN " + callback_statistics._RECEIVED.format(of_e=""))
        plan = "\n".join((await conn.execute(explain, period.params)).scalars())
    assert "events_p2026_08_received_at_idx" in plan  # and not through another index from end to end


async def test_pages_of_a_large_record_read_about_what_they_show(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """What the job `sample` counted stands in for going through all VMs: of the fleet, and of a large submission."""
    monkeypatch.setattr(fleet_samples, "FEW", 100)
    monkeypatch.setattr(fleet_samples, "MANY", 100)
    await vacuumed(stage)
    await sample.run_once(stage.rt)
    stage.world.clock.advance(1)
    of = (await stage.submission()).submission_id
    app = make_app(stage.rt, {"ops": SecretStr("a token of a test")})
    add_dashboard(app)
    async with TestClient(TestServer(app), cookie_jar=CookieJar(unsafe=True)) as client:
        assert (await client.post("/signin", data={"token": "a token of a test"})).status == 200

        async def read(path: str) -> None:
            async with client.get(path) as page:
                shown[path] = await page.text()

        shown: dict[str, str] = {}
        # What knows a VM is looked for in the ten callbacks of each VM of its creation; two pages show 200 VMs.
        most = {
            "/": 100, "/?minutes=10080": 100, "/submissions": 100, f"/vms/{of}.2000": 500,
            f"/submissions/{of}": 6000, "/audit": 6000,
        }  # fmt: skip
        read_by = {path: sum(await reads(stage, partial(read, path))) for path in most}
    assert {path: number for path, number in read_by.items() if number > most[path]} == {}
    assert '/vms?alive=true">3961<' in shown["/"]
    assert [path for path in most if not ("Counted at" in shown[path] or "many VMs are of" in shown[path])] == []

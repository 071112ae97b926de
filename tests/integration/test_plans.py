"""Questions about one VM, and about what is due, are answered by indexes and read next to nothing of a large fleet."""

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import orjson
import pytest
from sqlalchemy import text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage

from service.core.token import CreationRef
from service.queries import search, timeline
from service.queries.search_scope import SearchFilter
from service.storage import due
from service.storage.engine import begin
from service.worker import apply, runner

#: 4,000 creations in one submission, 200 of them with 20 VMs, ten events and one call about each VM.
LARGE = """
INSERT INTO creations (submission_id, creation_no, vm_count, name, state, created_at, completed_at)
SELECT submission_id, n, 20, 'c' || n, 'answered', created_at, created_at FROM submissions, generate_series(2, 4000) AS n;
INSERT INTO vms (submission_id, vm_no, creation_no, provider_id, state, state_since, next_refresh_at, wants_address, flavor,
                 environment, assignment, ready, created_at, bound_at)
SELECT submission_id, n, n / 20, n, 'ACTIVE', created_at, created_at + interval '1 day', false, 'f', 'e', 'none', true,
       created_at, created_at FROM submissions, generate_series(40, 3999) AS n;
INSERT INTO events (submission_id, received_at, event_id, creation_no, source, body, headers, digest)
SELECT submission_id, created_at + k * interval '1 second', gen_random_uuid(), n / 20, 'callback', '{}', '{}', ''
FROM submissions, generate_series(40, 3999) AS n, generate_series(1, 10) AS k;
INSERT INTO calls (submission_id, call_id, operation, vm_no, provider_id, begun_at)
SELECT submission_id, gen_random_uuid(), 'get', n, n, created_at FROM submissions, generate_series(40, 3999) AS n;
ANALYZE
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


@pytest.mark.parametrize("of", [timeline._events, lambda vm: timeline._calls(vm, [])])
async def test_the_timeline_of_a_vm_reads_its_own_creation_only(stage: Stage, of: Any):
    vm = await stage.vm(2000)
    statement = of(vm).compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
    assert await explained(stage, str(statement).replace("ARRAY[]", "'{}'::uuid[]").replace(":", r"\:")) <= 2 * 20 * 10


async def test_the_question_what_is_due_reads_nothing_that_is_not_due(stage: Stage):
    now = stage.world.clock.now()
    assert await explained(stage, str(due._QUERY), now=now, limit=1) < 400


LARGE_TABLES = ("vms", "creations", "events", "transitions", "calls")


async def scanned(stage: Stage, work: Callable[[], Awaitable[object]]) -> int:
    """Rows of the large tables that `work` read by going through a table from its beginning."""
    before = await read_from_the_beginning(stage)
    await work()
    return await read_from_the_beginning(stage) - before


async def read_from_the_beginning(stage: Stage) -> int:
    await stage.engine.dispose()  # a connection counts what it read when it is closed, at the latest
    async with begin(stage.engine) as conn:
        others = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        while (await conn.execute(others)).scalar_one():
            await conn.execute(text("SELECT pg_stat_clear_snapshot()"))
        counted = text(
            "SELECT sum(seq_tup_read)::int FROM pg_stat_user_tables WHERE relname = ANY (:tables) OR relname LIKE 'events%'"
        )
        return (await conn.execute(counted, {"tables": list(LARGE_TABLES)})).scalar_one()


@pytest.mark.parametrize("plans", ["force_generic_plan", "force_custom_plan"])
async def test_idle_jobs_go_through_no_large_table_whichever_plan_postgres_keeps(stage: Stage, plans: str):
    """A statement that is run again and again gets a plan for any time and any limit, and not one for those given."""
    for job in runner.ALL.values():  # what is due at the first start
        await job(stage.rt)
    await stage.sql(
        f"DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET plan_cache_mode = {plans}', current_database()); END $$"
    )

    async def what_is_due() -> None:
        async with begin(stage.engine) as conn:
            await due.due_jobs(conn, stage.world.clock.now())

    questions = {"due": what_is_due} | {name: partial(job, stage.rt) for name, job in runner.ALL.items()}
    read = {name: await scanned(stage, work) for name, work in questions.items()}
    assert max(read.values()) < 10, read


async def test_callbacks_of_many_vms_are_applied_without_going_through_all_vms(stage: Stage):
    """Also the first ones on a new connection, for which Postgres plans with the number of callbacks."""
    submission_id = (await stage.submission()).submission_id
    for number in range(1000, 2000):
        body = orjson.dumps({"resource": {"id": number}, "data": {"status": "STOPPING"}})
        await stage.hear(CreationRef(submission_id, number // 20), body)
    assert await scanned(stage, partial(apply.run_once, stage.rt)) == 0
    assert await stage.sql("SELECT count(*) FROM vms WHERE state = 'STOPPING'") == [(1000,)]


async def test_the_first_page_of_a_search_goes_through_no_large_table(stage: Stage):
    """What is about one VM, and what is newest of everything; the exception is a list of VMs by their state alone."""
    vm = await stage.vm(2000)
    await stage.sql("UPDATE vms SET name = 'vm-' || vm_no, floating_ip = '192.0.2.' || vm_no")
    await stage.sql("ANALYZE vms")
    for which in (
        SearchFilter(provider_id=vm.provider_id),
        SearchFilter(vm=(vm.submission_id, vm.vm_no)),
        SearchFilter(address="192.0.2.2000"),
        SearchFilter(name="vm-2000"),
        SearchFilter(kind="transition"),
        SearchFilter(kind="event"),
        SearchFilter(kind="call"),
    ):

        async def first_page(which: SearchFilter = which) -> None:
            async with begin(stage.engine) as conn:
                assert await search.page(conn, which, after=None, limit=100)

        assert await scanned(stage, first_page) < 100, which

"""Questions about one VM, and about what is due, are answered by indexes and read next to nothing of a large fleet."""

import json
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage

from service.queries import timeline
from service.storage import due
from service.storage.engine import begin

#: 200 creations of 20 VMs in one submission, ten events and one call about each VM.
LARGE = """
INSERT INTO creations (submission_id, creation_no, vm_count, name, state, created_at, completed_at)
SELECT submission_id, n, 20, 'c' || n, 'answered', created_at, created_at FROM submissions, generate_series(2, 200) AS n;
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

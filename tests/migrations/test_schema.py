"""Up from empty equals tables.py, and down again leaves nothing behind."""

from typing import Any

import pytest
from alembic import command
from schema import OF_MIGRATIONS, OF_TABLES, described
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from service.core.vm import AssignmentStep, Transition, Vm
from service.storage import migrate
from service.storage.calls import Call, CallEnd
from service.storage.creations import Creation
from service.storage.engine import begin
from service.storage.events import DeadLetter, Event
from service.storage.submissions import Submission
from service.storage.tables import APPEND_ONLY, metadata

EMPTY = {what: set() for what in (*OF_TABLES, *OF_MIGRATIONS)}


async def test_alembic_finds_no_difference_between_the_migrations_and_the_tables(engine: AsyncEngine) -> None:
    def check(conn: Connection) -> None:
        config = migrate.config()
        config.attributes["connection"] = conn
        command.check(config)  # raises with what differs

    async with begin(engine) as conn:
        await conn.run_sync(check)


async def test_postgres_finds_none_either_down_to_the_last_constraint(
    engine: AsyncEngine, bare_engine: AsyncEngine
) -> None:
    async with begin(bare_engine) as conn:
        await conn.run_sync(metadata.create_all)
    from_tables = await described(bare_engine)
    from_migrations = await described(engine, partitions=False)
    for what in OF_TABLES:
        assert from_migrations[what] == from_tables[what]
    assert {row[0] for row in from_tables["columns"]} == set(metadata.tables)


async def test_down_to_nothing_and_up_again_makes_the_same_database(bare_engine: AsyncEngine) -> None:
    await migrate.upgrade(bare_engine)
    first = await described(bare_engine)
    await migrate.downgrade(bare_engine, "base")
    assert await described(bare_engine) == EMPTY
    assert await migrate.current(bare_engine) is None
    await migrate.upgrade(bare_engine)
    assert await described(bare_engine) == first


@pytest.mark.parametrize("revision", [f"r{n:04d}" for n in range(1, int(migrate.head()[1:]) + 1)])
async def test_each_step_can_be_taken_back_alone(bare_engine: AsyncEngine, revision: str) -> None:
    number = int(revision.removeprefix("r"))
    before = f"r{number - 1:04d}" if number > 1 else "base"
    if before != "base":
        await migrate.upgrade(bare_engine, before)
    untouched = await described(bare_engine)
    await migrate.upgrade(bare_engine, revision)
    assert await migrate.current(bare_engine) == revision
    assert await described(bare_engine) != untouched
    await migrate.downgrade(bare_engine, before)
    assert await described(bare_engine) == untouched


async def test_every_append_only_table_has_its_two_triggers_and_elsewhere_only_some_changes_fire_any(
    engine: AsyncEngine,
) -> None:
    found = (await described(engine, partitions=False))["triggers"]
    notices = {row for row in found if "_notices_" in str(row[1])}
    assert {row[0] for row in notices} == {"vms", "submissions", "orphans", "health_issues"}
    assert all(" WHEN " in str(row[2]) for row in notices)
    failed = {row for row in found if row[1] == "vms_failed"}
    assert all(" WHEN " in str(row[2]) and " UPDATE " in str(row[2]) for row in failed)
    triggers = found - notices - failed
    assert {(row[0], row[1]) for row in triggers} == {
        pair for table in APPEND_ONLY for pair in ((table, f"{table}_append_only"), (table, f"{table}_no_truncate"))
    }
    assert not any(" INSERT " in str(row[2]) for row in triggers)


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        (AssignmentStep, "assignments"),
        (Call, "calls"),
        (CallEnd, "call_ends"),
        (Creation, "creations"),
        (Event, "events"),
        (DeadLetter, "dead_letters"),
        (Submission, "submissions"),
        (Transition, "transitions"),
        (Vm, "vms"),
    ],
    ids=str,
)
def test_a_record_has_a_field_for_each_column_of_its_table(kind: Any, table: str) -> None:
    assert set(kind.__struct_fields__) == set(metadata.tables[table].columns.keys()) - {"xact_id"}

"""What is kept cannot be edited, by us or by anybody who comes by with a statement."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Table, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.errors import AppendOnly
from service.storage.engine import begin
from service.storage.partitions import make_partitions
from service.storage.tables import APPEND_ONLY, metadata

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
#: A value for a column of each type, where the constraints leave the choice.
SOME = {
    UUID: UUID(int=7),
    int: 1,
    str: "something",
    bytes: b"something",
    datetime: NOON,
    object: {},
    Decimal: Decimal(1),
}
KNOWN = {"verdict": "moved", "kind": "delete"}


def row_of(table: Table) -> dict[str, Any]:
    own = {"transitions": {"from_state": "CREATING", "to_state": "BUILD"}, "contract_discounts": {"kind": "flat"}}
    return {column.name: KNOWN.get(column.name, SOME[column.type.python_type]) for column in table.columns} | own.get(
        table.name, {}
    )


@pytest.mark.parametrize("name", APPEND_ONLY)
async def test_a_kept_row_can_be_added_and_nothing_else(engine: AsyncEngine, name: str) -> None:
    table = metadata.tables[name]
    async with begin(engine) as conn:
        await conn.execute(table.insert().values(row_of(table)))
    kept = await everything(engine, table)
    assert len(kept) == 1
    for statement in (
        f"UPDATE {name} SET xact_id = xact_id",
        f"DELETE FROM {name}",
        f"TRUNCATE {name}",
        f"TRUNCATE {name}, rate_limits CASCADE",
    ):
        with pytest.raises(AppendOnly, match=f"the rows of {name}.* are append-only"):
            async with begin(engine) as conn:
                await conn.execute(text(statement))
        assert await everything(engine, table) == kept


async def test_events_of_every_month_are_kept_alike(engine: AsyncEngine) -> None:
    table = metadata.tables["events"]
    async with begin(engine) as conn:
        await conn.execute(text("CREATE TABLE IF NOT EXISTS events_p2026_03 PARTITION OF events FOR VALUES FROM ('2026-03-01Z') TO ('2026-04-01Z')"))  # fmt: skip
        for month in (3, 7):  # one of its own, and one that falls into the default partition
            await conn.execute(table.insert().values(row_of(table) | {"received_at": NOON.replace(month=month)}))
    for name in ("events", "events_p2026_03", "events_pdefault"):
        for statement in (f"UPDATE {name} SET peer = 'nobody'", f"DELETE FROM {name}"):
            with pytest.raises(AppendOnly):
                async with begin(engine) as conn:
                    await conn.execute(text(statement))
    assert len(await everything(engine, table)) == 2


@pytest.mark.parametrize("month", ["events_pdefault", "events_p2026_03"])
async def test_no_single_month_of_events_can_be_emptied(engine: AsyncEngine, month: str) -> None:
    async with begin(engine) as conn:
        await make_partitions(conn, now=datetime(2026, 3, 2, tzinfo=UTC))
    with pytest.raises(AppendOnly):
        async with begin(engine) as conn:
            await conn.execute(text(f"TRUNCATE {month}"))


async def test_working_tables_can_be_written_as_ever(engine: AsyncEngine) -> None:
    table = metadata.tables["inbox"]
    async with begin(engine) as conn:
        await conn.execute(table.insert().values(row_of(table)))
        assert (await conn.execute(table.update().values(attempts=2))).rowcount == 1
        assert (await conn.execute(table.delete())).rowcount == 1
        assert (await conn.execute(select(func.count()).select_from(table))).scalar_one() == 0


async def everything(engine: AsyncEngine, table: Table) -> list[Any]:
    async with begin(engine) as conn:
        return list((await conn.execute(select(table))).all())

"""Rows become records: whole fleets of them, while callbacks and other duties get their turns."""

import asyncio

from msgspec import Struct
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.core.lifecycle import VmState
from service.storage.engine import begin
from service.storage.rows import from_rows


class Named(Struct, frozen=True):
    number: int
    state: VmState


MANY = text("SELECT 'x' AS beside, 'ACTIVE' AS state, number FROM generate_series(1, 5000) AS number ORDER BY number")


async def test_columns_find_their_fields_in_any_order_and_others_are_left_out(engine: AsyncEngine):
    async with begin(engine) as conn:
        records = await from_rows(Named, await conn.execute(MANY))
    assert records == [Named(number, VmState.ACTIVE) for number in range(1, 5001)]


async def test_no_rows_are_no_records(engine: AsyncEngine):
    async with begin(engine) as conn:
        assert await from_rows(Named, await conn.execute(text("SELECT 1 AS number, '' AS state LIMIT 0"))) == []


async def test_others_get_their_turns_while_a_fleet_is_read(engine: AsyncEngine):
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with begin(engine) as conn:
        rows = await conn.execute(MANY)
        task = asyncio.create_task(other())
        records = await from_rows(Named, rows)
        task.cancel()
    assert (len(records), turns >= len(records) // 250) == (5000, True)

"""The clock of record: the database's, counted on by a clock that nobody sets."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.runtime import clock as clock_module
from service.runtime.clock import DatabaseClock
from service.storage.engine import begin


class Counter:
    """Counts as told: each look at it takes the next step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 1000.0
        self.steps: Iterator[float] = iter(())
        monkeypatch.setattr(clock_module, "_count", self)

    def __call__(self) -> float:
        self.seconds += next(self.steps, 0.0)
        return self.seconds


async def database_time(engine: AsyncEngine) -> datetime:
    async with begin(engine) as conn:
        told: datetime = (await conn.execute(text("SELECT clock_timestamp()"))).scalar_one()
        return told


async def test_it_is_the_databases_time_however_wrong_ours_was(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch):
    class Wrong(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2020, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(clock_module, "datetime", Wrong)
    clock = DatabaseClock()
    assert await clock.measure(engine) > timedelta(days=365)
    before = await database_time(engine)
    assert abs(clock.now() - before) < timedelta(seconds=30)
    assert abs(await clock.measure(engine)) < timedelta(seconds=30)


async def test_it_goes_on_by_what_is_counted_and_by_nothing_else(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch):
    counter = Counter(monkeypatch)
    clock = DatabaseClock()
    await clock.measure(engine)
    began = clock.now()
    assert clock.now() == began
    counter.seconds += 90
    assert clock.now() - began == timedelta(seconds=90)


async def test_an_answer_that_was_long_on_its_way_changes_nothing(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch):
    counter = Counter(monkeypatch)
    clock = DatabaseClock()
    await clock.measure(engine)
    began = clock.now()
    # By our count eight seconds pass between asking and hearing, and none for the database.
    counter.steps = iter((0.0, 8.0))
    assert await clock.measure(engine) != timedelta(0)
    assert clock.now() - began == timedelta(seconds=8)

"""What many open pages share: one computation until something changes, and never a failure."""

import asyncio

import pytest

from service.errors import Overloaded
from service.web.shared import SharedValues


class Counted:
    """A computation that says how often it was made."""

    def __init__(self) -> None:
        self.times = 0
        self.held = asyncio.Event()
        self.held.set()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.times += 1
        await self.held.wait()
        if self.error is not None:
            raise self.error
        return self.times


async def test_while_few_pages_are_open_each_computes_anew() -> None:
    shared, compute = SharedValues(), Counted()
    assert [await shared.get("a", compute) for _ in range(3)] == [1, 2, 3]


async def test_many_share_one_computation_until_something_changes() -> None:
    shared, compute = SharedValues(), Counted()
    shared.is_on = True
    assert await asyncio.gather(*(shared.get("a", compute) for _ in range(50))) == [1] * 50
    assert await shared.get("a", compute) == 1
    assert await shared.get("b", compute) == 2
    shared.forget()
    assert await shared.get("a", compute) == 3


async def test_whoever_asked_first_may_go_away() -> None:
    shared, compute = SharedValues(), Counted()
    shared.is_on = True
    compute.held.clear()
    first, second = (asyncio.create_task(shared.get("a", compute)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    compute.held.set()
    assert await second == 1
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_failure_is_not_kept() -> None:
    shared, compute = SharedValues(), Counted()
    shared.is_on, compute.error = True, ValueError("no")
    with pytest.raises(ValueError, match="no"):
        await shared.get("a", compute)
    compute.error = None
    assert await shared.get("a", compute) == 2


async def test_whoever_asks_after_a_change_waits_for_what_runs_and_then_gets_what_began_after_it() -> None:
    shared, compute = SharedValues(), Counted()
    shared.is_on = True
    compute.held.clear()
    asked = []
    for _ in range(3):
        asked.append(asyncio.create_task(shared.get("a", compute)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        shared.forget()
    assert compute.times == 1  # never two at a time
    compute.held.set()
    assert [await one for one in asked] == [1, 2, 2]


async def test_what_takes_longer_than_a_page_may_ends_though_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.web.shared.TIMEOUT", 0.0)
    shared, compute = SharedValues(), Counted()
    shared.is_on = True
    compute.held.clear()
    with pytest.raises(TimeoutError):
        await shared.get("a", compute)
    compute.held.set()
    monkeypatch.setattr("service.web.shared.TIMEOUT", 15.0)
    assert await shared.get("a", compute) == 2


async def test_after_close_nothing_runs_and_nothing_is_shared() -> None:
    shared, compute = SharedValues(), Counted()
    shared.is_on = True
    compute.held.clear()
    asked = asyncio.create_task(shared.get("a", compute))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await shared.close()
    with pytest.raises(Overloaded, match="stopping"):
        await asked
    compute.held.set()
    assert [await shared.get("a", compute) for _ in range(2)] == [2, 3]
    assert not shared._computed

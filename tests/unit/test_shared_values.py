"""What many open pages share: one computation until something changes, and never a failure."""

import asyncio

import pytest

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

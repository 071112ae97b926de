"""Whoever has much to compute rests while others have work, and only then."""

import asyncio
import time

import pytest

from service.runtime import cpu
from service.runtime.cpu import GivingWay


async def test_others_have_many_turns_while_one_rests() -> None:
    turns = 0

    async def work() -> None:
        nonlocal turns
        while True:
            until = time.perf_counter() + 0.0005
            while time.perf_counter() < until:
                pass
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(work())
    await asyncio.sleep(0)
    way = GivingWay()
    with way.work():
        until = time.perf_counter() + 0.01
        while time.perf_counter() < until:
            pass
    await way.rest()
    other.cancel()
    assert turns > 20


async def test_nobody_rests_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_REST", 1e9)
    for _ in range(100):  # the machine may take the processor away at any time, which looks like work of others
        way = GivingWay()
        with way.work():
            sum(range(1000))
        try:
            await asyncio.wait_for(way.rest(), 0.2)
        except TimeoutError:
            continue
        return
    pytest.fail("it rested although nobody else had work")

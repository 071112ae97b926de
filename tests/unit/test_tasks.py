"""Several things at once: none is lost, none is left running, and a hanging one costs its own slot."""

import asyncio

import pytest

from service.runtime.health import Health
from service.runtime.tasks import Slots, gather_all, restart


async def test_all_work_is_awaited_before_the_first_error_is_raised():
    ended, go = [], asyncio.Event()

    async def fails():
        raise ValueError("first")

    async def works():
        await go.wait()
        ended.append("worked")

    gathering = asyncio.ensure_future(gather_all([fails(), works()]))
    for _ in range(20):  # more turns than an error takes to come up
        await asyncio.sleep(0)
    assert not gathering.done()
    go.set()
    with pytest.raises(ValueError, match="first"):
        await gathering
    assert ended == ["worked"]


async def test_results_come_in_the_order_of_the_work_and_nothing_to_do_is_nothing():
    async def give(value):
        return value

    assert await gather_all(map(give, [3, 1, 2])) == [3, 1, 2]
    assert await gather_all([]) == []


async def test_who_is_cancelled_leaves_nothing_running():
    cancelled, started = [], asyncio.Event()

    async def hangs(name):
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(name)

    gathering = asyncio.ensure_future(gather_all([hangs("a"), hangs("b")]))
    await started.wait()
    await asyncio.sleep(0)
    gathering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gathering
    assert sorted(cancelled) == ["a", "b"]


class DeathError(BaseException):
    """Ends a process."""


async def test_what_ends_the_process_ends_the_siblings_too():
    async def dies():
        raise DeathError

    with pytest.raises(DeathError):
        await gather_all([asyncio.Event().wait(), dies()])


async def test_a_hanging_call_holds_one_slot_and_the_others_go_on():
    slots, ended = Slots(2, most=2, patience=60), []

    async def call(name):
        ended.append(name)

    slots.start(asyncio.Event().wait(), name="hangs")
    for name in ("a", "b", "c"):
        assert slots.free == 1
        slots.start(call(name), name=name)
        assert slots.free == 0
        await slots.wait_for_free()
    assert (ended, slots.free) == (["a", "b", "c"], 1)
    slots.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slots.finish()
    assert slots.free == 2


async def test_a_call_that_hangs_gives_its_slot_up_until_there_are_too_many():
    slots = Slots(1, most=2, patience=0)
    for free in (1, 1, 0):
        assert slots.free == free
        if free:
            slots.start(asyncio.Event().wait(), name="hangs")
    slots.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slots.finish()


async def test_a_task_that_ends_is_started_again_and_says_so():
    class Reported(Health):
        def report(self, issue, text, **by):
            super().report(issue, text, **by)
            reported.set()

    reported, again, runs = asyncio.Event(), asyncio.Event(), []
    health = Reported()

    async def work():
        runs.append(len(runs))
        if len(runs) == 1:
            raise ValueError("unforeseen")
        again.set()
        await asyncio.Event().wait()

    keeping = asyncio.ensure_future(restart(health, "clock", work))
    await reported.wait()
    assert "unforeseen" in health.issues["task clock"]
    await again.wait()
    keeping.cancel()
    await asyncio.wait([keeping])
    assert runs == [0, 1]

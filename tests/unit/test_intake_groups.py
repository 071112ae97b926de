"""Group commit without a database: who is written with whom, and what everybody is told."""

import asyncio

import pytest
from stored_events import event

from service.errors import Overloaded, StorageUnavailable
from service.receiver import responses
from service.receiver.intake import GROUP_BYTES, GROUP_EVENTS, Intake
from service.runtime.metrics import Metrics


class EventStore:
    """Keeps a group when it is told how that ends."""

    def __init__(self):
        self.groups = asyncio.Queue()
        self.ends = asyncio.Queue()

    async def store(self, group):
        self.groups.put_nowait(list(group))
        end = await self.ends.get()
        if end is not None:
            raise end

    def end(self, *errors):
        for error in errors or (None,):
            self.ends.put_nowait(error)


class Caller:
    """Waits for one callback."""

    def __init__(self, number, size=10):
        self.event = event(number)
        self.size = size
        self.told = asyncio.get_running_loop().create_future()

    def answer_with(self, answer):
        self.told.set_result(answer)


@pytest.fixture
async def store():
    return EventStore()


@pytest.fixture
async def intake(store):
    made = Intake(store, most_waiting=2500, metrics=Metrics())
    made.start()
    yield made
    store.end(*[None] * 100)
    await made.close()


def offered(intake, *numbers, size=10):
    callers = [Caller(number, size) for number in numbers]
    for caller in callers:
        intake.offer(caller)
    return callers


async def test_a_lone_callback_is_written_at_once(intake, store):
    (one,) = offered(intake, 1)
    assert await store.groups.get() == [one.event]
    assert not one.told.done()
    store.end()
    assert await one.told is responses.STORED


async def test_what_gathers_during_a_write_is_the_next_group_in_its_order(intake, store):
    (first,) = offered(intake, 0)
    await store.groups.get()
    rest = offered(intake, 1, 2, 3)
    store.end()
    assert await first.told is responses.STORED
    assert await store.groups.get() == [one.event for one in rest]


async def test_nobody_is_told_before_the_group_is_durable(intake, store):
    callers = offered(intake, 1, 2)
    await store.groups.get()
    assert not any(one.told.done() for one in callers)
    store.end()
    assert [await one.told for one in callers] == [responses.STORED] * 2


async def test_a_group_that_was_not_kept_is_told_so_and_the_next_is_tried(intake, store):
    (one,) = offered(intake, 1)
    store.end(StorageUnavailable())
    assert await one.told is responses.NOT_STORED
    (two,) = offered(intake, 2)
    store.end()
    assert await two.told is responses.STORED


async def test_a_mistake_of_ours_costs_one_group(intake, store):
    (one,) = offered(intake, 1)
    store.end(ZeroDivisionError())
    assert await one.told is responses.NOT_STORED
    (two,) = offered(intake, 2)
    store.end()
    assert await two.told is responses.STORED


async def test_a_group_has_a_largest_number_of_events(intake, store):
    offered(intake, *range(GROUP_EVENTS + 1))
    assert len(await store.groups.get()) == GROUP_EVENTS
    store.end()
    assert len(await store.groups.get()) == 1


async def test_a_group_has_a_largest_number_of_bytes(intake, store):
    offered(intake, *range(5), size=GROUP_BYTES // 2)
    assert len(await store.groups.get()) == 2


async def test_more_than_may_wait_are_turned_away_and_the_others_are_not_harmed(intake, store):
    callers = offered(intake, *range(2500))
    with pytest.raises(Overloaded):
        offered(intake, 2500)
    store.end(None, None, None)
    assert {await one.told for one in callers} == {responses.STORED}


async def test_closing_writes_what_waits(store):
    intake = Intake(store, most_waiting=10, metrics=Metrics())
    intake.start()
    (first,) = offered(intake, 1)
    await store.groups.get()
    (second,) = offered(intake, 2)
    store.end(None, None)
    await intake.close()
    assert (first.told.result(), second.told.result()) == (responses.STORED, responses.STORED)

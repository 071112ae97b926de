"""Group commit without a database: who is written with whom, and what everybody is told."""

import asyncio

import pytest
from heard import event

from service.errors import Overloaded, StorageUnavailable
from service.receiver import answers
from service.receiver.intake import GROUP_BYTES, GROUP_EVENTS, Intake
from service.telemetry import Metrics


class Shelf:
    """Keeps a group when it is told how that ends."""

    def __init__(self):
        self.groups = asyncio.Queue()
        self.ends = asyncio.Queue()

    async def keep(self, group):
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

    def settle(self, answer):
        self.told.set_result(answer)


@pytest.fixture
async def shelf():
    return Shelf()


@pytest.fixture
async def intake(shelf):
    made = Intake(shelf, most_waiting=2500, metrics=Metrics())
    made.start()
    yield made
    shelf.end(*[None] * 100)
    await made.close()


def offered(intake, *numbers, size=10):
    callers = [Caller(number, size) for number in numbers]
    for caller in callers:
        intake.offer(caller)
    return callers


async def test_a_lone_callback_is_written_at_once(intake, shelf):
    (one,) = offered(intake, 1)
    assert await shelf.groups.get() == [one.event]
    assert not one.told.done()
    shelf.end()
    assert await one.told is answers.KEPT


async def test_what_gathers_during_a_write_is_the_next_group_in_its_order(intake, shelf):
    (first,) = offered(intake, 0)
    await shelf.groups.get()
    rest = offered(intake, 1, 2, 3)
    shelf.end()
    assert await first.told is answers.KEPT
    assert await shelf.groups.get() == [one.event for one in rest]


async def test_nobody_is_told_before_the_group_is_durable(intake, shelf):
    callers = offered(intake, 1, 2)
    await shelf.groups.get()
    assert not any(one.told.done() for one in callers)
    shelf.end()
    assert [await one.told for one in callers] == [answers.KEPT] * 2


async def test_a_group_that_was_not_kept_is_told_so_and_the_next_is_tried(intake, shelf):
    (one,) = offered(intake, 1)
    shelf.end(StorageUnavailable())
    assert await one.told is answers.NOT_KEPT
    (two,) = offered(intake, 2)
    shelf.end()
    assert await two.told is answers.KEPT


async def test_a_mistake_of_ours_costs_one_group(intake, shelf):
    (one,) = offered(intake, 1)
    shelf.end(ZeroDivisionError())
    assert await one.told is answers.NOT_KEPT
    (two,) = offered(intake, 2)
    shelf.end()
    assert await two.told is answers.KEPT


async def test_a_group_has_a_largest_number_of_events(intake, shelf):
    offered(intake, *range(GROUP_EVENTS + 1))
    assert len(await shelf.groups.get()) == GROUP_EVENTS
    shelf.end()
    assert len(await shelf.groups.get()) == 1


async def test_a_group_has_a_largest_number_of_bytes(intake, shelf):
    offered(intake, *range(5), size=GROUP_BYTES // 2)
    assert len(await shelf.groups.get()) == 2


async def test_more_than_may_wait_are_turned_away_and_the_others_are_not_harmed(intake, shelf):
    callers = offered(intake, *range(2500))
    with pytest.raises(Overloaded):
        offered(intake, 2500)
    shelf.end(None, None, None)
    assert {await one.told for one in callers} == {answers.KEPT}


async def test_closing_writes_what_waits(shelf):
    intake = Intake(shelf, most_waiting=10, metrics=Metrics())
    intake.start()
    (first,) = offered(intake, 1)
    await shelf.groups.get()
    (second,) = offered(intake, 2)
    shelf.end(None, None)
    await intake.close()
    assert (first.told.result(), second.told.result()) == (answers.KEPT, answers.KEPT)

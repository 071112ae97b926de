"""Reports that all viewers share: one that fails is not tried all the time, and its readers are told why."""

import asyncio
from types import SimpleNamespace

import pytest
from clock import ManualClock

from service.errors import NotFound, Overloaded, StorageUnavailable
from service.web.reports import SharedReport, SharedReports


class Made:
    """A report that says how often it was begun, and takes as long, on the set clock, as it is told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.times = 0
        self.takes = 2.0
        self.error: Exception | None = None
        self.held = asyncio.Event()
        self.reports = SharedReports(SimpleNamespace(clock=ManualClock()), lambda: self.now)

    async def __call__(self) -> int:
        self.times += 1
        await self.held.wait()
        self.now += self.takes
        if self.error is not None:
            raise self.error
        return self.times

    async def get(self, key: str = "a") -> SharedReport[int] | None:
        return await self.reports.get(key, self)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.web.reports._PATIENCE", 0.0)


async def done(made: Made) -> None:
    """Let what is being made end."""
    made.held.set()
    while made.reports._making:  # noqa: ASYNC110  each step lets it go on
        await asyncio.sleep(0)
    made.held.clear()


async def test_a_report_that_fails_is_tried_again_after_fifty_times_its_time_and_says_why_until_then() -> None:
    made = Made()
    made.error = StorageUnavailable("canceling statement")
    assert await made.get() is None
    await done(made)
    for _ in range(3):
        with pytest.raises(Overloaded, match=r"12:00:00Z .*canceling statement.*12:01:40Z"):
            await made.get()
    made.now += 99.0
    with pytest.raises(Overloaded):
        await made.get()
    assert made.times == 1
    made.now, made.error = made.now + 1.5, None
    assert await made.get() is None
    await done(made)
    assert (await made.get()).value == 2


async def test_a_report_that_fails_at_once_is_not_tried_again_for_a_minute() -> None:
    made = Made()
    made.takes, made.error = 0.0, RuntimeError("no")
    await made.get()
    await done(made)
    made.now += 59.0
    with pytest.raises(Overloaded, match="RuntimeError"):
        await made.get()
    assert made.times == 1


async def test_why_there_is_no_newer_report_is_shown_beside_the_older_one() -> None:
    made = Made()
    await made.get()
    await done(made)
    made.now, made.error = made.now + 101.0, StorageUnavailable("canceling statement")
    await made.get()
    await done(made)
    shown = await made.get()
    assert shown.value == 1
    assert "canceling statement" in shown.failure
    assert made.times == 2


async def test_an_older_report_says_that_a_newer_one_is_being_made() -> None:
    made = Made()
    await made.get()
    await done(made)
    assert not (await made.get()).is_replaced
    made.now += 101.0
    older = await made.get()
    assert (older.value, older.is_replaced) == (1, True)
    await done(made)
    newer = await made.get()
    assert (newer.value, newer.is_replaced) == (2, False)


async def test_what_is_wrong_with_a_request_is_not_kept() -> None:
    made = Made()
    made.error = NotFound("no such submission")
    for times in (1, 2):
        await made.get()
        await done(made)
        assert made.times == times


async def test_after_close_nothing_is_made_any_more() -> None:
    made = Made()
    await made.get()
    await made.reports.close()
    assert not made.reports._making
    with pytest.raises(Overloaded, match="stopping"):
        await made.get("b")
    assert made.times == 1


async def test_too_many_reports_are_named_as_what_they_are() -> None:
    made = Made()
    for key in "abcdefgh":
        assert await made.get(key) is None
    with pytest.raises(Overloaded, match="other reports are being counted"):
        await made.get("i")
    await done(made)

"""The explorer finds nothing wrong with the daemon, and finds what is wrong with daemons that were broken on purpose."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import structlog
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.token import CreationRef
from service.errors import Unconfirmed
from service.lab.explorer.play import Outcome
from service.lab.explorer.run import explore
from service.lab.explorer.scenario import Scenario, scenario
from service.simulator.config import StockChange
from service.storage import creations, tables
from service.worker import apply, create


@pytest.fixture(autouse=True)
def silent_logs() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


async def wrongs(seeds: Sequence[int], scenario_of: Callable[[int], Scenario] = scenario) -> list[str]:
    """What is wrong in the first of the seeds in which anything is."""
    async with aclosing(explore(seeds, scenario_of=scenario_of)) as played:
        async for outcome in played:
            if outcome.wrong:
                return outcome.wrong
    return []


async def test_nothing_is_doubled_forgotten_or_stranded() -> None:
    played = [outcome async for outcome in explore(range(1, 9))]
    assert {one.seed: one.wrong for one in played if one.wrong} == {}
    assert sum(one.crashes for one in played) > 0


async def test_a_seed_plays_the_same_again() -> None:
    async def timeline() -> list[Outcome]:
        return [outcome async for outcome in explore([2])]

    assert await timeline() == await timeline()


async def test_a_daemon_that_sends_again_after_a_timeout_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = create._after

    def resend(rt: Any, leased: Any, asked: Any) -> dict[str, Any]:
        if isinstance(asked.error, Unconfirmed):
            return creations.due(rt.clock.now() + timedelta(seconds=1), "sent again")
        return sound(rt, leased, asked)

    monkeypatch.setattr(create, "_after", resend)
    assert any("doubled" in one or "forgotten" in one for one in await wrongs(RESENDING))


async def test_a_daemon_that_throws_early_callbacks_away_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "_UNSETTLED", frozenset())
    assert await wrongs(DEAF) != []


def freezing(seed: int) -> Scenario:
    """A seed in which daemons freeze most of the time, and the first create calls find no stock."""
    one, flavor = scenario(seed), "n3-A100x1"
    stock = (StockChange(at=0, flavor=flavor, stock=0), StockChange(at=60, flavor=flavor, stock=None))
    return replace(one, freeze=0.9, crash_every=0, cloud=replace(one.cloud, stock_changes=stock))


async def test_a_daemon_that_settles_without_its_lease_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    # It froze in a call that was refused; meanwhile it was taken for dead, and another made the VMs.
    assert await wrongs(UNFENCED, freezing) == []

    async def settle(conn: AsyncConnection, ref: CreationRef, token: UUID, **values: Any) -> None:
        del token
        await conn.execute(
            update(tables.creations)
            .where(tables.creations.c.submission_id == ref.submission_id)
            .where(tables.creations.c.creation_no == ref.creation_no)
            .values(lease_token=None, lease_until=None, **values)
        )

    monkeypatch.setattr(creations, "complete_if_leased", settle)
    assert any("doubled" in one for one in await wrongs(UNFENCED, freezing))


#: Seeds in which the misdeeds come about that each broken daemon stumbles over.
RESENDING = (15, 30)
DEAF = (2, 9)
UNFENCED = (11, 20)

"""Callbacks that several receivers spooled apart come into the record in whatever order the spools are drained."""

import random

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage

from service.operations import deletion
from service.storage import events
from service.storage.engine import begin
from service.storage.events import Event


class SpooledApart:
    """In place of the world's own receiver: each callback goes into one of two spools, which are drained now and then.

    What is drained was received, and has its time, up to minutes before.
    """

    def __init__(self, stage: Stage, rng: random.Random) -> None:
        self._world, self._rng = stage.world, rng
        self.spools: tuple[list[Event], list[Event]] = ([], [])
        self.late = 0

    async def deliver(self) -> int:
        world = self._world
        for one in world.cloud.advance(world.clock.elapsed):
            received = world._received(one)
            assert received is not None
            self._rng.choice(self.spools).append(received)
            world.cloud.record_answer(one.delivery_id, 200, world.clock.elapsed)
        return sum([await self.drain(spool) for spool in self.spools if self._rng.random() < 0.1])

    async def drain(self, spool: list[Event]) -> int:
        group, spool[:] = list(spool), []
        others = [event for other in self.spools for event in other]
        self.late += sum(event.received_at > held.received_at for event in group for held in others)
        if group:
            async with begin(self._world.engine) as conn:
                await events.insert(conn, group)
        return len(group)


@pytest.mark.parametrize("seed", range(3))
async def test_the_record_comes_to_the_truth_and_nothing_is_made_twice_or_forgotten(
    engine: AsyncEngine, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    stage = Stage(engine, cloud={"callback_variety": 1})
    apart = SpooledApart(stage, rng)
    monkeypatch.setattr(stage.world, "deliver", apart.deliver)
    await stage.submit(count=12, policy={"maintain": {"enabled": True, "grace_seconds": 30}})
    for deed in ("nothing", "delete", "error", "stop", "vanish", "delete"):
        await stage.live(rng.uniform(20, 150))
        chosen = rng.choice([vm for vm in await stage.vms() if vm.ended_at is None and vm.provider_id is not None])
        if deed == "delete":
            await deletion.delete(stage.rt, chosen, caller="tests")
        elif deed != "nothing" and chosen.provider_id in stage.alive():
            stage.console(chosen.provider_id, deed, silent=False)
    await stage.live(900, step=30)
    for spool in apart.spools:
        await apart.drain(spool)
    await stage.live(900, step=30)
    assert apart.late > 0, "no callback came after a later one: nothing was tried"
    real = {vm["id"]: vm["status"] for vm in stage.truth() if vm["ended"] is None}
    recorded = {vm.provider_id: vm.state.value for vm in await stage.vms() if vm.ended_at is None}
    assert recorded == real
    assert await stage.sql("SELECT count(*) FROM inbox") == [(0,)]
    assert sum(vm.member and vm.ended_at is None for vm in await stage.vms()) == 12 - 2  # less what callers deleted

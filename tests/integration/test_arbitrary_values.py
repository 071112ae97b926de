"""Arbitrary JSON in any field of one VM or one callback: no job fails, and all other VMs come to the truth."""

import random
from dataclasses import replace
from typing import Any

import orjson
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage

from service.worker import apply, refresh

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**31, 2**32, 2**63, 2**64 - 1, 1e308, -1e-308, "", " ", "\0", "a\0b", "x" * 100_000,
    "é" * 3000, "\U0001f600" * 2000, "\u202eok", "\x1b]0;x\x07", "9" * 400, "1e999", "NaN", [], {}, [[]], [None], {"": {}},
    {"name": {"name": {}}}, ["a" * 5000] * 50, "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "ODD", "DELETED",
)  # fmt: skip
FIELDS = (
    "name", "status", "power_state", "vm_state", "environment", "flavor", "fixed_ip", "floating_ip", "floating_ip_status",
    "callback_url", "labels", "contract_id", "locked", "created_at", "gpu_count", "something new",
)  # fmt: skip


def arbitrary(rng: random.Random, depth: int = 0) -> Any:
    if depth < 3 and rng.random() < 0.2:
        inner = [arbitrary(rng, depth + 1) for _ in range(rng.randrange(4))]
        return inner if rng.random() < 0.5 else {str(arbitrary(rng, 9))[:40]: one for one in inner}
    return rng.choice(NASTY)


class Garbling:
    """A provider that gives one of its VMs arbitrary values, in lists and alone."""

    def __init__(self, stage: Stage, victim: int, rng: random.Random) -> None:
        self.inner, self.victim, self.rng = stage.between.inner, victim, rng

    async def send(self, method: str, url: str, *rest: Any) -> Any:
        answer = await self.inner.send(method, url, *rest)
        if method != "GET" or answer.status != 200:
            return answer
        content = orjson.loads(answer.body)
        for one in [content.get("instance"), *content.get("instances", [])]:
            if one and one["id"] == self.victim:
                for name in self.rng.sample(FIELDS, 5):
                    one[name] = arbitrary(self.rng)
                one["flavor"] = (
                    one["flavor"] if self.rng.random() < 0.5 else {"gpu": arbitrary(self.rng), "gpu_count": 2**40}
                )
        return replace(answer, body=orjson.dumps(content))


@pytest.mark.parametrize("seed", range(4))
async def test_arbitrary_values_of_one_vm_cost_no_other(engine: AsyncEngine, seed: int) -> None:
    stage = Stage(engine, cloud={"faults": {"callbacks": {"lost": 1}}})
    await stage.submit(count=12, contract_id=None)
    await stage.live(200, step=20)
    victim, *others = [vm.provider_id for vm in await stage.vms()]
    rng = random.Random(seed)
    stage.between.inner = Garbling(stage, victim, rng)
    for number in range(12):
        stage.console(others[number % 5], "stop" if number < 5 else "error")
        due = stage.world.clock.now()
        only = "AND provider_id = :victim" if number % 2 else "AND :victim > 0"
        await stage.sql(f"UPDATE vms SET next_refresh_at = :due WHERE ended_at IS NULL {only}", due=due, victim=victim)
        await refresh.run_once(stage.rt)
        await stage.wait(1)
    await stage.sql("UPDATE vms SET next_refresh_at = :due WHERE ended_at IS NULL", due=stage.world.clock.now())
    await refresh.run_once(stage.rt)
    truth = {one["id"]: one["status"] for one in stage.truth()}
    record = {vm.provider_id: vm.state.value for vm in await stage.vms()}
    assert {one: record[one] for one in others} == {one: truth[one] for one in others}


@pytest.mark.parametrize("seed", range(4))
async def test_arbitrary_callbacks_cost_no_other(engine: AsyncEngine, seed: int) -> None:
    stage = Stage(engine, cloud={"faults": {"callbacks": {"lost": 1}}})
    await stage.submit(count=12)
    await stage.live(5)
    victim, *others = [vm.provider_id for vm in await stage.vms()]
    ref, rng = (await stage.creation()).ref, random.Random(seed)
    bodies = []
    for _ in range(150):
        content = {"resource": {"id": victim, "name": arbitrary(rng)}, "operation": {"name": "createVM"}, "data": {}}
        for part in rng.sample(("resource", "operation", "data"), 2):
            content[part] = arbitrary(rng) if rng.random() < 0.2 else content[part] | {
                rng.choice(("id", "name", "status", "floating_ip", "fixed_ip")): arbitrary(rng)
            }  # fmt: skip
        bodies.append(orjson.dumps(content))
    good = [b'{"resource": {"id": %d}, "data": {"status": "BUILD"}}' % one for one in others]
    await stage.hear(ref, *bodies[:75], *good, *bodies[75:])
    await apply.run_once(stage.rt)
    assert [vm.state for vm in await stage.vms() if vm.provider_id in others] == ["BUILD"] * 11
    assert await stage.sql("SELECT count(*) FROM dead_letters WHERE kind = 'failed'") == [(0,)]
    assert await stage.sql("SELECT max(attempts) FROM inbox") == [(None,)]

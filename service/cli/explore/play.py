"""Plays a seed: passes one at a time in a seeded order, crashes, callbacks, meddling; then quiet, then the check."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from service.api import submitting, wishing
from service.cli.explore.checker import Record, check, earliest_due
from service.cli.explore.scenario import LIMIT, Meddling, Scenario
from service.cli.explore.world import SECRET, CrashError, World
from service.config import Settings
from service.core.catalogue import Advice
from service.runtime import Runtime
from service.simulator import private
from service.simulator.exchange import Request
from service.storage import vms
from service.storage.engine import begin
from service.worker.loop import DUTIES

START = datetime(2026, 8, 17, 9, tzinfo=UTC)
#: Simulated seconds after which a seed is over, come what may.
HORIZON = 6000.0

_AMENDS = Meddling(at=1000.0, what="free the stuck", silent=False)

Pass = Callable[[Runtime], Awaitable[int]]


@dataclass
class Outcome:
    """What came of a seed: what is wrong (nothing, if all is well), and its story."""

    seed: int
    wrong: list[str]
    story: list[tuple[float, str]]
    vms: int
    calls: int
    crashes: int
    passes: int
    seconds: float


@dataclass
class _Play:
    world: World
    scenario: Scenario
    duties: Mapping[str, Pass]
    daemons: list[Runtime] = field(default_factory=list)
    submissions: list[Any] = field(default_factory=list)
    crashes: int = 0
    passes: int = 0
    idle: set[str] = field(default_factory=set)
    busy: int = 1  # falls with each pass that finds nothing to do


def settings_of(scenario: Scenario) -> Settings:
    """Settings with little patience, so that a seed is over soon; one connection, so that its order is its own."""
    return Settings(
        _env_file=None,
        data_dir=Path("unused"),
        infrahub_api_key=SecretStr("explorer"),
        public_url="https://rollcall.example.com",
        callback_secrets=(SecretStr(SECRET.decode()),),
        # Two under the provider's: its window and ours need not begin together.
        calls_per_minute=LIMIT - 2,
        create_concurrency=2,
        quiet_seconds=120,
        overdue_seconds=100,
        again_seconds=10,
        sweep_seconds=300,
        newborn_seconds=60,
        create_timeout=60,
        reassign_path="/_sim/virtual-machines/{vm_id}/contract" if scenario.reassign else None,
    )


async def play(scenario: Scenario, engine: AsyncEngine, *, duties: Mapping[str, Pass] = DUTIES) -> Outcome:
    """Play a scenario on an empty, migrated database, and check it."""
    world = World.make(scenario.cloud, engine, settings_of(scenario), start=START, seed=scenario.seed)
    state = _Play(world, scenario, duties, [world.daemon(), world.daemon()])
    with _fused(engine, world):
        for number, request in enumerate(scenario.requests):
            asked = submitting.read(request, caller="explorer", key=f"key {number}")
            state.submissions.append((await submitting.submit(state.daemons[0], asked, Advice()))[0])
        await _until_quiet(state)
    record = await Record.read(engine)
    wrong = check(world, record, crashes=state.crashes)
    return Outcome(
        scenario.seed,
        wrong,
        world.story,
        len(record.vms),
        len(record.calls),
        state.crashes,
        state.passes,
        world.clock.elapsed,
    )


class _fused:  # noqa: N801  a context manager, read as a verb
    """Burns the fuse at each commit, so that a process can die between any two of them."""

    def __init__(self, engine: AsyncEngine, world: World) -> None:
        self._engine, self._burn = engine.sync_engine, lambda _conn: world.fuse.burn()

    def __enter__(self) -> None:
        event.listen(self._engine, "commit", self._burn)

    def __exit__(self, *_: object) -> None:
        event.remove(self._engine, "commit", self._burn)


async def _until_quiet(state: _Play) -> None:
    world = state.world
    pending = sorted([*state.scenario.meddling, _AMENDS], key=lambda one: one.at)
    while world.clock.elapsed < HORIZON:
        if await world.deliver():
            state.idle.discard("apply")
        while pending and pending[0].at <= world.clock.elapsed:
            await _meddle(state, pending.pop(0))
        await _one_pass(state)
        if len(state.idle) < len(state.duties):
            world.clock.advance(world.chance.uniform(0.0, 1.0))
        elif not pending and await _over(state):
            return
        else:
            await _sleep_until_due(state, pending)


async def _one_pass(state: _Play) -> None:
    world = state.world
    which = world.chance.randrange(len(state.daemons))
    name = world.chance.choice([name for name in state.duties if name not in state.idle] or list(state.duties))
    # Dying while nothing is under way explores nothing: it is done where there was work a moment ago.
    if state.busy and state.scenario.crash_every and world.chance.random() < 1 / state.scenario.crash_every:
        world.fuse.left = world.chance.randint(1, 6)
    state.passes += 1
    try:
        done = await state.duties[name](state.daemons[which])
    except CrashError:
        state.crashes += 1
        world.tell(f"crash in {name}")
        await _kill_tasks()
        state.daemons[which] = world.daemon()
        state.idle.discard(name)
    else:
        _note_done(state, name, done)
    world.fuse.left = None


def _note_done(state: _Play, name: str, done: int) -> None:
    state.busy = max(0, state.busy - 1)
    if done:
        state.world.tell(f"{name}: {done}")
        # Rescue looks for what stays behind; there is no use in that after every single step.
        state.idle &= {"rescue"}
        state.busy = len(state.duties)
    else:
        state.idle.add(name)


async def _kill_tasks() -> None:
    """What a killed process had under way is gone with it."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _sleep_until_due(state: _Play, pending: list[Meddling]) -> None:
    world = state.world
    due = await earliest_due(world.engine, world.clock.now())
    next_in_cloud = world.cloud.next_due()
    candidates = [
        *([(due - world.clock.now()).total_seconds()] if due else []),
        *([next_in_cloud - world.clock.elapsed] if next_in_cloud is not None else []),
        *([pending[0].at - world.clock.elapsed] if pending else []),
    ]
    # Something that is due and that nothing can be done about now (no budget) is tried again a little later.
    world.clock.advance(min(max(min(candidates, default=30.0), 0.5), 60.0))
    state.idle.clear()


async def _over(state: _Play) -> bool:
    """Whether everything has come to its end, the cloud is calm, and a whole sweep has passed since."""
    world = state.world
    if world.clock.elapsed < _settled_at(state):
        return False
    record = await Record.read(world.engine)
    open_ = any(one["state"] == "open" for one in record.submissions)
    unsettled = any(one["due_at"] is not None for one in [*record.creations, *record.orphans])
    wished = any(one["delete_due_at"] or one["contract_due_at"] for one in record.vms)
    quiet_since = max((vm["state_since"] for vm in record.vms), default=START)
    settled = (world.clock.now() - quiet_since).total_seconds() > 2 * state.world.settings.sweep_seconds
    return settled and not (open_ or unsettled or wished or record.queue)


def _settled_at(_state: _Play) -> float:
    return 1600.0  # calm begins at 900; a sweep and the longest late fulfilment later, nothing new can come


def _free_the_stuck(world: World) -> None:
    """The provider's people find what hangs in BUILD for good, and fail it. Until then nobody could delete it."""
    for vm in world.cloud.truth():
        if vm["stuck"] and vm["ended"] is None and vm["status"] in {"CREATING", "BUILD"}:
            request = Request(method="POST", path=f"/_sim/vms/{vm['id']}/error", body=b"{}")
            private.handle(world.cloud, request, world.clock.elapsed)


async def _meddle(state: _Play, one: Meddling) -> None:
    world = state.world
    world.tell(f"meddling: {one.what}")
    if one is _AMENDS:
        return _free_the_stuck(world)
    if one.what == "cancel":
        return await wishing.cancel(state.daemons[0], state.submissions[0], caller="explorer")
    async with begin(world.engine) as conn:
        alive = [vm for vm in await vms.bound_alive(conn) if vm.provider_id is not None]
    if not alive:
        return None
    vm = world.chance.choice(alive)
    if one.what == "delete":
        await wishing.delete(state.daemons[0], vm, caller="explorer")
        return None
    what = {"gone": "delete"}.get(one.what, one.what)
    body = b'{"silent": true}' if one.silent else b"{}"
    request = Request(method="POST", path=f"/_sim/vms/{vm.provider_id}/{what}", body=body)
    private.handle(world.cloud, request, world.clock.elapsed)
    return None

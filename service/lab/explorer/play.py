"""Plays a seed: runs one at a time in a seeded order, crashes, callbacks, interference; then a calm end, then the check."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from service.config import Settings
from service.core.catalogue import Advice
from service.core.token import CreationRef
from service.errors import StorageUnavailable
from service.lab.explorer.checker import Record, check, dues
from service.lab.explorer.scenario import CALM, LIMIT, Interference, Scenario
from service.lab.explorer.world import SECRET, CrashError, LossyCommits, World
from service.operations import deletion, submission
from service.runtime.runtime import Runtime
from service.simulator import private
from service.simulator.http import HttpRequest
from service.storage import vms
from service.worker.runner import JOBS

START = datetime(2026, 8, 17, 9, tzinfo=UTC)
#: Simulated seconds after which a seed is over, come what may.
HORIZON = 6000.0
DAEMONS = 2
#: Before that it is not: the cloud is calm from 900 on, and a resync and the longest late creation have to happen.
_EARLIEST_END = 1600.0

_FREE_STUCK = Interference(at=1000.0, what="free the stuck", silent=False)

JobRun = Callable[[Runtime], Awaitable[int]]


@dataclass
class Outcome:
    """The result of a seed: what is wrong (nothing, if all is well), and its timeline."""

    seed: int
    wrong: list[str]
    timeline: list[tuple[float, str]]
    vms: int
    calls: int
    crashes: int
    runs: int
    seconds: float


@dataclass(frozen=True)
class Engines:
    """The engine of the world and the checker, that of the API process, and one for each daemon."""

    world: AsyncEngine
    api: AsyncEngine
    daemons: Sequence[AsyncEngine]


@dataclass(frozen=True)
class _Frozen:
    """A daemon that stands still in the middle of a run."""

    name: str
    task: asyncio.Future[int]
    wakes_at: float
    thawed: asyncio.Event


@dataclass
class _Play:
    world: World
    scenario: Scenario
    scheduled_jobs: Mapping[str, JobRun]
    engines: Engines
    api: Runtime
    daemons: list[Runtime]
    lossy: list[LossyCommits] = field(default_factory=list)
    submissions: list[Any] = field(default_factory=list)
    crashes: int = 0
    runs: int = 0
    busy: int = 1  # falls with each run that finds nothing to do
    #: Until when a job that found nothing to do, although something was due, is left alone.
    rests: dict[str, float] = field(default_factory=dict)
    frozen: dict[int, _Frozen] = field(default_factory=dict)


def settings_of(scenario: Scenario) -> Settings:
    """Settings with short timeouts, so that a seed is over soon."""
    return Settings(
        _env_file=None,
        data_dir=Path("unused"),
        infrahub_api_key=SecretStr("explorer"),
        public_url="https://rollcall.example.com",
        callback_secrets=(SecretStr(SECRET.decode()),),
        # Two under the provider's: its window and ours need not begin together.
        calls_per_minute=LIMIT - 2,
        create_concurrency=1,
        lookup_window_seconds=120,
        overdue_seconds=100,
        again_seconds=10,
        resync_seconds=300,
        history_seconds=30,
        newborn_seconds=60,
        create_timeout=60,
        reassign_path="/_sim/virtual-machines/{vm_id}/contract" if scenario.reassign else None,
    )


async def play(scenario: Scenario, engines: Engines, *, scheduled_jobs: Mapping[str, JobRun] = JOBS) -> Outcome:
    """Play a scenario on an empty, migrated database, and check it."""
    world = World.make(scenario.cloud, engines.world, settings_of(scenario), start=START, seed=scenario.seed)
    daemons = [world.daemon(engine) for engine in engines.daemons]
    state = _Play(world, scenario, scheduled_jobs, engines, world.daemon(engines.api), daemons)
    with ExitStack() as faults:
        for number, engine in enumerate([engines.api, *engines.daemons]):
            faults.enter_context(_failing_commits(engine, world))
            lossy = LossyCommits(engine, scenario.commits_lost, seed=scenario.seed * 10 + number, freeze=world.freeze)
            state.lossy.append(faults.enter_context(lossy))
        for number, request in enumerate(scenario.requests):
            submitted = submission.read(request, caller="explorer", key=f"key {number}" if number else None)
            state.submissions.append((await submission.submit(state.api, submitted, Advice()))[0])
        for _ in range(scenario.foreign):
            world.make_foreign()
        await _until_over(state)
    record = await Record.read(engines.world)
    lost = sum(one.cut for one in state.lossy)
    wrong = check(world, record, submitted=len(scenario.requests), crashes=state.crashes + lost)
    return Outcome(
        scenario.seed,
        wrong,
        world.timeline,
        len(record.vms),
        len(record.calls),
        state.crashes,
        state.runs,
        world.clock.elapsed,
    )


class _failing_commits:  # noqa: N801  a context manager, read as a verb
    """Hits the failpoint at each commit, so that a process can die between any two of them."""

    def __init__(self, engine: AsyncEngine, world: World) -> None:
        self._engine, self._hit = engine.sync_engine, lambda _conn: world.failpoint.hit()

    def __enter__(self) -> None:
        event.listen(self._engine, "commit", self._hit)

    def __exit__(self, *_: object) -> None:
        event.remove(self._engine, "commit", self._hit)


async def _until_over(state: _Play) -> None:
    world = state.world
    pending = sorted([*state.scenario.interference, _FREE_STUCK], key=lambda one: one.at)
    while world.clock.elapsed < HORIZON:
        if world.clock.elapsed > CALM:
            for one in state.lossy:
                one.stop()
        await world.deliver()
        while pending and pending[0].at <= world.clock.elapsed:
            await _interfere(state, pending.pop(0))
        await _thaw(state)
        waits = await _waits(state)
        ready = [name for name in state.scheduled_jobs if waits[name] <= 0]
        if ready:
            await _one_run(state, ready)
            world.clock.advance(world.rng.uniform(0.0, 1.0))
        elif not pending and await _over(state):
            return
        else:
            _sleep(state, pending, min(waits.values()))


async def _waits(state: _Play) -> dict[str, float]:
    """Seconds until each job has something to do. Passes that find nothing explore nothing, so they are skipped."""
    now, elapsed = state.world.clock.now(), state.world.clock.elapsed
    due = await dues(state.world.engine)
    waits = {}
    for name in state.scheduled_jobs:
        at = due.get(name)
        wait = 60.0 if at is None else (at - now).total_seconds()
        if name == "rescue":  # it also looks for what nothing says is due
            wait = min(wait, 0.0)
        waits[name] = max(wait, state.rests.get(name, 0.0) - elapsed)
    return waits


async def _one_run(state: _Play, ready: list[str]) -> None:
    world = state.world
    awake = [number for number in range(len(state.daemons)) if number not in state.frozen]
    which = world.rng.choice(awake)
    name = world.rng.choice(ready)
    # A crash while nothing is under way explores nothing: crash only after a run that had work.
    if state.busy and state.scenario.crash_every and world.rng.random() < 1 / state.scenario.crash_every:
        world.failpoint.left = world.rng.randint(1, 6)
    freezes = len(awake) > 1 and world.rng.random() < state.scenario.freeze
    world.freeze.wanted = world.rng.choice(("call", "commit")) if freezes else None
    world.freeze.frozen = asyncio.Event()
    state.runs += 1
    before = asyncio.all_tasks()
    task = asyncio.ensure_future(state.scheduled_jobs[name](state.daemons[which]))
    if await _until_frozen(task, world):
        wakes_at = world.clock.elapsed + world.rng.uniform(100, 700)
        world.tell(f"daemon {which} freezes in {name} until {wakes_at:.0f}")
        state.frozen[which] = _Frozen(name, task, wakes_at, world.freeze.thawed)
    else:
        await _finished(state, which, name, task, before)
    world.failpoint.left = None
    world.freeze.wanted = None


async def _until_frozen(task: asyncio.Future[int], world: World) -> bool:
    """Wait until a run is over, or freezes; whether it froze."""
    watch = asyncio.ensure_future(world.freeze.frozen.wait())
    both: list[asyncio.Future[Any]] = [task, watch]
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    watch.cancel()
    return not task.done()


async def _thaw(state: _Play) -> None:
    """Resume frozen daemons that are due; they do not know how long they were away."""
    for which, one in list(state.frozen.items()):
        if one.wakes_at <= state.world.clock.elapsed:
            state.world.tell(f"daemon {which} wakes")
            del state.frozen[which]
            one.thawed.set()
            await asyncio.wait([one.task])
            await _finished(state, which, one.name, one.task, asyncio.all_tasks())


async def _finished(
    state: _Play, which: int, name: str, task: asyncio.Future[int], before: set[asyncio.Task[Any]]
) -> None:
    try:
        done = await task
    except CrashError:
        state.crashes += 1
        state.world.tell(f"crash in {name}")
        await _kill_tasks(before)
        state.daemons[which] = state.world.daemon(state.engines.daemons[which])
    except StorageUnavailable as error:
        state.world.tell(f"{name} broke off: {error}")
        _note_done(state, name, 0)
    else:
        _note_done(state, name, done)


def _note_done(state: _Play, name: str, done: int) -> None:
    state.busy = max(0, state.busy - 1)
    if done:
        state.world.tell(f"{name}: {done}")
        state.busy = len(state.scheduled_jobs)
    # Rescue looks for what was left behind; what cannot be done now (rate limit) is tried again a little later.
    if name == "rescue" or not done:
        state.rests[name] = state.world.clock.elapsed + state.world.rng.uniform(1, 120 if name == "rescue" else 20)


async def _kill_tasks(before: set[asyncio.Task[Any]]) -> None:
    """Cancel what a killed process had under way. Tasks that ran before belong to other processes."""
    others = asyncio.all_tasks() - before
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _sleep(state: _Play, pending: list[Interference], shortest: float) -> None:
    """Move time to when something happens next, in the record, at the cloud or from outside."""
    world = state.world
    next_in_cloud = world.cloud.next_due()
    candidates = [
        shortest,
        *([next_in_cloud - world.clock.elapsed] if next_in_cloud is not None else []),
        *([pending[0].at - world.clock.elapsed] if pending else []),
        *(one.wakes_at - world.clock.elapsed for one in state.frozen.values()),
    ]
    world.clock.advance(min(max(min(candidates), 0.05), 60.0))


async def _over(state: _Play) -> bool:
    """Whether everything has come to its end, the cloud is calm, and a whole resync has passed since."""
    world = state.world
    if world.clock.elapsed < _EARLIEST_END or state.frozen:
        return False
    record = await Record.read(world.engine)
    open_ = any(one["state"] == "open" for one in record.submissions)
    unfinished = any(one["due_at"] is not None for one in [*record.creations, *record.orphans])
    requested = any(one["delete_due_at"] or one["contract_due_at"] for one in record.vms)
    unchanged_since = max((vm["state_since"] for vm in record.vms), default=START)
    stable = (world.clock.now() - unchanged_since).total_seconds() > 2 * state.world.settings.resync_seconds
    return stable and not (open_ or unfinished or requested or record.inbox)


def _free_the_stuck(world: World) -> None:
    """The provider's staff set VMs that hang in BUILD to ERROR. Until then nobody could delete them."""
    for vm in world.cloud.truth():
        if vm["stuck"] and vm["ended"] is None and vm["status"] in {"CREATING", "BUILD"}:
            request = HttpRequest(method="POST", path=f"/_sim/vms/{vm['id']}/error", body=b"{}")
            private.handle(world.cloud, request, world.clock.elapsed)


async def _interfere(state: _Play, one: Interference) -> None:
    world = state.world
    world.tell(f"interference: {one.what}")
    if one is _FREE_STUCK:
        return _free_the_stuck(world)
    if one.what == "cancel":
        return await deletion.cancel(state.api, world.rng.choice(state.submissions), caller="explorer")
    if one.what == "forge":
        return await _forge(state)
    if one.what == "delete all":
        return await _delete_all(state, world.rng.choice(state.submissions))
    async with world.engine.connect() as conn:
        alive = [vm for vm in await vms.bound_alive(conn) if vm.provider_id is not None]
    if not alive:
        return None
    vm = world.rng.choice(alive)
    if one.what == "delete":
        await deletion.delete(state.api, vm, caller="explorer")
        return None
    what = {"gone": "delete"}.get(one.what, one.what)
    body = b'{"silent": true}' if one.silent else b"{}"
    request = HttpRequest(method="POST", path=f"/_sim/vms/{vm.provider_id}/{what}", body=body)
    private.handle(world.cloud, request, world.clock.elapsed)
    return None


async def _forge(state: _Play) -> None:
    """Post a callback on the URL of one submission that names a VM of another, or of nobody."""
    world = state.world
    alive = [vm["id"] for vm in world.cloud.truth() if vm["ended"] is None]
    if alive:
        ref = CreationRef(world.rng.choice(state.submissions), 1)
        await world.forge(ref, world.rng.choice(alive))


async def _delete_all(state: _Play, submission_id: UUID) -> None:
    """Delete every VM of a submission's first creation, one by one."""
    async with state.world.engine.connect() as conn:
        found = await vms.of_creation(conn, submission_id, 1)
    for vm in found:
        await deletion.delete(state.api, vm, caller="explorer")

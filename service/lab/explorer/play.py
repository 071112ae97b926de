"""Plays a seed: jobs run one at a time in a seeded order, with crashes, callbacks and interference; then the check."""

# longer than 350 lines because a seed's whole life is read here from top to bottom

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from service.app.process import correct_clock, heal_times
from service.config import Settings
from service.core.catalogue import Advice
from service.errors import StorageError, StorageUnavailable, TryLater
from service.lab.explorer.checker import check
from service.lab.explorer.faults import CALM, MONTH_ENDS, Interference
from service.lab.explorer.interfering import FAIL_STUCK, Requested, interfere
from service.lab.explorer.jobs import JOBS, MORE, Job, JobMonitor, run_job
from service.lab.explorer.record import Record, due_times, open_work
from service.lab.explorer.scenario import Scenario, settings_of
from service.lab.explorer.wire_faults import WireFaults
from service.lab.explorer.world import CrashError, DaemonClock, LossyCommits, World, killed_at_commits
from service.operations import submission
from service.runtime.runtime import Runtime
from service.storage.engine import transact
from service.storage.partitions import Month, make_partitions

START = datetime(2026, 8, 17, 9, tzinfo=UTC)
DAEMONS = 2
#: No seed is over before: the cloud is calm from `CALM` on, and a resync and the latest creations have to pass.
_EARLIEST_END = 1600.0
#: Seconds after which a user who got an error tries again.
_TRY_AGAIN = 30.0
#: Seconds for which a job that looks for what no row says is due rests at most. Each of its runs costs many statements.
_LONGEST_REST = {"rescue": 180.0, "health": 400.0, "prices": 400.0, "retention": 60.0}
#: The probability that a daemon has noticed that the clock was set back when a job of it runs.
_NOTICES = 0.5


#: Runs between crashes, and the probability of freezing, of daemons that die together.
_OFTEN, _FREEZES = 8, 0.5


@dataclass
class Outcome:
    """The result of a seed: what is wrong (nothing, if all is well), and what happened.

    `failures` counts the runs of jobs that failed, by job and error. A failure by itself is nothing wrong.
    """

    seed: int
    wrong: list[str]
    timeline: list[tuple[float, str]]
    vms: int
    calls: int
    crashes: int
    runs: int
    seconds: float
    kinds: tuple[str, ...]
    failures: dict[str, int]


@dataclass(frozen=True)
class Engines:
    """The engine of the explorer itself, of the process that serves users, and of each daemon."""

    world: AsyncEngine
    api: AsyncEngine
    daemons: Sequence[AsyncEngine]

    async def dispose(self) -> None:
        """Close all connections. The engines can be used again."""
        for engine in (self.world, self.api, *self.daemons):
            await engine.dispose()


@dataclass(frozen=True)
class _Frozen:
    """A daemon that was stopped in the middle of a run."""

    name: str
    task: asyncio.Future[tuple[int, str | None]]
    thaws_at: float
    thawed: asyncio.Event


@dataclass
class _Play:
    world: World
    scenario: Scenario
    jobs: Mapping[str, Job]
    engines: Engines
    api: Runtime
    daemons: list[Runtime]
    lossy: list[LossyCommits] = field(default_factory=list)
    requested: Requested = field(default_factory=Requested)
    monitor: JobMonitor = field(default_factory=JobMonitor)
    pending: list[Interference] = field(default_factory=list)
    crashes: int = 0
    runs: int = 0
    busy: int = 1  # falls with each run that finds nothing to do
    #: Until when a job is not run that found nothing to do although something was due.
    rests: dict[str, float] = field(default_factory=dict)
    frozen: dict[int, _Frozen] = field(default_factory=dict)
    #: Daemons that have just been started and did not heal the record's times yet.
    starting: set[int] = field(default_factory=set)
    #: When a VM last changed, by the record's and by the cloud's time.
    changed: tuple[datetime, float] = (START, 0.0)

    def idle_engines(self) -> Sequence[AsyncEngine]:
        """The engines of daemons that have no connection in use."""
        return [engine for which, engine in enumerate(self.engines.daemons) if which not in self.frozen]


async def play(scenario: Scenario, engines: Engines, *, jobs: Mapping[str, Job] = JOBS) -> Outcome:
    """Play a scenario on an empty, migrated database, and check it."""
    with TemporaryDirectory() as folder:
        return await _play_in(Path(folder), scenario, engines, jobs)


async def _play_in(folder: Path, scenario: Scenario, engines: Engines, jobs: Mapping[str, Job]) -> Outcome:
    start, settings = START, settings_of(scenario)
    if "retention" in scenario.kinds:
        start, settings = _before_a_month_ends(settings, folder)
        await transact(engines.world, partial(make_partitions, now=start))
    world = World.make(scenario.cloud, engines.world, settings, start=start, seed=scenario.seed)
    world.wire = _wire_faults(scenario)
    daemons = [world.daemon(engine, DaemonClock(world.clock)) for engine in engines.daemons]
    for kind in scenario.kinds:
        jobs = {**MORE.get(kind, {}), **jobs}
    state = _Play(world, scenario, jobs, engines, world.daemon(engines.api), daemons)
    state.pending = [*scenario.interferences, FAIL_STUCK]
    state.changed = start, 0.0
    world.while_hanging = partial(_interfere, state, in_call=True)
    with ExitStack() as faults:
        for number, engine in enumerate([engines.api, *engines.daemons]):
            faults.enter_context(killed_at_commits(engine, world))
            lossy = LossyCommits(engine, scenario.commits_lost, seed=scenario.seed * 10 + number, freeze=world.freeze)
            state.lossy.append(faults.enter_context(lossy))
        for number, request in enumerate(scenario.requests):
            valid = submission.read(request, caller="explorer", key=f"key {number}" if number else None)
            state.requested.submissions.append((await submission.submit(state.api, valid, Advice()))[0])
        for _ in range(scenario.foreign):
            world.make_foreign()
        before = asyncio.all_tasks()
        try:
            await _until_over(state)
            return await _outcome(state)
        finally:  # runs of frozen daemons, and whatever else still runs if this is cancelled
            await _kill_tasks(before)


def _before_a_month_ends(settings: Settings, folder: Path) -> tuple[datetime, Settings]:
    """No month but the current one is kept, which is less than the settings allow."""
    start = Month.of(START).following.first - timedelta(seconds=MONTH_ENDS)
    return start, settings.model_copy(update={"events_keep_months": 0, "events_export_dir": folder})


def _wire_faults(scenario: Scenario) -> WireFaults:
    drawn = scenario.drawn.values()
    return WireFaults(
        callbacks=max((one.bad_callbacks for one in drawn), default=0.0),
        callbacks_until=CALM,
        foreign_name=next((one.foreign_name for one in drawn if one.foreign_name is not None), None),
        rng=random.Random(f"wire {scenario.seed}"),  # noqa: S311  a seed is the point
    )


async def _outcome(state: _Play) -> Outcome:
    world = state.world
    record = await Record.read(
        state.engines.world, since=world.clock.start, until=world.clock.now(), archive=world.settings.events_export_dir
    )
    lost = sum(one.cut for one in state.lossy)
    silent = list(state.monitor.wrong.values())
    wrong = silent or check(world, record, state.requested, crashes=state.crashes + lost, kinds=state.scenario.kinds)
    return Outcome(
        seed=state.scenario.seed,
        wrong=wrong,
        timeline=world.timeline,
        vms=len(record.vms),
        calls=len(record.calls),
        crashes=state.crashes,
        runs=state.runs,
        seconds=world.clock.elapsed,
        kinds=state.scenario.kinds,
        failures=dict(state.monitor.failures),
    )


async def _until_over(state: _Play) -> None:
    world = state.world
    # A daemon whose jobs fail or fall behind silently is broken for good: the rest of the seed would show no more.
    while world.clock.elapsed < state.scenario.horizon and not state.monitor.wrong:
        if world.clock.elapsed > CALM:
            for one in state.lossy:
                one.stop()
        await world.deliver()
        await _interfere(state)
        await _thaw(state)
        waits = await _waits(state)
        ready = [name for name in state.jobs if waits[name] <= 0]
        if ready:
            await _one_run(state, ready)
            world.clock.advance(world.rng.uniform(0.0, 1.0))
        elif not state.pending and await _over(state):
            return
        else:
            _sleep(state, min(waits.values()))


async def _interfere(state: _Play, *, in_call: bool = False) -> None:
    """Carry out what is due; what got an error is tried again later, as a user would."""
    now = state.world.clock.elapsed
    due = [one for one in state.pending if one.at <= now and (one.in_call == in_call or (one.in_call and now > CALM))]
    state.pending = [one for one in state.pending if one not in due]
    due.sort(key=lambda one: one.at)
    for one in due:
        try:
            await interfere(state, one, in_call=in_call)
        except (StorageUnavailable, TryLater) as error:
            state.world.note(f"{one.what} got an error: {error}")
            state.pending.append(replace(one, at=now + _TRY_AGAIN))


async def _waits(state: _Play) -> dict[str, float]:
    """Seconds until each job has something to do. Runs that find nothing explore nothing, so they are not made."""
    now, elapsed = state.world.clock.now(), state.world.clock.elapsed
    due = await due_times(state.world.engine)
    late = {name: (now - at).total_seconds() for name, at in due.items() if at is not None and name != "rescue"}
    state.monitor.waiting(late, state.daemons)
    waits = {}
    for name in state.jobs:
        at = due.get(name)
        wait = 60.0 if at is None else (at - now).total_seconds()
        if name == "rescue" or name not in due:  # it also looks for what no row says is due
            wait = min(wait, 0.0)
        waits[name] = max(wait, state.rests.get(name, 0.0) - elapsed)
    return waits


async def _one_run(state: _Play, ready: list[str]) -> None:
    world = state.world
    awake = [number for number in range(len(state.daemons)) if number not in state.frozen]
    which = world.rng.choice(awake)
    name = world.rng.choice(ready)
    # Dying while nothing is under way explores nothing: it is done if there was work a moment ago.
    every = _OFTEN if state.scenario.die_together else state.scenario.crash_every
    if state.busy and every and world.rng.random() < 1 / every:
        world.failpoint.left = world.rng.randint(1, 6)
    freezes = len(awake) > 1 and world.rng.random() < max(state.scenario.freeze, state.scenario.die_together * _FREEZES)
    world.freeze.wanted = world.rng.choice(("call", "commit")) if freezes else None
    world.freeze.frozen = asyncio.Event()
    state.runs += 1
    before = asyncio.all_tasks()
    task = asyncio.ensure_future(run_job(state.daemons[which], name, _keeping_time(state, which, state.jobs[name])))
    if await _until_frozen(task, world):
        thaws_at = world.clock.elapsed + world.rng.uniform(100, 700)
        world.note(f"daemon {which} freezes in {name} until {thaws_at:.0f}")
        state.frozen[which] = _Frozen(name, task, thaws_at, world.freeze.thawed)
    else:
        await _finished(state, which, name, task, before)
    world.failpoint.left = None
    world.freeze.wanted = None


def _keeping_time(state: _Play, which: int, job: Job) -> Job:
    """The job, after the daemon has looked at the database's clock, as a process does at its start and now and then."""

    async def run(rt: Runtime) -> int:
        with suppress(StorageError):
            if which in state.starting and state.world.clock.set_back_by:
                await heal_times(rt, rt.clock.now())
            state.starting.discard(which)
            if (
                isinstance(rt.clock, DaemonClock)
                and (rt.clock.ahead or rt.clock_set_back)
                and rt.rng.random() < _NOTICES
            ):
                await correct_clock(rt, rt.clock)
        return await job(rt)

    return run


async def _until_frozen(task: asyncio.Future[Any], world: World) -> bool:
    """Wait until a run is over, or freezes; whether it froze."""
    watch = asyncio.ensure_future(world.freeze.frozen.wait())
    both: list[asyncio.Future[Any]] = [task, watch]
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    watch.cancel()
    return not task.done()


async def _thaw(state: _Play) -> None:
    """Let frozen daemons go on whose time has come; they do not know how long they were away."""
    for which, one in list(state.frozen.items()):
        if one.thaws_at <= state.world.clock.elapsed:
            state.world.note(f"daemon {which} goes on")
            del state.frozen[which]
            one.thawed.set()
            await asyncio.wait([one.task])
            await _finished(state, which, one.name, one.task, asyncio.all_tasks())


async def _finished(
    state: _Play, which: int, name: str, task: asyncio.Future[tuple[int, str | None]], before: set[asyncio.Task[Any]]
) -> None:
    try:
        done, error = await task
    except CrashError:
        state.crashes += 1
        state.world.note(f"crash in {name}")
        await _kill_tasks(before)
        _start(state, which)
        if state.scenario.die_together:
            await _kill_the_others(state, which)
        return
    state.monitor.ran(which, state.daemons[which], name, error)
    if error is not None:
        state.world.note(f"{name} failed: {error}")
    _note_done(state, name, done)


def _start(state: _Play, which: int) -> None:
    state.daemons[which] = state.world.daemon(state.engines.daemons[which], DaemonClock(state.world.clock))
    state.monitor.started(which)
    state.starting.add(which)


async def _kill_the_others(state: _Play, which: int) -> None:
    """The whole machine is gone: also what was in the middle of a call."""
    for other in set(range(len(state.daemons))) - {which}:
        if frozen := state.frozen.pop(other, None):
            state.world.note(f"daemon {other} dies in {frozen.name}")
            state.crashes += 1
            frozen.task.cancel()
            await asyncio.gather(frozen.task, return_exceptions=True)
        _start(state, other)


def _note_done(state: _Play, name: str, done: int) -> None:
    state.busy = max(0, state.busy - 1)
    if done:
        state.world.note(f"{name}: {done}")
        state.busy = len(state.jobs)
    # Rescue looks for what stays behind, and what cannot be done now (rate limit) is tried again a little later.
    longest = _LONGEST_REST.get(name, 20.0)
    if name in _LONGEST_REST or not done:
        state.rests[name] = state.world.clock.elapsed + state.world.rng.uniform(1, longest)


async def _kill_tasks(before: set[asyncio.Task[Any]]) -> None:
    """Tasks of a killed process end with it; those that ran before it began are another process's."""
    others = asyncio.all_tasks() - before
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _sleep(state: _Play, shortest: float) -> None:
    """Move time to when something happens next, in the record, at the cloud or from outside."""
    world = state.world
    next_in_cloud = world.cloud.next_due()
    candidates = [
        shortest,
        *([next_in_cloud - world.clock.elapsed] if next_in_cloud is not None else []),
        *(one.at - world.clock.elapsed for one in state.pending),
        *(one.thaws_at - world.clock.elapsed for one in state.frozen.values()),
    ]
    world.clock.advance(min(max(min(candidates), 0.05), 60.0))


async def _over(state: _Play) -> bool:
    """Whether all work is done, the cloud is calm, and a whole resync has passed since."""
    world = state.world
    if world.clock.elapsed < _EARLIEST_END or state.frozen:
        return False
    # What a daemon wrote by its old time is healed once it notices that the clock was set back.
    if any(rt.clock_set_back or (isinstance(rt.clock, DaemonClock) and rt.clock.ahead) for rt in state.daemons):
        return False
    open_, changed_at = await open_work(world.engine)
    if open_ or changed_at is None:
        return False
    if changed_at != state.changed[0]:
        since = (world.clock.now() - changed_at).total_seconds()
        state.changed = changed_at, world.clock.elapsed - max(0.0, since)
    return world.clock.elapsed - state.changed[1] > 2 * state.world.settings.resync_seconds

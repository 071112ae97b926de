"""Runs the jobs, each in a task of its own, until told to stop.

Any error of a job is reported, and after a wait the job runs again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta

from service.errors import StorageUnavailable
from service.runtime.database_health import report_database, resolve_database
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.runtime.scheduled_runs import any_failed
from service.runtime.slots import MOST_PER_SLOT, Claimed, slots
from service.runtime.tasks import Slots, gather_all
from service.storage import scheduled_jobs
from service.storage.engine import transact
from service.worker import (
    apply,
    contract,
    create,
    delete,
    deliver,
    health,
    history,
    notify,
    orphan,
    prices,
    refresh,
    rescue,
    retention,
    sample,
    seal,
)
from service.worker.due import AT_LEAST_EVERY, DueJobs

Run = Callable[[Runtime], Awaitable[int]]
Claim = Callable[[Runtime, int], Awaitable[Claimed]]

JOBS: Mapping[str, Run] = {
    "apply": apply.run_once,
    "create": create.run_once,
    "delete": delete.run_once,
    "contract": contract.run_once,
    "refresh": refresh.run_once,
    "orphan": orphan.run_once,
    "history": history.run_once,
    "rescue": rescue.run_once,
}
#: All jobs.
ALL: Mapping[str, Run] = {
    **JOBS,
    "retention": retention.run_once,
    "seal": seal.run_once,
    "health": health.run_once,
    "prices": prices.run_once,
    "notify": notify.run_once,
    "deliver": deliver.run_once,
    "sample": sample.run_once,
}
#: Jobs whose calls run in slots: the loop claims as much as slots are free, and does not wait for the calls.
IN_SLOTS: Mapping[str, Claim] = {
    "create": create.claim,
    "delete": delete.claim,
    "contract": contract.claim,
    "history": history.claim,
    "refresh": refresh.claim,
    "orphan": orphan.claim,
    "deliver": deliver.claim,
}
#: How much a run has to do so that another follows at once. One that did anything does for most; what `apply` leaves
#: when it could have taken more is not due yet.
_FULL: Mapping[str, int] = {"apply": apply.GROUP}
#: Seconds between runs of a job that looks at the whole record.
_PAUSES: Mapping[str, float] = {"health": 10.0}
_LONGEST_WAIT = 30.0
#: Seconds after which a call gives its slot up to another: longer than a provider that is well takes.
_PATIENCE = 10.0
_WATCH_SECONDS = 5.0


async def run(rt: Runtime, stop: asyncio.Event, *, grace: float, jobs: Mapping[str, Run] = ALL) -> None:
    """Run the jobs until `stop` is set; then let them finish for `grace` seconds, and cancel the rest.

    Cancelled work is leased, and runs again after its lease expires. Raises if the task of a job ends by itself: a
    daemon without one of its jobs must not go on.
    """
    for name in jobs:
        rt.health.watch(name)
    due = DueJobs(jobs)
    tasks = [asyncio.create_task(_loop(rt, name, one, stop, due), name=name) for name, one in jobs.items()]
    stopped = [
        asyncio.create_task(stop.wait()),
        asyncio.create_task(_watch(rt, stop)),
        asyncio.create_task(due.watch(rt, stop)),
    ]
    await asyncio.wait([*stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    if not stop.is_set():
        logger().error("the task of a job ended by itself; stopping", action="stop")
        stop.set()
    _, late = await asyncio.wait(tasks, timeout=grace)
    for task in late:
        logger().warning("run cancelled at stop", action="stop", job=task.get_name())
        task.cancel()
    with suppress(asyncio.CancelledError):
        await gather_all([*tasks, *stopped])


async def _loop(rt: Runtime, name: str, run_once: Run, stop: asyncio.Event, due: DueJobs) -> None:
    claim = IN_SLOTS.get(name)
    if claim is not None:
        await _loop_in_slots(rt, name, claim, stop, due)
        return
    while not stop.is_set():
        if name == "apply":
            rt.events_stored.clear()  # before the run, so that events stored during it are not missed
        done, failures = await _try(rt, name, run_once(rt))
        await asyncio.sleep(0)  # let the others run, even if this job never waited
        if failures:
            await _wait_after_failures(rt, stop, failures)
        elif done < _FULL.get(name, 1):
            await _idle(rt, name, stop, due)


async def _loop_in_slots(rt: Runtime, name: str, claim: Claim, stop: asyncio.Event, due: DueJobs) -> None:
    """Claim as much as slots are free, start it, and go on while it runs."""
    size = slots(rt.settings)[name]
    running = Slots(size, most=MOST_PER_SLOT * size, patience=_PATIENCE)

    async def claim_and_start() -> int:
        claimed = await claim(rt, running.free)
        for call in claimed.calls:
            running.start(_call(rt, name, call), name=f"{name} call")
        return claimed.count

    try:
        while not stop.is_set():
            done, failures = await _try(rt, name, claim_and_start())
            if failures:
                await _wait_after_failures(rt, stop, failures)
            elif not running.free:
                await _first_of(stop.wait(), running.wait_for_free())
            elif not done:
                await due.wait(name)
        await running.finish()
    finally:
        running.cancel()


async def _call(rt: Runtime, name: str, call: Callable[[], Awaitable[object]]) -> None:
    async def one() -> int:
        await call()
        return 1

    await _try(rt, name, one(), part="call")


async def _try(rt: Runtime, name: str, work: Awaitable[int], *, part: str = "run") -> tuple[int, int]:
    """Run a part of a job. Returns its result, and how often in a row it has failed."""
    try:
        done = await work
        if not done:
            await _check_writable(rt, name, part)
        has_failed = await any_failed(rt, name)
    except StorageUnavailable as error:
        report_database(rt.health, str(error), owner=f"{name} {part}")
        rt.metrics.job_runs.labels(name, "storage_unavailable").inc()
        return 0, rt.health.job_failed(name, str(error), part=part)
    except Exception as error:  # noqa: BLE001  this is the place that survives anything
        # No error may stop the other jobs. Cancellation is no Exception.
        rt.metrics.job_runs.labels(name, "failed").inc()
        logger().error("job failed", action=name, outcome="failed", error=str(error)[:500], exc_info=True)
        return 0, rt.health.job_failed(name, f"{type(error).__name__}: {str(error)[:300]}", part=part)
    resolve_database(rt.health, owner=f"{name} {part}")
    if has_failed:
        return done, 0  # this run found nothing to do: it proves nothing
    rt.metrics.job_runs.labels(name, "ok").inc()
    rt.health.job_succeeded(name, part=part)
    return done, 0


async def _check_writable(rt: Runtime, name: str, part: str) -> None:
    """After a failure of the database, raise until a write works: a run without writes proves nothing."""
    if any(one.owner == f"{name} {part}" for one in rt.health.open()):
        await transact(rt.engine, lambda conn: scheduled_jobs.write_probe(conn, now=rt.clock.now()), tries=1)


async def _watch(rt: Runtime, stop: asyncio.Event) -> None:
    """Report jobs that no longer succeed, also those whose run never ends."""
    while not stop.is_set():
        rt.health.report_stalled(after=timedelta(seconds=rt.settings.job_stalled_seconds))
        await _wait(stop, _WATCH_SECONDS)


async def _wait_after_failures(rt: Runtime, stop: asyncio.Event, failures: int) -> None:
    """Wait the longer the more failures there were in a row, but not beyond the database's return."""
    after = min(_LONGEST_WAIT, rt.retry.after(failures, rt.jitter()).total_seconds() + 0.1)
    await _first_of(stop.wait(), rt.database_is_back.wait(), asyncio.sleep(after))


async def _idle(rt: Runtime, name: str, stop: asyncio.Event, due: DueJobs) -> None:
    if name in _PAUSES:
        await _wait(stop, _PAUSES[name])
        return
    if name != "apply":
        await due.wait(name)
        return
    with suppress(TimeoutError):
        await asyncio.wait_for(rt.events_stored.wait(), AT_LEAST_EVERY)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def _first_of(*events: Awaitable[object]) -> None:
    """Wait until one of the events is set."""
    tasks = [asyncio.ensure_future(one) for one in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()

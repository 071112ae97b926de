"""Runs the duties: one pass after another, each in a task of its own, until told to stop.

This is the one place that survives any error: a pass that fails is logged, waited after and run again, since
passes may be repeated at any moment without harm. What a pass decides is not known here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from service.errors import StorageUnavailable
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.worker import apply, contract, create, delete, history, orphan, refresh, rescue, retention
from service.worker.due import AT_LEAST_EVERY, DueJobs

Pass = Callable[[Runtime], Awaitable[int]]

JOBS: Mapping[str, Pass] = {
    "apply": apply.run_once,
    "submit": create.run_once,
    "delete": delete.run_once,
    "contract": contract.run_once,
    "reconcile": refresh.run_once,
    "orphan": orphan.run_once,
    "history": history.run_once,
    "rescue": rescue.run_once,
}
#: All that a daemon does: those that bring VMs on, and one that only tidies up behind them.
ALL: Mapping[str, Pass] = {**JOBS, "retention": retention.run_once}
#: How much a pass has to do so that another follows at once. One that found anything does for most; but whoever keeps
#: an event says so, and what `apply` has left when it could have taken more is not due yet.
_FULL: Mapping[str, int] = {"apply": apply.GROUP}
_TROUBLE = "database"
_LONGEST_WAIT = 30.0


async def run(rt: Runtime, stop: asyncio.Event, *, grace: float, scheduled_jobs: Mapping[str, Pass] = ALL) -> None:
    """Run the duties until `stop` is set; then let passes under way finish for `grace` seconds, and cancel the rest.

    What is cancelled holds a lease, and is taken up again by whoever runs next.
    """
    due = DueJobs(scheduled_jobs)
    tasks = [asyncio.create_task(_keep(rt, name, one, stop, due), name=name) for name, one in scheduled_jobs.items()]
    tasks.append(asyncio.create_task(due.watch(rt, stop), name="due"))
    await stop.wait()
    _, late = await asyncio.wait(tasks, timeout=grace)
    for task in late:
        logger().warning("pass cancelled at stop", action="stop", job=task.get_name())
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _keep(rt: Runtime, name: str, one_pass: Pass, stop: asyncio.Event, due: DueJobs) -> None:
    failures = 0
    while not stop.is_set():
        if name == "apply":
            rt.events_stored.clear()  # before the pass and not after it: what is kept from here on may be missed by it
        done, failures = await _try(rt, name, one_pass, failures)
        if failures:
            await _wait(stop, min(_LONGEST_WAIT, rt.retry.after(failures, rt.jitter()).total_seconds() + 0.1))
        elif done < _FULL.get(name, 1):
            await _idle(rt, name, due)


async def _try(rt: Runtime, name: str, one_pass: Pass, failures: int) -> tuple[int, int]:
    """Run a pass; what it did, and how often in a row it has failed by now."""
    try:
        done = await one_pass(rt)
    except StorageUnavailable as error:
        rt.health.report(_TROUBLE, str(error))
        rt.metrics.job_runs.labels(name, "storage_unavailable").inc()
        if not failures:
            logger().warning("database away", action=name, outcome="storage_unavailable", error=str(error))
        return 0, failures + 1
    except Exception as error:  # noqa: BLE001  this is the place that survives anything
        # Whatever it is, the other duties and the next pass must not pay for it. Cancellation is no Exception.
        rt.metrics.job_runs.labels(name, "failed").inc()
        logger().error("pass failed", action=name, outcome="failed", error=str(error)[:500], exc_info=True)
        return 0, failures + 1
    rt.health.resolve(_TROUBLE)
    rt.metrics.job_runs.labels(name, "ok").inc()
    if failures:
        logger().info("pass works again", action=name, outcome="ok", failures=failures)
    return done, 0


async def _idle(rt: Runtime, name: str, due: DueJobs) -> None:
    if name != "apply":
        await due.wait(name)
        return
    with suppress(TimeoutError):
        await asyncio.wait_for(rt.events_stored.wait(), AT_LEAST_EVERY)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)

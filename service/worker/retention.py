"""Exports old months of events to files and drops them, or drops them without a copy, as the settings say.

The order prevents losses: create the file, detach the month's table from `events`, copy it, fsync the file and read it
back, and only then drop the table, if it holds exactly what the file holds. If a step fails, the month stays in the
database, perhaps as a table of its own, and the next run continues, the file too. Transitions are never dropped.
"""

import asyncio
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID

from service.audit.archive import Archive, Manifest, finished
from service.errors import LeaseLost, StorageUnavailable
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.runtime.scheduled_runs import ClaimedRun, claim
from service.storage import partitions, scheduled_jobs
from service.storage.engine import begin, transact
from service.storage.partitions import Month
from service.storage.seals import DroppedMonth

_JOB: Final = "retention"
_ISSUE: Final = "archive"
_LEASE: Final = timedelta(minutes=30)
_EVERY: Final = timedelta(hours=1)
#: When to try again after a failure.
_SOON: Final = timedelta(minutes=5)
#: Events read at once: up to 128 MB, if all bodies are of the largest size.
_AT_ONCE: Final = 500


async def run_once(rt: Runtime) -> int:
    """Retire old months. Returns how many. Does nothing unless `ROLLCALL_EVENTS_KEEP_MONTHS` is set."""
    keep = rt.settings.events_keep_months
    if keep is None:
        return 0
    token = await claim(rt, _JOB, lease=_LEASE)
    if token is None:
        return 0
    async with ClaimedRun(rt, _JOB, token):
        return await _run(rt, token, keep)


async def _run(rt: Runtime, token: UUID, keep: int) -> int:
    retired, all_done = 0, False
    try:
        async with begin(rt.engine) as conn:
            old = await partitions.before(conn, Month.of(rt.clock.now()).back(keep))
        for month in old:
            retired += await _retire(rt, month, token)
        all_done = retired == len(old)
        rt.health.resolve(_ISSUE)
    except OSError as error:
        rt.health.report(_ISSUE, f"events cannot be archived: {error.strerror or error}")
        logger().error("events cannot be archived", action="retention", outcome="deferred", error=str(error))
    except StorageUnavailable as error:
        logger().info("a month was not retired", action="retention", outcome="deferred", error=str(error))
    except LeaseLost:
        return retired
    now = rt.clock.now()
    due_at = now + (_EVERY if all_done else _SOON)
    await transact(rt.engine, lambda conn: scheduled_jobs.complete_if_leased(conn, _JOB, token, now=now, due_at=due_at))
    return retired


async def _retire(rt: Runtime, month: Month, token: UUID) -> bool:
    """Retire one month. Returns whether it was dropped."""
    if rt.settings.events_export_dir is None:
        manifest = None
        if not await _detach(rt, month):
            return False
    else:
        manifest = await _exported(rt, month, token)
        if manifest is None:
            return False
    holding = manifest.events if manifest else None
    said = DroppedMonth(
        month.first,
        rt.clock.now(),
        events=holding,
        file=manifest.file if manifest else None,
        sha256=manifest.sha256 if manifest else None,
    )
    dropped = await transact(rt.engine, lambda conn: partitions.drop(conn, month, holding=holding, dropped=said))
    logger().info(
        "a month of events was retired" if dropped else "a month of events stays: it differs from its archive",
        action="retention",
        outcome="dropped" if dropped else "kept",
        month=str(month),
        events=holding,
        file=manifest.file if manifest else None,
        sha256=manifest.sha256 if manifest else None,
    )
    return dropped


async def _exported(rt: Runtime, month: Month, token: UUID) -> Manifest | None:
    """Write a month to a file; None if one of its events still waits in the inbox. Raises OSError and `LeaseLost`."""
    folder = rt.settings.events_export_dir
    if folder is None:
        raise AssertionError("unreachable: the caller has checked")
    archive = await _export_of(rt, month, folder)
    if isinstance(archive, Manifest):
        return archive
    try:
        if not await _detach(rt, month):
            return None
        while True:
            async with begin(rt.engine) as conn:
                if not await scheduled_jobs.extend_if_leased(conn, _JOB, token, until=rt.clock.now() + _LEASE):
                    raise LeaseLost("the retention of events")
                events = await partitions.read(conn, month, after=archive.after, limit=_AT_ONCE)
            if not events:
                return await asyncio.to_thread(archive.finish)
            await asyncio.to_thread(archive.write, events)
    finally:
        await asyncio.to_thread(archive.leave)


async def _export_of(rt: Runtime, month: Month, folder: Path) -> Manifest | Archive:
    """The earlier export of a month that could not be dropped then, or was interrupted; else a new one."""
    name = f"events_{month.first:%Y_%m}"
    async with begin(rt.engine) as conn:
        detached = not await partitions.is_part(conn, month)
        first = await partitions.read(conn, month, after=None, limit=1) if detached else ()
        events = await partitions.count(conn, month) if detached else 0
    if first and (manifest := await asyncio.to_thread(partial(finished, folder, name, first=first[0], events=events))):
        return manifest
    if first and (archive := await asyncio.to_thread(partial(Archive.resume, folder, name, first=first[0].event_id))):
        return archive
    return await asyncio.to_thread(Archive.begin, folder, name)


async def _detach(rt: Runtime, month: Month) -> bool:
    detached = await transact(rt.engine, lambda conn: partitions.take_out(conn, month), tries=1)
    if not detached:
        logger().info("events of an old month still wait to be applied or sealed", action="retention", month=str(month))
    return detached

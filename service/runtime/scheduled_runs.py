"""What becomes of a scheduled job whose run fails: its lease is given back, and its job has failed until it is done.

Otherwise the next run would find the job leased, do nothing, and count as a success.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from types import TracebackType
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import StorageError
from service.runtime.runtime import Runtime
from service.storage import scheduled_jobs
from service.storage.engine import transact
from service.storage.scheduled_jobs import FailedRun


async def claim(rt: Runtime, job: str, *, lease: timedelta) -> UUID | None:
    """Lease a scheduled job if it is due and no daemon has it: the token of the lease, or None."""
    token = rt.uuid()
    take = partial(scheduled_jobs.claim, job=job, now=rt.clock.now(), lease=lease, token=token)
    return token if await transact(rt.engine, take) else None


class ClaimedRun:
    """A run of a scheduled job that was claimed with `token`, as a context. It is part of a job of the daemon: `part_of`, if
    that has another name.

    If it fails, it is due again after `rest`, or at once: the daemon waits after failures by itself.
    """

    def __init__(
        self, rt: Runtime, job: str, token: UUID, *, part_of: str = "", rest: Callable[[], timedelta] | None = None
    ) -> None:
        self._rt, self._job, self._token, self._part_of, self._rest = rt, job, token, part_of or job, rest

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is None:
            self._rt.failed_runs.pop(self._job, None)
        elif isinstance(error, Exception):  # what was cancelled keeps its lease
            now = self._rt.clock.now()
            due_at = None if self._rest is None else now + self._rest()
            run = FailedRun(part_of=self._part_of, token=self._token, at=now, due_at=due_at)
            self._rt.failed_runs[self._job] = run
            with suppress(StorageError):  # `any_failed` tries again
                release = partial(scheduled_jobs.release_if_leased, job=self._job, run=run)
                await transact(self._rt.engine, release, tries=1)


async def any_failed(rt: Runtime, part_of: str) -> bool:
    """Whether the last run of a scheduled job that is part of a daemon's job failed, and no daemon has done it since."""
    for job, run in list(rt.failed_runs.items()):
        if run.part_of != part_of:
            continue
        if await transact(rt.engine, partial(_was_done, job=job, run=run)):
            rt.failed_runs.pop(job, None)
    return any(run.part_of == part_of for run in rt.failed_runs.values())


async def _was_done(conn: AsyncConnection, job: str, run: FailedRun) -> bool:
    await scheduled_jobs.release_if_leased(conn, job, run)  # if it could not be given back before
    return await scheduled_jobs.was_done_since(conn, job, run.at)

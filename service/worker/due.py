"""Wakes jobs that have something to do, by one query for all of them."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from service.errors import StorageError
from service.runtime.runtime import Runtime
from service.storage import due
from service.storage.engine import begin

#: Seconds after which a job runs although nothing is due, for work without a due time (health issues, learned times).
AT_LEAST_EVERY: Final = 30.0


class DueJobs:
    """Makes jobs wait until they are due."""

    def __init__(self, jobs: Iterable[str]) -> None:
        self._due = {job: asyncio.Event() for job in jobs}
        self._stopped = False

    async def watch(self, rt: Runtime, stop: asyncio.Event) -> None:
        """Wake the jobs that are due, every `poll_seconds` until `stop` is set.

        If the database fails, all jobs are woken, and each handles the failure.
        """
        while not stop.is_set():
            for job in await self._ask(rt):
                if job == "apply":
                    rt.events_stored.set()
                self._due[job].set()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), rt.settings.poll_seconds)
        self._stopped = True
        for event in (*self._due.values(), rt.events_stored):
            event.set()

    async def _ask(self, rt: Runtime) -> Iterable[str]:
        try:
            async with begin(rt.engine) as conn:
                found = await due.due_jobs(conn, rt.clock.now())
        except StorageError:
            return self._due
        return [job for job in self._due if job in found or job not in due.JOBS]

    async def wait(self, job: str) -> None:
        """Return when a job is due, has not run for a while, or should stop."""
        if self._stopped:
            return
        self._due[job].clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._due[job].wait(), AT_LEAST_EVERY)

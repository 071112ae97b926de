"""Counts the fleet every few seconds and stores the numbers, so that no page of a large record has to count it.

It counts for a hundredth of the time, so a record that takes longer to count is counted less often; but often enough that
there always is a sample that holds.
"""

from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from msgspec import to_builtins
from sqlalchemy.ext.asyncio import AsyncConnection

from service.queries import cost, fleet
from service.queries import fleet_samples as samples
from service.runtime.runtime import Runtime
from service.runtime.scheduled_runs import ClaimedRun, claim
from service.storage import fleet_samples, scheduled_jobs, submissions
from service.storage.engine import begin, transact

_JOB: Final = "sample"
_LEASE: Final = timedelta(minutes=10)
_EVERY: Final = timedelta(seconds=10)
_SHARE: Final = 100


async def run_once(rt: Runtime) -> int:
    """Count the fleet if that is due, by whichever daemon comes first. Returns 0: there is never more to do at once."""
    token = await claim(rt, _JOB, lease=_LEASE)
    if token is not None:
        counting = _CountingTime(rt)
        async with ClaimedRun(rt, _JOB, token, rest=counting.rest):
            await _sample(rt, token, counting)
    return 0


class _CountingTime:
    """How long counting takes, without the wait for a connection."""

    def __init__(self, rt: Runtime) -> None:
        self._clock = rt.clock
        self._began: float | None = None
        self._took: float | None = None

    def begin(self) -> None:
        self._began = self._clock.monotonic()

    def end(self) -> None:
        self._took = self._seconds()

    def rest(self) -> timedelta:
        """The pause after it. Half of what a sample holds at most: the next has to be there before."""
        took = self._seconds() if self._took is None else self._took
        return min(max(_EVERY, timedelta(seconds=_SHARE * took)), samples.OLDEST / 2)

    def _seconds(self) -> float:
        return 0.0 if self._began is None else self._clock.monotonic() - self._began


async def _sample(rt: Runtime, token: UUID, counting: _CountingTime) -> None:
    async with begin(rt.engine) as conn:
        counting.begin()
        at = rt.clock.now()
        counted, every = await fleet.count_every(conn, now=at)
        per_hour = await cost.per_hour(conn, now=at)
        tallies = await submissions.tallies(conn, await samples.large_submissions(conn))
        counting.end()
    numbers = to_builtins(samples.SampleNumbers(counted, every.off_contract, per_hour))

    async def store(conn: AsyncConnection) -> Any:
        await fleet_samples.store(conn, at=at, by_state=every.by_state, numbers=numbers)
        await fleet_samples.store_tallies(conn, tallies, at=at)
        now = rt.clock.now()
        return await scheduled_jobs.complete_if_leased(conn, _JOB, token, now=now, due_at=now + counting.rest())

    await transact(rt.engine, store)

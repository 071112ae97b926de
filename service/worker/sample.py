"""Counts the fleet every few seconds and stores the numbers, so that no page of a large record has to count it.

It counts for at most a fiftieth of the time, so a record that takes longer to count is counted less often.
"""

from datetime import timedelta
from functools import partial
from typing import Any, Final

from msgspec import to_builtins
from sqlalchemy.ext.asyncio import AsyncConnection

from service.queries import cost, fleet
from service.queries import fleet_samples as samples
from service.runtime.runtime import Runtime
from service.storage import fleet_samples, scheduled_jobs, submissions
from service.storage.engine import begin, transact

_JOB: Final = "sample"
_LEASE: Final = timedelta(minutes=10)
_EVERY: Final = timedelta(seconds=10)
_SHARE: Final = 50


async def run_once(rt: Runtime) -> int:
    """Count the fleet if that is due, by whichever daemon comes first. Returns 0: there is never more to do at once."""
    began, token = rt.clock.now(), rt.uuid()
    claim = partial(scheduled_jobs.claim, job=_JOB, now=began, lease=_LEASE, token=token)
    if not await transact(rt.engine, claim):
        return 0
    async with begin(rt.engine) as conn:
        counted, every = await fleet.count_every(conn, now=began)
        per_hour = await cost.per_hour(conn, now=began)
        tallies = await submissions.tallies(conn, await samples.large_submissions(conn))
    now = rt.clock.now()
    numbers = to_builtins({"fleet": counted, "off_contract": every.off_contract, "per_hour": per_hour})

    async def store(conn: AsyncConnection) -> Any:
        await fleet_samples.store(conn, at=began, by_state=every.by_state, numbers=numbers)
        await fleet_samples.store_tallies(conn, tallies, at=began)
        due_at = now + max(_EVERY, _SHARE * (now - began))
        return await scheduled_jobs.complete_if_leased(conn, _JOB, token, now=now, due_at=due_at)

    await transact(rt.engine, store)
    return 0

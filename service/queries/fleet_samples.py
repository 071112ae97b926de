"""The fleet in numbers as the job `sample` counted it (decision 0105), for what would go through a large record otherwise."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from msgspec import Struct, ValidationError, convert, to_builtins
from msgspec.structs import replace
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.queries.cost import CostPerHour
from service.queries.fleet import Fleet
from service.queries.state_history import StateCounts, drawn
from service.queries.typed import typed
from service.storage.arrays import is_any
from service.storage.fleet_samples import KEPT
from service.storage.rows import from_rows
from service.storage.submissions import Tally
from service.storage.tables import fleet_samples, submission_samples

#: A record of at most this many VMs, ended ones included, is counted when somebody asks.
FEW: Final = 5_000
#: A submission with more living VMs than this is sampled by itself, from then on.
MANY: Final = 1_000
#: A sample that is older does not stand in for the numbers of now: nobody has counted since.
OLDEST: Final = timedelta(minutes=10)
#: Between the samples that stay of a time that is long ago.
_THINNED: Final = timedelta(hours=1)


class FleetSample(Struct, frozen=True):
    """The fleet as it was counted at `counted_at`. `by_state` is of every VM that there ever was."""

    counted_at: datetime
    by_state: dict[str, int]
    numbers: dict[str, Any]


class SampleNumbers(Struct, frozen=True):
    """What the first page shows of a sample. One that has other numbers counts as none."""

    fleet: Fleet
    off_contract: int
    per_hour: CostPerHour


async def instead_of_counting(conn: AsyncConnection, *, now: datetime) -> FleetSample | None:
    """The newest sample of a large record; None if the record is small, or was not sampled lately."""
    found = await at(conn, now, now=now)
    return None if found is None or sum(found.by_state.values()) <= FEW else found


async def at(conn: AsyncConnection, moment: datetime, *, now: datetime) -> FleetSample | None:
    """The last sample that was counted by a moment; None if there is none of that time, or not in the shape of today."""
    columns = (fleet_samples.c.counted_at, fleet_samples.c.by_state, fleet_samples.c.numbers)
    by_then = select(*columns).where(fleet_samples.c.slot <= moment, fleet_samples.c.counted_at <= moment)
    rows = await from_rows(FleetSample, await conn.execute(by_then.order_by(fleet_samples.c.slot.desc()).limit(1)))
    oldest = OLDEST if moment > now - KEPT else OLDEST + _THINNED
    return _known(rows[0]) if rows and moment - rows[0].counted_at <= oldest else None


def _known(found: FleetSample) -> FleetSample | None:
    """A sample, or None if another version of Rollcall counted other numbers."""
    try:
        convert(found.by_state, dict[str, int])
        return replace(found, numbers=to_builtins(convert(found.numbers, SampleNumbers)))
    except ValidationError:
        return None


async def large_submissions(conn: AsyncConnection) -> list[UUID]:
    """Submissions with many VMs that have not ended, and those sampled before of which some had not, or have not now."""
    return list((await conn.execute(typed(_LARGE), {"limit": MANY})).scalars())


async def tallies(
    conn: AsyncConnection, ids: Sequence[UUID], *, now: datetime
) -> tuple[dict[UUID, Tally], datetime | None]:
    """Tallies of large submissions as they were counted last, and when the oldest was. One not counted lately is left out."""
    sampled = submission_samples.c
    is_known = (sampled.counted_at > now - OLDEST) | (sampled.alive == 0)
    rows = list(await conn.execute(select(submission_samples).where(is_any(sampled.submission_id, ids), is_known)))
    known = [(row, tally) for row in rows if (tally := _tally(row.tally)) is not None]
    found = {row.submission_id: tally for row, tally in known}
    return found, min((row.counted_at for row, _ in known), default=None)


async def over_time(conn: AsyncConnection, *, since: datetime, until: datetime, steps: int) -> list[StateCounts]:
    """As `state_history.over_time`, from one sample for each moment: the last by then. Without one, no VMs."""
    rows = await conn.execute(typed(_OVER_TIME), {"since": since, "step": (until - since) / steps, "steps": steps})
    return [StateCounts(row.at, drawn(_counts(row.by_state))) for row in rows]


def _tally(found: object) -> Tally | None:
    try:
        return convert(found, Tally)
    except ValidationError:
        return None


def _counts(found: object) -> Mapping[str, int]:
    try:
        return convert(found or {}, dict[str, int])
    except ValidationError:
        return {}


_LARGE: Final = """
SELECT submission_id FROM vms WHERE ended_at IS NULL GROUP BY submission_id
HAVING count(*) > :limit OR submission_id IN (SELECT submission_id FROM submission_samples)
UNION SELECT submission_id FROM submission_samples WHERE alive > 0
"""
_OVER_TIME: Final = """
SELECT moments.at, sample.by_state
FROM (SELECT number, CAST(:since AS timestamptz) + number * CAST(:step AS interval) AS at
      FROM generate_series(0, CAST(:steps AS integer)) AS number) AS moments
LEFT JOIN LATERAL (SELECT by_state FROM fleet_samples WHERE slot <= moments.at ORDER BY slot DESC LIMIT 1) AS sample ON true
ORDER BY moments.number
"""

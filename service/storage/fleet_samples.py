"""What the job `sample` counted: `fleet_samples`, one row for each half minute, and `submission_samples`, one for each large submission."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from msgspec import to_builtins
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.submissions import Tally
from service.storage.tables import fleet_samples, submission_samples

#: How long every sample is kept; of older ones the first of each hour stays.
KEPT: Final = timedelta(days=8)
_SLOT: Final = 30  # seconds

# What was old already when the sample before this one was stored is thinned out, but for the hour that it ended in.
_THIN: Final = text("""
DELETE FROM fleet_samples AS old
WHERE slot >= (SELECT max(slot) FROM fleet_samples WHERE slot < :slot) - CAST(:kept AS interval) - interval '1 hour'
    AND slot < CAST(:at AS timestamptz) - CAST(:kept AS interval) AND EXISTS (
    SELECT FROM fleet_samples AS earlier WHERE earlier.slot < old.slot AND earlier.slot >= date_trunc('hour', old.slot, 'UTC'))
""")


async def store(
    conn: AsyncConnection, *, at: datetime, by_state: Mapping[str, int], numbers: Mapping[str, Any]
) -> None:
    """Store what was counted at `at`, in place of what was counted in the same half minute; thin out what is old."""
    counted = {"counted_at": at, "by_state": dict(by_state), "numbers": dict(numbers)}
    slot = _slot(at)
    new = insert(fleet_samples).values(slot=slot, **counted)
    await conn.execute(new.on_conflict_do_update(constraint="fleet_samples_pkey", set_=counted))
    await conn.execute(_THIN, {"slot": slot, "at": at, "kept": KEPT})


async def store_tallies(conn: AsyncConnection, tallies: Mapping[UUID, Tally], *, at: datetime) -> None:
    """Store what was counted of submissions at `at`, in place of what was counted before."""
    new = insert(submission_samples)
    counted = {name: new.excluded[name] for name in ("counted_at", "alive", "tally")}
    for id_, tally in sorted(tallies.items()):
        row = {"submission_id": id_, "counted_at": at, "alive": tally.alive, "tally": to_builtins(tally)}
        await conn.execute(new.values(row).on_conflict_do_update(constraint="submission_samples_pkey", set_=counted))


def _slot(at: datetime) -> datetime:
    return datetime.fromtimestamp(at.timestamp() // _SLOT * _SLOT, UTC)

"""The availability of fleets: for which share of a period a submission had as many VMs that were up as were asked for.

A VM is up while it is ACTIVE, from when it was ready for the first time until it leaves ACTIVE or somebody requests its deletion.
What is asked for is the submission's count, less one for each VM that a caller deleted. A fleet's time begins when it was submitted
and ends with its cancellation, its lifetime or the end of its last VM; one that failed goes on while it has VMs.
"""

from typing import Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from service.queries.statistics import StatisticsPeriod
from service.queries.typed import typed


class FleetAvailability(Struct, frozen=True):
    """How much of its time in a period a fleet was complete. Times are in seconds."""

    submission_id: UUID
    name: str
    asked: int  #: VMs
    seconds: float  #: of the period that the fleet existed
    available_seconds: float  #: of these, with as many VMs up as were asked for
    starting_seconds: float  #: of these, before it was complete for the first time
    share: float  #: available_seconds / seconds


class TotalAvailability(Struct, frozen=True):
    """The same of all fleets together."""

    fleets: int
    seconds: float
    available_seconds: float
    starting_seconds: float
    share: float | None  #: None if there was no fleet


_ALIVE: Final = "v.created_at < :until AND (v.ended_at IS NULL OR v.ended_at > :since)"

# Most VMs became ready once and are up since, or were all through the period: their transitions need not be read.
_WALKED: Final = """
WITH scope AS (
    SELECT v.submission_id, v.vm_no, v.ready_at, v.deletion_requested_at,
           v.state = 'ACTIVE' AND v.state_since <= greatest(v.ready_at, :since) AS steady
    FROM vms v WHERE {alive} {of_v} {narrow}
), fleets AS (
    SELECT o.submission_id, o.name, o.count, greatest(o.created_at, :since) AS lower_at,
           least(:until, o.cancelled_at, o.expires_at,
                 CASE WHEN o.state <> 'open' AND NOT lives.alive THEN lives.ended_at END) AS upper_at,
           CASE WHEN o.state = 'ready' THEN o.ended_at END AS complete_at
    FROM (SELECT DISTINCT submission_id FROM scope) AS mine
    JOIN submissions o ON o.submission_id = mine.submission_id
    CROSS JOIN LATERAL (SELECT bool_or(x.ended_at IS NULL) AS alive, max(x.ended_at) AS ended_at
                        FROM vms x WHERE x.submission_id = mine.submission_id) AS lives
), up AS (
    SELECT submission_id, ready_at AS lower_at, coalesce(deletion_requested_at, 'infinity') AS upper_at
    FROM scope WHERE steady AND ready_at < :until
    UNION ALL
    SELECT s.submission_id, greatest(m.at, s.ready_at), least(m.upper_at, s.deletion_requested_at, 'infinity')
    FROM scope s
    CROSS JOIN LATERAL (SELECT t.to_state, t.at, lead(t.at) OVER (ORDER BY t.seq) AS upper_at
                        FROM transitions t
                        WHERE t.submission_id = s.submission_id AND t.vm_no = s.vm_no AND t.verdict = 'moved') AS m
    WHERE NOT s.steady AND s.ready_at < :until AND m.to_state = 'ACTIVE'
), within AS (
    SELECT f.submission_id, greatest(u.lower_at, f.lower_at) AS lower_at, least(u.upper_at, f.upper_at) AS upper_at
    FROM up u JOIN fleets f ON f.submission_id = u.submission_id
    WHERE least(u.upper_at, f.upper_at) > greatest(u.lower_at, f.lower_at)
), steps AS (
    SELECT submission_id, lower_at AS at, -count AS step FROM fleets
    UNION ALL SELECT submission_id, lower_at, 1 FROM within
    UNION ALL SELECT submission_id, upper_at, -1 FROM within
    UNION ALL
    SELECT f.submission_id, greatest(min(a.at), f.lower_at), 1
    FROM fleets f JOIN actions a ON a.submission_id = f.submission_id AND a.kind = 'delete'
    JOIN vms v ON v.submission_id = a.submission_id AND v.vm_no = a.vm_no AND v.replaced_by IS NULL
    WHERE a.at < f.upper_at GROUP BY f.submission_id, f.lower_at, a.vm_no
), walk AS (
    SELECT s.submission_id, lead(s.at, 1, f.upper_at) OVER steps_of_it - s.at AS held,
           sum(s.step) OVER (steps_of_it ROWS UNBOUNDED PRECEDING) AS over
    FROM steps s JOIN fleets f ON f.submission_id = s.submission_id
    WINDOW steps_of_it AS (PARTITION BY s.submission_id ORDER BY s.at)
), available AS (
    SELECT submission_id, coalesce(sum(held) FILTER (WHERE over >= 0), interval '0') AS held
    FROM walk GROUP BY submission_id
), measured AS (
    SELECT f.submission_id, f.name, f.count AS asked, extract(epoch FROM f.upper_at - f.lower_at)::float8 AS seconds,
           extract(epoch FROM a.held)::float8 AS available_seconds,
           greatest(0, extract(epoch FROM least(f.upper_at, f.complete_at) - f.lower_at))::float8 AS starting_seconds
    FROM fleets f JOIN available a ON a.submission_id = f.submission_id WHERE f.upper_at > f.lower_at
)
"""
_PAGE: Final = """
SELECT submission_id, name, asked, seconds, available_seconds, starting_seconds FROM measured ORDER BY submission_id
"""
_TOTAL: Final = """
SELECT count(*) AS fleets, coalesce(sum(seconds), 0) AS seconds, coalesce(sum(available_seconds), 0) AS available_seconds,
       coalesce(sum(starting_seconds), 0) AS starting_seconds FROM measured
"""
_IDS: Final = """
SELECT DISTINCT v.submission_id FROM vms v WHERE {alive} {of_v} {after} ORDER BY v.submission_id LIMIT :limit
"""


async def page(
    conn: AsyncConnection, period: StatisticsPeriod, *, after: UUID | None, limit: int
) -> tuple[list[FleetAvailability], UUID | None]:
    """A page of fleets that had VMs in the period, oldest first, and what the next one comes after; None if it is the last.

    A page may have fewer than `limit`: a fleet whose time was over before the period is left out.
    """
    further = "" if after is None else "AND v.submission_id > :after_id"
    sql = _IDS.format(alive=_ALIVE, of_v=period.of("v"), after=further)
    known = {**period.params, "limit": limit + 1} | ({} if after is None else {"after_id": after})
    ids = [row.submission_id for row in await conn.execute(typed(sql), known)]
    walked = _WALKED.format(alive=_ALIVE, of_v=period.of("v"), narrow="AND v.submission_id = ANY(:ids)")
    rows = await conn.execute(typed(walked + _PAGE), {**period.params, "ids": ids[:limit]})
    return [_fleet(row) for row in rows.mappings()], ids[limit - 1] if len(ids) > limit else None


async def total(conn: AsyncConnection, period: StatisticsPeriod) -> TotalAvailability:
    """The availability of all fleets of the period together: each counts as long as it existed."""
    walked = _WALKED.format(alive=_ALIVE, of_v=period.of("v"), narrow="")
    row = (await conn.execute(typed(walked + _TOTAL), period.params)).mappings().one()
    return TotalAvailability(row["fleets"], **_seconds(row), share=_share(row) if row["seconds"] else None)


def _fleet(row: RowMapping) -> FleetAvailability:
    return FleetAvailability(row["submission_id"], row["name"], row["asked"], **_seconds(row), share=_share(row))


def _seconds(row: RowMapping) -> dict[str, float]:
    return {name: round(row[name], 3) for name in ("seconds", "available_seconds", "starting_seconds")}


def _share(row: RowMapping) -> float:
    return round(float(row["available_seconds"] / row["seconds"]), 6)

"""Statistics of a period: how long VMs took, and what failed. Each statement finds its rows by an index on time.

Callbacks and availability have modules of their own.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from msgspec import Struct
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from service.queries.typed import typed
from service.storage.rows import from_rows

By = Literal["all", "flavor", "region", "environment", "hour", "day"]
#: The moments of a VM's first minutes that are measured, each from when the VM was asked for.
MOMENTS: Final = ("creating", "active", "ready")
#: The most reasons of failures that are listed.
MOST_REASONS: Final = 100


@dataclass(frozen=True, slots=True)
class StatisticsPeriod:
    """A period, its end not included, of the whole fleet or of one submission."""

    since: datetime
    until: datetime
    submission_id: UUID | None = None

    @property
    def params(self) -> dict[str, Any]:
        mine = {} if self.submission_id is None else {"submission_id": self.submission_id}
        return {"since": self.since, "until": self.until, **mine}

    def of(self, alias: str) -> str:
        """The condition that keeps to the submission, if there is one; an index narrows by it."""
        return "" if self.submission_id is None else f"AND {alias}.submission_id = :submission_id"


@dataclass(frozen=True, slots=True)
class Percentiles:
    """How many VMs came so far, and in how many seconds; None if none did."""

    count: int
    p50: float | None
    p90: float | None
    p99: float | None


class TimesToState(Struct, frozen=True):
    """How long VMs took from when they were asked for: until the provider had accepted them, until ACTIVE, until ready."""

    by: By
    key: str  #: such as a flavor; an hour of the day (00 to 23) or a day, both in UTC
    vms: int  #: asked for
    creating: Percentiles
    active: Percentiles
    ready: Percentiles


class Failure(Struct, frozen=True):
    """What failed in a period, why, and how often."""

    kind: str  #: vm, call, contract or callback
    what: str  #: the state of a VM, the operation of a call, what a contract lacks (each VM counts once), the kind of a dead letter
    reason: str
    count: int


# Imported VMs were made by others, who did not tell when they asked for them. Grouping sets take a third of the time of a row for each key.
_TIMES: Final = """
WITH asked AS (
    SELECT v.flavor, coalesce(v.region, 'none') AS region, v.environment,
           extract(hour FROM v.created_at AT TIME ZONE 'UTC')::int AS hour, (v.created_at AT TIME ZONE 'UTC')::date AS day,
           extract(epoch FROM greatest(v.bound_at - v.created_at, v.bound_at - v.bound_at))::float8 AS creating,
           extract(epoch FROM greatest(v.active_at - v.created_at, v.active_at - v.active_at))::float8 AS active,
           extract(epoch FROM greatest(v.ready_at - v.created_at, v.ready_at - v.ready_at))::float8 AS ready
    FROM vms v JOIN submissions o ON o.submission_id = v.submission_id
    WHERE v.created_at >= :since AND v.created_at < :until AND o.origin = 'created' {of_v}
), grouped AS (
    SELECT CASE 0 WHEN grouping(flavor) THEN 'flavor' WHEN grouping(region) THEN 'region' WHEN grouping(environment) THEN 'environment'
                  WHEN grouping(hour) THEN 'hour' WHEN grouping(day) THEN 'day' ELSE 'all' END AS by,
           coalesce(flavor, region, environment, to_char(hour, 'FM00'), to_char(day, 'YYYY-MM-DD'), 'all') AS key, count(*) AS vms, {percentiles}
    FROM asked GROUP BY GROUPING SETS ((), (flavor), (region), (environment), (hour), (day)) HAVING count(*) > 0
)
SELECT * FROM grouped
ORDER BY array_position(ARRAY['all', 'flavor', 'region', 'environment', 'hour', 'day'], by), key COLLATE "C"
"""
_PERCENTILES: Final = ", ".join(
    f"count({one}) AS {one}_count, percentile_cont(ARRAY[0.5, 0.9, 0.99]) WITHIN GROUP (ORDER BY {one}) AS {one}"
    for one in MOMENTS
)

_FAILURES: Final = """
SELECT kind, what, reason, count(*) AS count
FROM (
    SELECT 'vm' AS kind, t.to_state AS what,
           CASE WHEN t.to_state = 'REFUSED' THEN coalesce(v.reason, 'no reason on record')
                ELSE 'after ' || t.from_state END AS reason
    FROM transitions t JOIN vms v ON v.submission_id = t.submission_id AND v.vm_no = t.vm_no
    WHERE t.at >= :since AND t.at < :until AND t.verdict = 'moved' AND t.to_state IN ('ERROR', 'LOST', 'REFUSED') {of_t}
    UNION ALL
    SELECT 'call', c.operation, e.outcome || coalesce(' ' || e.status_code, '')
    FROM calls c JOIN call_ends e ON e.submission_id = c.submission_id AND e.call_id = c.call_id
    WHERE c.begun_at >= :since AND c.begun_at < :until AND e.outcome <> 'ok' {of_c}
    UNION ALL
    SELECT 'contract', shortfall, reason
    FROM (SELECT DISTINCT a.submission_id, a.vm_no, coalesce(a.shortfall, 'not assigned') AS shortfall, a.reason
          FROM assignments a WHERE a.at >= :since AND a.at < :until
          AND a.outcome IN ('on_demand', 'waiting', 'refused', 'given_up') {of_a}) AS each_vm_once
    UNION ALL
    SELECT 'callback', d.kind, 'dead letter'
    FROM dead_letters d WHERE d.received_at >= :since AND d.received_at < :until {of_d}
) AS failed
GROUP BY kind, what, reason
ORDER BY count(*) DESC, kind, what, reason COLLATE "C"
LIMIT :limit
"""


async def times(conn: AsyncConnection, period: StatisticsPeriod) -> list[TimesToState]:
    """How long the VMs took that were asked for in the period, as far as is known now: all of them, and by key."""
    sql = _TIMES.format(of_v=period.of("v"), percentiles=_PERCENTILES)
    return [
        TimesToState(row["by"], row["key"], row["vms"], *(_percentiles(row, one) for one in MOMENTS))
        for row in (await conn.execute(typed(sql), period.params)).mappings()
    ]


async def failures(conn: AsyncConnection, period: StatisticsPeriod) -> list[Failure]:
    """What failed in the period, the most frequent reasons first."""
    sql = _FAILURES.format(**{f"of_{alias}": period.of(alias) for alias in "tcad"})
    return await from_rows(Failure, await conn.execute(typed(sql), {**period.params, "limit": MOST_REASONS}))


def _percentiles(row: RowMapping, name: str) -> Percentiles:
    values = row[name] or (None, None, None)
    return Percentiles(row[f"{name}_count"], *(None if one is None else round(one, 3) for one in values))

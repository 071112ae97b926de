"""Which jobs have something to do: one statement for all of them, each part answered by an index on what is due."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.stuck import STUCK
from service.storage.submissions import CONCLUDABLE
from service.storage.tables import FREE, REFILLING, REPLACING


def _earliest(table: str, time: str, which: str = "true") -> str:
    """Whether the earliest `time` of the rows in `which` has come.

    Not EXISTS with `time <= :now`: a prepared statement is planned for any `now`, as if a third of all rows were due, so
    Postgres would go through the table until it meets one.
    """
    return f"""coalesce((SELECT {time} FROM {table} WHERE {time} IS NOT NULL AND {which} ORDER BY {time} LIMIT 1) <= :now,
                        false)"""  # noqa: S608  constants of ours


_SCHEDULED: Final = """
    NOT EXISTS (SELECT FROM scheduled_jobs WHERE job = '{job}' AND (due_at > :now
        OR (lease_token IS NOT NULL AND lease_until >= :now)))
"""
#: By job: whether work of it is due that has no health issue of its own when it waits for long.
_WORK: Final[Mapping[str, str]] = {
    "contract": _earliest("vms", "contract_due_at", f"desired_state = 'present' AND {FREE}"),
    "history": _earliest("vms", "history_due_at"),
    "orphan": " OR ".join(_earliest("orphans", "due_at", f"source = '{source}'") for source in ("list", "callback")),
    "refresh": _earliest("vms", "next_refresh_at", "provider_id IS NOT NULL"),
}
#: By job: whether it has something to do. A scheduled job without a row is due at once.
_DUE: Final[Mapping[str, str]] = {
    "apply": _earliest("inbox", "due_at"),
    "create": _earliest("creations", "due_at", "state = 'due'"),
    "delete": _earliest("vms", "delete_due_at", FREE),
    "contract": f"""
        {_WORK["contract"]}
        OR EXISTS (SELECT FROM vms WHERE {REPLACING} AND contract_due_at IS NULL)
        OR {_SCHEDULED.format(job="contract drift")}
    """,
    "history": _WORK["history"],
    "orphan": _WORK["orphan"],
    "refresh": f"""
        {_WORK["refresh"]}
        OR {_earliest("creations", "due_at", "state = 'unconfirmed'")}
        OR {_SCHEDULED.format(job="resync")}
    """,
    "rescue": f"""
        {_earliest("creations", "due_at", "state = 'calling'")}
        OR {_earliest("creations", "deadline_at", "state = 'due'")}
        OR {_earliest("submissions", "withdraw_due_at")}
        OR {_earliest("submissions", "expires_at", "cancelled_at IS NULL")}
        OR {_earliest("submissions", "expiry_notice_at")}
        OR {_earliest("submissions", "limit_due_at")}
        OR (SELECT true FROM submissions WHERE repair_due_at <= :now AND cancelled_at IS NULL
            ORDER BY repair_due_at LIMIT 1) IS NOT NULL
        OR EXISTS (SELECT FROM vms WHERE {REFILLING} AND ended_at IS NOT NULL)
        OR EXISTS (SELECT FROM submissions WHERE {CONCLUDABLE})
        OR EXISTS (SELECT FROM submissions WHERE state = 'open' AND EXISTS ({STUCK}))
        OR {_SCHEDULED.format(job="upkeep")}
    """,  # noqa: S608  constants of ours
    "retention": _SCHEDULED.format(job="retention"),
    "notify": f"EXISTS (SELECT FROM notices) AND {_SCHEDULED.format(job='notify')}",
    "deliver": _earliest("message_lanes", "due_at", FREE),
    "prices": _SCHEDULED.format(job="prices"),
    "seal": _SCHEDULED.format(job="seal"),
    "sample": _SCHEDULED.format(job="sample"),
}
_QUERY, _WAITING = (
    text("SELECT " + ", ".join(f"({condition}) AS {job}" for job, condition in by_job.items()))
    for by_job in (_DUE, _WORK)
)
JOBS: Final = frozenset(_DUE)


async def due_jobs(conn: AsyncConnection, now: datetime) -> set[str]:
    """The jobs that have something to do at `now`, by the names that `worker/runner.py` gives them.

    A job may still find nothing that it can do: the rate limit may be reached, or a row locked.
    """
    row = (await conn.execute(_QUERY, {"now": now, "limit": 1})).mappings().one()
    return {job for job, due in row.items() if due}


async def waiting_jobs(conn: AsyncConnection, since: datetime) -> list[str]:
    """The jobs with work that has been due since before `since`: no call was free for it, or it fails again and again."""
    row = (await conn.execute(_WAITING, {"now": since})).mappings().one()
    return sorted(job for job, waits in row.items() if waits)

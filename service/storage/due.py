"""Which jobs have something to do: one statement for all of them, each part answered by an index on what is due."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.repairs import REPAIRS_DUE
from service.storage.stuck import STUCK
from service.storage.submissions import CONCLUDABLE

_FREE: Final = "(lease_token IS NULL OR lease_until < :now)"
_SCHEDULED: Final = """
    NOT EXISTS (SELECT FROM scheduled_jobs WHERE job = '{job}' AND (due_at > :now
        OR (lease_token IS NOT NULL AND lease_until >= :now)))
"""
#: By job: whether it has something to do. A scheduled job without a row is due at once.
_DUE: Final[Mapping[str, str]] = {
    "apply": "EXISTS (SELECT FROM inbox WHERE due_at <= :now)",
    "create": "EXISTS (SELECT FROM creations WHERE state = 'due' AND due_at <= :now)",
    "delete": f"EXISTS (SELECT FROM vms WHERE delete_due_at <= :now AND {_FREE})",
    "contract": f"EXISTS (SELECT FROM vms WHERE contract_due_at <= :now AND desired_state = 'present' AND {_FREE})",
    "history": "EXISTS (SELECT FROM vms WHERE history_due_at <= :now)",
    "orphan": "EXISTS (SELECT FROM orphans WHERE due_at <= :now)",
    "refresh": f"""
        EXISTS (SELECT FROM vms WHERE next_refresh_at <= :now AND provider_id IS NOT NULL)
        OR EXISTS (SELECT FROM creations WHERE state = 'unconfirmed' AND due_at <= :now)
        OR {_SCHEDULED.format(job="resync")}
    """,  # noqa: S608  constants of ours
    "rescue": f"""
        EXISTS (SELECT FROM creations WHERE state = 'calling' AND due_at <= :now)
        OR EXISTS (SELECT FROM creations JOIN submissions USING (submission_id)
                   WHERE creations.state = 'due' AND creations.due_at IS NOT NULL
                         AND coalesce(creations.deadline_at, submissions.deadline_at) < :now)
        OR EXISTS (SELECT FROM submissions WHERE withdraw_due_at <= :now)
        OR EXISTS (SELECT FROM submissions WHERE expires_at <= :now AND cancelled_at IS NULL)
        OR EXISTS (SELECT FROM submissions WHERE expiry_notice_at <= :now)
        OR EXISTS (SELECT FROM submissions WHERE {REPAIRS_DUE})
        OR EXISTS (SELECT FROM submissions WHERE {CONCLUDABLE})
        OR EXISTS (SELECT FROM submissions WHERE state = 'open' AND EXISTS ({STUCK}))
        OR {_SCHEDULED.format(job="upkeep")}
    """,  # noqa: S608  constants of ours
    "retention": _SCHEDULED.format(job="retention"),
    "prices": _SCHEDULED.format(job="prices"),
}
_QUERY: Final = text("SELECT " + ", ".join(f"({condition}) AS {job}" for job, condition in _DUE.items()))
JOBS: Final = frozenset(_DUE)


async def due_jobs(conn: AsyncConnection, now: datetime) -> set[str]:
    """The jobs that have something to do at `now`, by the names that `worker/runner.py` gives them.

    A job may still find nothing that it can do: the rate limit may be reached, or a row locked.
    """
    row = (await conn.execute(_QUERY, {"now": now, "limit": 1})).mappings().one()
    return {job for job, due in row.items() if due}

"""Raises and resolves health issues about what takes too long, and resolves outages that other daemons saw end."""

from collections.abc import Sequence
from datetime import timedelta

from service.operations.provider_calls import resolve_outage
from service.queries import overdue
from service.runtime.runtime import Runtime
from service.storage import circuits, due, limited, repairs, tokens
from service.storage.engine import begin

_OWNER = "health"
#: How many overdue rows an issue names.
_NAMED = 3


async def run_once(rt: Runtime) -> int:
    """Raise and resolve the issues. Returns 0: there is never more to do at once."""
    now, settings = rt.clock.now(), rt.settings
    async with begin(rt.engine) as conn:
        deletions = await overdue.deletions(
            conn, before=now - timedelta(seconds=settings.deletion_overdue_seconds), limit=_NAMED + 1
        )
        creations = await overdue.unconfirmed(
            conn, before=now - timedelta(seconds=settings.creation_overdue_seconds), limit=_NAMED + 1
        )
        stopped = await repairs.stopped(conn, limit=_NAMED + 1)
        over = await limited.issues(conn, limit=_NAMED + 1)
        expiring = await tokens.expiring(conn, now=now, limit=_NAMED + 1)
        waiting_since = await overdue.inbox_due_since(conn)
        waiting = await due.waiting_jobs(conn, now - timedelta(seconds=settings.job_stalled_seconds))
        is_open = await circuits.read(conn, settings.rate_limit_scope) if rt.open_circuits else {}
    _report(rt, "deletion overdue", [_deletion(one) for one in deletions])
    _report(
        rt, "crash loop", [f"maintain of {one} stopped: replacements keep failing" for one in stopped], advisory=True
    )
    _report(rt, "creation unconfirmed", [_creation(one) for one in creations])
    _report(rt, "money limit", over, advisory=True)
    _report(
        rt, "token expires", [f"{one.name} at {one.expires_at:%Y-%m-%d %H:%M:%SZ}" for one in expiring], advisory=True
    )
    behind = now - waiting_since if waiting_since is not None else timedelta()
    late = behind > timedelta(seconds=settings.inbox_overdue_seconds)
    _report(rt, "inbox", [f"callbacks wait to be applied since {waiting_since:%Y-%m-%d %H:%M:%SZ}"] if late else [])
    for_long = f"for more than {settings.job_stalled_seconds:g} s: the rate limit leaves no calls for it, or it fails"
    _report(rt, "work waits", [f"work of the job {job} waits {for_long}" for job in waiting], advisory=True)
    for kind in rt.open_circuits - is_open.keys():
        resolve_outage(rt, kind)
    return 0


def _report(rt: Runtime, issue: str, found: Sequence[str], *, advisory: bool = False) -> None:
    if not found:
        rt.health.resolve(issue, owner=_OWNER)
        return
    more = ["and more"] if len(found) > _NAMED else []
    rt.health.report(issue, "; ".join([*found[:_NAMED], *more]), owner=_OWNER, advisory=advisory)


def _deletion(one: overdue.OverdueDeletion) -> str:
    provider_id = f" (provider id {one.provider_id})" if one.provider_id is not None else ""
    reason = f": {one.reason}" if one.reason else ""
    return f"VM {one.vm_no} of {one.submission_id}{provider_id}, since {one.deletion_requested_at:%Y-%m-%d %H:%M:%SZ}{reason}"


def _creation(one: overdue.OverdueCreation) -> str:
    reason = f": {one.reason}" if one.reason else ""
    return f"{one.name} (submission {one.submission_id}), since {one.unconfirmed_since:%Y-%m-%d %H:%M:%SZ}{reason}"

"""What is done with a record that went back in time: nothing is sent before the provider was asked for its VMs."""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.storage import creations, record_origin, scheduled_jobs, vms
from service.storage.submissions import Submission

_WHY: Final = "the database was restored, or failed over: VMs may have been made that the record does not show"
_RESYNC: Final = "resync"
#: For how many lookup windows VMs that match no record are given the places of VMs that are still to be made, at most.
_WINDOWS: Final = 10
#: How long what is topped up is deferred at a time, while such VMs are matched.
_DEFERRED: Final = timedelta(seconds=5)


async def look_first_if_restored(rt: Runtime, conn: AsyncConnection) -> bool:
    """Before creations are claimed, in the same transaction: make all unsent ones unconfirmed if the record is another's.

    Returns whether any was, or was deferred. A creation that the record shows as due may have been sent in the history that is lost.
    What the lookups leave is topped up only when the submission's VMs at the provider are matched: the lost history may have
    done that, too, under other numbers.
    """
    now, window = rt.clock.now(), _window(rt)
    if not await record_origin.is_same(conn) and await record_origin.note(conn):
        unsent = await creations.make_all_unconfirmed(conn, now=now, until=now + window, reason=_WHY)
        await record_origin.mark_uncertain(conn, now=now)
        await scheduled_jobs.bring_forward(conn, _RESYNC, now=now)
        logger().warning(
            "the record went back in time", action="create", outcome="deferred", creations=unsent, why=_WHY
        )
        return True
    since = await _uncertain_since(rt, conn)
    if since is None:
        return False
    early = now < since + window
    deferred = await creations.defer_topped_up(conn, before=since, now=now, until=now + _DEFERRED, all_=early)
    return deferred > 0


async def is_uncertain(rt: Runtime, conn: AsyncConnection, submission: Submission | None) -> bool:
    """Whether VMs that a submission still has to make may have been made in a history that the record has lost."""
    since = await _uncertain_since(rt, conn)
    if since is None or submission is None or submission.origin != "created" or submission.created_at >= since:
        return False
    return await vms.has_requested(conn, submission.submission_id)


async def _uncertain_since(rt: Runtime, conn: AsyncConnection) -> datetime | None:
    """When it was noticed that the record may have gone back in time; None if never, or if that is long ago (`_WINDOWS`)."""
    since = await record_origin.uncertain_since(conn)
    return since if since is not None and rt.clock.now() < since + _WINDOWS * _window(rt) else None


def _window(rt: Runtime) -> timedelta:
    return timedelta(seconds=rt.settings.lookup_window_seconds)

"""What is done with a record that went back in time: nothing is sent before the provider was asked for its VMs."""

from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.storage import creations, record_origin, scheduled_jobs

_WHY: Final = "the database was restored, or failed over: VMs may have been made that the record does not show"
_RESYNC: Final = "resync"


async def look_first_if_restored(rt: Runtime, conn: AsyncConnection) -> bool:
    """Before creations are claimed, in the same transaction: make all unsent ones unconfirmed if the record is another's.

    Returns whether it did. A creation that the record shows as due may have been sent in the history that is lost.
    """
    if await record_origin.is_same(conn) or not await record_origin.note(conn):
        return False
    now = rt.clock.now()
    window = timedelta(seconds=rt.settings.lookup_window_seconds)
    unsent = await creations.make_all_unconfirmed(conn, now=now, until=now + window, reason=_WHY)
    await scheduled_jobs.bring_forward(conn, _RESYNC, now=now)
    logger().warning("the record went back in time", action="create", outcome="deferred", creations=unsent, why=_WHY)
    return True

"""The read replica: whether it can be read from, and how far it is behind the primary."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.errors import StorageError, StorageUnavailable
from service.storage import replication
from service.storage.engine import begin

if TYPE_CHECKING:
    from service.runtime.runtime import Runtime

_ISSUE: Final = "read replica"
_TIMEOUT: Final = 5.0
_PROBE_SECONDS: Final = 5.0
#: A replica that is further behind is not read from.
MOST_LAG_SECONDS: Final = 300.0


@dataclass
class Replica:
    """A replica, and what the last probe found. Until the first probe it is not used."""

    engine: AsyncEngine
    usable: bool = False
    lag: float = 0.0  #: seconds


@asynccontextmanager
async def reading(rt: "Runtime") -> AsyncIterator[tuple[AsyncConnection, float | None]]:
    """A connection to read from, and how many seconds it is behind: to the replica, or to the primary and None.

    A replica that fails is not used again until a probe has found it well.
    """
    replica = rt.replica if rt.replica is not None and rt.replica.usable else None
    async with AsyncExitStack() as stack:
        conn = None
        if replica is not None:
            try:
                conn = await stack.enter_async_context(_begun(replica))
            except StorageUnavailable:
                replica = None
        if conn is None:
            conn = await stack.enter_async_context(begin(rt.engine))
        yield conn, replica.lag if replica is not None else None


@asynccontextmanager
async def _begun(replica: Replica) -> AsyncIterator[AsyncConnection]:
    try:
        async with begin(replica.engine) as conn:
            yield conn
    except StorageUnavailable:
        replica.usable = False
        raise


async def watch(rt: "Runtime") -> None:
    """Probe the replica from time to time."""
    while True:
        await probe(rt)
        await asyncio.sleep(_PROBE_SECONDS)


async def probe(rt: "Runtime") -> None:
    """Measure the replica's lag, and report or resolve its health issue. An issue is advisory: the primary is read instead."""
    replica = rt.replica
    if replica is None:
        return
    try:
        async with asyncio.timeout(_TIMEOUT):
            replica.lag, wrong = await measure(rt.engine, replica.engine)
    except (StorageError, TimeoutError) as error:
        wrong = f"it does not answer: {str(error) or 'timeout'}"
    replica.usable = wrong is None
    rt.metrics.replica_lag.set(replica.lag if replica.usable else float("nan"))
    if wrong is None:
        rt.health.resolve(_ISSUE)
    else:
        rt.health.report(_ISSUE, f"the primary is read instead of the replica: {wrong}", advisory=True)


async def measure(primary: AsyncEngine, replica: AsyncEngine) -> tuple[float, str | None]:
    """The lag in seconds, and why the replica cannot be used. Raises `StorageUnavailable` if it does not answer."""
    written = None
    try:
        async with begin(primary) as conn:
            written = await replication.written(conn)
    except StorageUnavailable:
        pass  # the replica can be read while the primary is away
    async with begin(replica) as conn:
        found = await replication.state(conn, written)
    if written is not None and found.system != written.system:
        return 0.0, "it is a replica of another server"
    if not found.is_standby:
        return 0.0, "it is no standby; name one, or remove ROLLCALL_READ_DATABASE_URL"
    if found.lag > MOST_LAG_SECONDS:
        return found.lag, f"it is {found.lag:.0f} s behind"
    return found.lag, None

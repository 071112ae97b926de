"""Builds the callback listener, starts it, and stops it without dropping a request."""

import asyncio
import resource
from contextlib import suppress
from typing import Final

from service.errors import StorageError
from service.receiver.bounds import Bounds
from service.receiver.error_boundary import log
from service.receiver.event_factory import EventFactory
from service.receiver.intake import Intake
from service.receiver.limits import ConnectionLimits
from service.receiver.server import CallbackServer
from service.receiver.spool import PostgresOrSpool, Spool
from service.receiver.spool_disk import DiskStorage
from service.receiver.spool_storage import SpoolStorage
from service.runtime.runtime import Runtime
from service.runtime.sockets import create_server
from service.storage.event_writer import EventWriter

#: File descriptors for the rest of the process: up to 128 for the operator listener, the others for pools and files.
_DESCRIPTORS_OF_OTHERS: Final = 256
#: Seconds that a stopping listener waits for running requests.
_GRACE: Final = 10.0


class Receiver:
    """The callback listener of one process. Start it once and close it once, in the same event loop."""

    def __init__(self, runtime: Runtime) -> None:
        settings = runtime.settings
        url = runtime.engine.url
        # A connection for each, so that new callbacks and the draining of a spool do not wait for each other.
        writer, drains = EventWriter(url), [(EventWriter(url), storage) for storage in _storages(runtime)]
        self._writers = [writer, *(one for one, _ in drains)]
        self._spools = [Spool(runtime, one, storage) for one, storage in drains]
        self._spool = self._spools[0]
        store = PostgresOrSpool(writer, self._spool, within=settings.spool_after_seconds)
        self._intake = Intake(store, most_waiting=settings.intake_max_waiting, metrics=runtime.metrics)
        self._callbacks = CallbackServer(
            intake=self._intake,
            arrivals=EventFactory(runtime.clock.now, runtime.rng),
            bounds=Bounds(
                most_connections=_affordable(settings.callback_max_connections),
                most_bytes=settings.intake_max_bytes,
            ),
            limits=ConnectionLimits(
                most_body=settings.callback_max_bytes,
                head_seconds=settings.head_timeout_seconds,
                body_seconds=settings.body_timeout_seconds,
                idle_seconds=settings.idle_timeout_seconds,
            ),
            secrets=runtime.callback_secrets,
            metrics=runtime.metrics,
        )
        self._patience = settings.spool_after_seconds
        self._pause = min(1.0, settings.head_timeout_seconds / 4)
        self._server: asyncio.Server | None = None
        self._closer: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port. Raises OSError if the address is not free.

        While Postgres is not there yet, callbacks go to the spool.
        """
        for spool in self._spools:
            await spool.start()
        # Connecting takes as long as dozens of commits, so the first callbacks should not wait for it.
        with suppress(StorageError):
            await self._writers[0].store((), within=self._patience)
        self._intake.start()
        self._closer = asyncio.create_task(self._close_overdue(), name="callback deadlines")
        self._server = await create_server(self._callbacks, host, port)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Accept nothing new, answer running requests, write what waits, and release everything."""
        if self._server is not None:
            self._server.close()
        await self._callbacks.close(_GRACE)
        if self._closer is not None:
            self._closer.cancel()
            await asyncio.gather(self._closer, return_exceptions=True)
        await self._intake.close()
        for spool in self._spools:
            await spool.close()
        for writer in self._writers:
            await writer.close()

    async def _close_overdue(self) -> None:
        """Close connections that take too long. One task for all of them is cheaper than a timer for each."""
        while True:
            await asyncio.sleep(self._pause)
            self._callbacks.close_overdue()


def _storages(runtime: Runtime) -> list[SpoolStorage]:
    """That of new callbacks first; then the disk, if they were spooled to it before they went to a stream."""
    health, settings = runtime.health, runtime.settings
    if (url := settings.spool) is None:
        return [DiskStorage(health, settings)]
    from service.receiver.spool_stream import StreamStorage  # noqa: PLC0415  its library is an extra

    return [StreamStorage(health, settings, url), DiskStorage(health, settings, only_drains=True)]


def _affordable(connections: int) -> int:
    """`connections`, or fewer if the limit of open files allows fewer; the flood bound is twice that."""
    soft, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != allowed:
        with suppress(OSError, ValueError):  # then the soft limit stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return connections
    most = max(1, min(connections, (allowed - _DESCRIPTORS_OF_OTHERS) // 2))
    if most < connections:
        log.warning("receiver.connections", wanted=connections, allowed=most, reason="the limit of open files")
    return most

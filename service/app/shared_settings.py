"""Daemons on one database must share some settings: each compares its own with the record, at start and while it runs."""

import asyncio
import os
import socket
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.config import Settings
from service.core.shared_settings import SharedSettings, differences, fingerprint
from service.errors import ConfigError, FieldError, StorageError
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.storage import daemons
from service.storage.daemons import Daemon
from service.storage.engine import transact

_ISSUE: Final = "shared settings"
_EVERY_SECONDS: Final = 10.0
#: A daemon that has not been seen for longer was killed.
_GONE: Final = timedelta(seconds=60)
_REMEMBERED: Final = timedelta(days=7)
_STOP_SECONDS: Final = 2.0


def shared_settings(settings: Settings, secrets: tuple[bytes, ...]) -> SharedSettings:
    return SharedSettings([fingerprint(one) for one in secrets], settings.public_url, settings.infrahub_url)


def conflicts(ours: SharedSettings, known: list[Daemon], now: datetime, *, starting: bool) -> list[FieldError]:
    """What of our settings differs from those of running daemons, each once; at a start also from the one seen last."""
    found: dict[str, FieldError] = {}
    for place, one in enumerate(known):
        running = one.stopped_at is None and abs(now - one.seen_at) < _GONE
        if running or (starting and place == 0):
            name = (
                f"the daemon {one.name}, {'seen' if running else 'which stopped'} at {one.seen_at:%Y-%m-%d %H:%M:%SZ}"
            )
            for error in differences(ours, one.shared, name, running=running):
                found.setdefault(error.field, error)
    return list(found.values())


class Membership:
    """A daemon's place among those on its database. `join` before anything is called or received."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._id: UUID = rt.uuid()
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._ours = shared_settings(rt.settings, rt.callback_secrets)

    async def join(self, *, accept: bool) -> None:
        """Join the daemons. Raises `ConfigError` if settings differ from theirs, unless told to `accept` that."""
        differing = await transact(self._rt.engine, lambda conn: self._join(conn, accept=accept))
        if differing:
            logger().warning("settings differ from those in the record", action="start", why=_text(differing))

    async def _join(self, conn: AsyncConnection, *, accept: bool) -> list[FieldError]:
        await daemons.lock(conn)
        found = await self._differing(conn, starting=True)
        if found and not accept:
            raise ConfigError(found)
        await daemons.forget(conn, before=self._rt.clock.now() - _REMEMBERED)
        await self._save(conn)
        return found

    async def watch(self) -> None:
        """Say every few seconds that we run, and report daemons with other settings. Runs until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            with suppress(StorageError):
                await self.look()

    async def look(self) -> None:
        found = await transact(self._rt.engine, self._save_and_compare)
        if found:
            self._rt.health.report(_ISSUE, _text(found), owner=_ISSUE, severity="error")
        else:
            self._rt.health.resolve(_ISSUE, owner=_ISSUE)

    async def leave(self) -> None:
        """Say that we have stopped, if the database can be told within a moment."""
        with suppress(StorageError, TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await transact(
                    self._rt.engine, lambda conn: daemons.stop(conn, self._id, now=self._rt.clock.now()), tries=1
                )

    async def _save_and_compare(self, conn: AsyncConnection) -> list[FieldError]:
        await self._save(conn)
        return await self._differing(conn, starting=False)

    async def _save(self, conn: AsyncConnection) -> None:
        await daemons.save(conn, daemons.daemon(self._id, self._name, self._ours, self._rt.clock.now()))

    async def _differing(self, conn: AsyncConnection, *, starting: bool) -> list[FieldError]:
        others = [one for one in await daemons.latest(conn) if one.daemon_id != self._id]
        return conflicts(self._ours, others, self._rt.clock.now(), starting=starting)


def _text(found: list[FieldError]) -> str:
    return "; ".join(f"{one.field} {one.message}" for one in found)

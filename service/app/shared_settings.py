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
from service.core.shared_settings import SharedSettings, differences, fingerprint, rule_differences
from service.errors import ConfigError, FieldError, StorageError
from service.notify_rules import NotifyTarget, with_built_in
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.storage import daemons
from service.storage.daemons import Daemon
from service.storage.engine import transact

_ISSUE: Final = "shared settings"
_RULES: Final = "notification rules"
_EVERY_SECONDS: Final = 10.0
#: A daemon that has not been seen for longer was killed.
_GONE: Final = timedelta(seconds=60)
_REMEMBERED: Final = timedelta(days=7)
_STOP_SECONDS: Final = 2.0


def shared_settings(settings: Settings, secrets: tuple[bytes, ...], *, tells: bool = False) -> SharedSettings:
    """What a daemon compares. Only one that `tells`, the worker, has rules of notifications."""
    rules = {one.name: _rule(one) for one in with_built_in(settings.notify)} if tells else None
    return SharedSettings([fingerprint(one) for one in secrets], settings.public_url, settings.infrahub_url, rules)


def _rule(target: NotifyTarget) -> str:
    return " ".join([target.shown, ",".join(sorted(target.events)), ",".join(sorted(target.labels))])


def rule_conflicts(ours: SharedSettings, known: list[Daemon], now: datetime) -> list[FieldError]:
    """How the rules of notifications differ from those of running daemons. No reason not to start: a change comes one by one."""
    running = [one for one in known if _is_running(one, now)]
    return [error for one in running for error in rule_differences(ours, one.shared, f"the daemon {one.name}")][:1]


def conflicts(ours: SharedSettings, known: list[Daemon], now: datetime, *, starting: bool) -> list[FieldError]:
    """What of our settings differs from those of running daemons, each once; at a start also from the one seen last."""
    found: dict[str, FieldError] = {}
    for place, one in enumerate(known):
        running = _is_running(one, now)
        if running or (starting and place == 0):
            name = (
                f"the daemon {one.name}, {'seen' if running else 'which stopped'} at {one.seen_at:%Y-%m-%d %H:%M:%SZ}"
            )
            for error in differences(ours, one.shared, name, running=running):
                found.setdefault(error.field, error)
    return list(found.values())


def _is_running(one: Daemon, now: datetime) -> bool:
    return one.stopped_at is None and abs(now - one.seen_at) < _GONE


class Membership:
    """A daemon's place among those on its database. `join` before anything is called or received."""

    def __init__(self, rt: Runtime, *, tells: bool = False) -> None:
        self._rt = rt
        self._id: UUID = rt.uuid()
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._ours = shared_settings(rt.settings, rt.callback_secrets, tells=tells)

    async def join(self, *, accept: bool) -> None:
        """Join the daemons. Raises `ConfigError` if settings differ from theirs, unless told to `accept` that."""
        differing = await transact(self._rt.engine, lambda conn: self._join(conn, accept=accept))
        if differing:
            logger().warning("settings differ from those in the record", action="start", why=_text(differing))

    async def _join(self, conn: AsyncConnection, *, accept: bool) -> list[FieldError]:
        await daemons.lock(conn)
        found = conflicts(self._ours, await self._others(conn), self._rt.clock.now(), starting=True)
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
        found, rules = await transact(self._rt.engine, self._save_and_compare)
        if found:
            self._rt.health.report(_ISSUE, _text(found), owner=_ISSUE, severity="error")
        else:
            self._rt.health.resolve(_ISSUE, owner=_ISSUE)
        if rules:
            self._rt.health.report(_RULES, _text(rules), owner=_ISSUE, advisory=True)
        else:
            self._rt.health.resolve(_RULES, owner=_ISSUE)

    async def leave(self) -> None:
        """Say that we have stopped, if the database can be told within a moment."""
        with suppress(StorageError, TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await transact(
                    self._rt.engine, lambda conn: daemons.stop(conn, self._id, now=self._rt.clock.now()), tries=1
                )

    async def _save_and_compare(self, conn: AsyncConnection) -> tuple[list[FieldError], list[FieldError]]:
        await self._save(conn)
        others, now = await self._others(conn), self._rt.clock.now()
        return conflicts(self._ours, others, now, starting=False), rule_conflicts(self._ours, others, now)

    async def _save(self, conn: AsyncConnection) -> None:
        await daemons.save(conn, daemons.daemon(self._id, self._name, self._ours, self._rt.clock.now()))

    async def _others(self, conn: AsyncConnection) -> list[Daemon]:
        return [one for one in await daemons.latest(conn) if one.daemon_id != self._id]


def _text(found: list[FieldError]) -> str:
    return "; ".join(f"{one.field} {one.message}" for one in found)

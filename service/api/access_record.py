"""What goes on record about access: when a token was used, who exported or read with an audit token, who was refused.

Rows of `actions` are written at the first such request of an hour, and never again: one per caller, route and hour.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Final, Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.api.callers import Caller
from service.core.ids import FLEET, uuid7
from service.errors import StorageError
from service.runtime.runtime import Runtime
from service.storage import actions, tokens
from service.storage.actions import Action
from service.storage.engine import transact

Kind = Literal["export", "read", "refused"]

#: How often the last use of a token is written.
USE_WRITTEN_EVERY: Final = timedelta(minutes=1)
#: Refusals on record in an hour, of one process: callers from outside must not fill the database.
MOST_REFUSALS: Final = 100


class AccessRecord:
    """What one process has written in this hour and minute, and the writes under way."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._hour: datetime | None = None
        self._written: set[UUID] = set()
        self._refusals = 0
        self._used: dict[UUID, datetime] = {}
        self._writing: set[asyncio.Task[None]] = set()

    async def note(self, kind: Kind, caller: str, detail: str) -> None:
        """Write down an export or a read, if it is the first of this hour. Raises `StorageError`."""
        now = self._rt.clock.now()
        one = _action(kind, caller, detail, now)
        if not self._is_written(one):
            await transact(self._rt.engine, partial(actions.insert_once, noted=one))
            self._written.add(one.action_id)

    def note_refused(self, caller: str, detail: str) -> None:
        """Write down a refusal, in the background: whoever is refused waits for nothing of ours."""
        one = _action("refused", caller, detail, self._rt.clock.now())
        if self._is_written(one):
            return
        if self._refusals >= MOST_REFUSALS:
            one = _action("refused", "unknown", "more than are listed one by one", one.at)
            if one.action_id in self._written:
                return
        self._refusals += 1
        self._written.add(one.action_id)
        self._start(partial(actions.insert_once, noted=one), again=one.action_id)

    def note_use(self, caller: Caller) -> None:
        """Write down that a token is in use, at most once a minute, in the background."""
        now = self._rt.clock.now()
        if caller.token_id is None:
            return
        last = self._used.get(caller.token_id, caller.last_used_at)
        if last is None or not timedelta() <= now - last < USE_WRITTEN_EVERY:
            self._used[caller.token_id] = now
            self._start(partial(tokens.note_use, token_id=caller.token_id, now=now))

    async def close(self) -> None:
        """Finish what is being written."""
        await asyncio.gather(*self._writing)

    def _is_written(self, one: Action) -> bool:
        hour = _hour_of(one.at)
        if hour != self._hour:
            self._hour, self._refusals = hour, 0
            self._written.clear()
        return one.action_id in self._written

    def _start(self, work: Callable[[AsyncConnection], Awaitable[None]], *, again: UUID | None = None) -> None:
        task = asyncio.create_task(self._write(work, again))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(self, work: Callable[[AsyncConnection], Awaitable[None]], again: UUID | None) -> None:
        try:
            await transact(self._rt.engine, work)
        except StorageError:  # written at the next such request
            self._written -= {again}


def _action(kind: Kind, caller: str, detail: str, now: datetime) -> Action:
    """An action whose id is the same for the whole hour and for every daemon."""
    digest = sha256(f"{kind}\n{caller}\n{detail}".encode("utf-8", "surrogateescape")).digest()
    id_ = uuid7(_hour_of(now), digest)
    return Action(submission_id=FLEET, action_id=id_, kind=kind, caller=caller, at=now, detail=detail)


def _hour_of(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)

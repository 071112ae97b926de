"""Reads of the provider that a request waits for: a few seconds at most, recorded as any call, and shared by requests."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

from service.errors import ProviderError, Refused
from service.operations.provider_calls import call_provider, credentials_rejected
from service.runtime.runtime import Runtime

Value = TypeVar("Value")

#: Seconds that a request waits. What it reads is only advice: the provider says the same later.
TIMEOUT: Final = 5.0
#: How long a result is used for other requests.
_FRESH: Final = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Reading(Generic[Value]):
    """What a read brought: a value, or None if the provider has no such thing."""

    value: Value | None


class ProviderReads:
    """The running reads and the latest results of one daemon, by key."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._running: dict[str, asyncio.Task[Reading[Any] | None]] = {}
        self._latest: dict[str, tuple[datetime, Reading[Any]]] = {}

    async def get(self, key: str, label: str, make: Callable[[], Awaitable[Value]]) -> Reading[Value] | None:
        """Read something, or take a result of the last seconds. None if it cannot be read in time.

        `label` is the kind of call in the record, `key` names what is read.
        """
        self._forget_old()
        if key in self._latest:
            return self._latest[key][1]
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(self._read(key, label, make))
            task.add_done_callback(lambda _: self._running.pop(key, None))
        # Not cancelled after the timeout: its end is recorded, and it serves the next request.
        await asyncio.wait({task}, timeout=TIMEOUT)
        return task.result() if task.done() else None

    async def close(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _read(self, key: str, label: str, make: Callable[[], Awaitable[Value]]) -> Reading[Value] | None:
        if credentials_rejected(self._rt):
            return None
        result = await call_provider(self._rt, "read", label, make)
        if result is None or (result.error is not None and not _is_absent(result.error)):
            return None
        reading = Reading(result.value)
        self._latest[key] = (self._rt.clock.now(), reading)
        return reading

    def _forget_old(self) -> None:
        now = self._rt.clock.now()
        self._latest = {key: one for key, one in self._latest.items() if one[0] <= now < one[0] + _FRESH}


def _is_absent(error: ProviderError) -> bool:
    return isinstance(error, Refused) and error.reason == "not_found"

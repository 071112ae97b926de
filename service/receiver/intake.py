"""Group commit: callbacks that wait are written together, and each is answered when it is durable. No HTTP, no files.

There is no timer. A group is whatever has gathered while the last one was being written, so a lone callback is
written at once and a storm in large groups; either way the disk is never idle while something waits.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from service.errors import Overloaded, ServiceError
from service.receiver import responses
from service.receiver.error_boundary import ErrorBoundary
from service.receiver.responses import Response
from service.runtime.metrics import Metrics
from service.storage.events import Event

#: The most that one commit writes. Larger groups gain nothing and keep the first of them waiting.
GROUP_EVENTS: Final = 1000
GROUP_BYTES: Final = 8 * 2**20


class Waiting(Protocol):
    """A callback that waits to be kept. It is settled exactly once."""

    @property
    def event(self) -> Event: ...

    @property
    def size(self) -> int: ...

    def answer_with(self, answer: Response, /) -> None: ...


class EventStore(Protocol):
    """Where groups are kept."""

    async def store(self, group: Sequence[Event]) -> None:
        """Keep a group; on return it is durable. Raises `ServiceError` where it is not."""


class Intake:
    """Takes callbacks from any number of connections, and one task writes them in the order in which they came.

    One task and not several: groups then commit in their order, so that the callbacks of a VM are applied as they
    were heard; and while Postgres writes one group, this process is busy enough with reading the next.
    """

    def __init__(self, store: EventStore, *, most_waiting: int, metrics: Metrics) -> None:
        self._store_ = store
        self._most_waiting = most_waiting
        self._metrics = metrics
        self._queue: deque[Waiting] = deque()
        self._gathered = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        self._writer = asyncio.create_task(self._write_groups(), name="intake")

    def offer(self, one: Waiting) -> None:
        """Have a callback written with the next group. Raises `Overloaded` where too many wait already."""
        if len(self._queue) >= self._most_waiting:
            raise Overloaded
        self._queue.append(one)
        self._gathered.set()

    async def close(self) -> None:
        """Settle what waits, and stop. The caller has seen to it that nothing more is offered."""
        self._closing = True
        self._gathered.set()
        if self._writer is not None:
            await self._writer

    async def _write_groups(self) -> None:
        while self._queue or not self._closing:
            await self._gathered.wait()
            self._gathered.clear()
            while self._queue:
                await self._write(self._take())

    def _take(self) -> list[Waiting]:
        group: list[Waiting] = []
        size = 0
        while self._queue and len(group) < GROUP_EVENTS and size < GROUP_BYTES:
            group.append(self._queue.popleft())
            size += group[-1].size
        return group

    async def _write(self, group: list[Waiting]) -> None:
        answer = responses.NOT_STORED
        with ErrorBoundary("intake.write"):
            answer = await self._answer_of([one.event for one in group])
        with ErrorBoundary("intake.answer"):
            for one in group:
                one.answer_with(answer)

    async def _answer_of(self, events: Sequence[Event]) -> Response:
        try:
            await self._store_.store(events)
        except ServiceError:
            return responses.NOT_STORED
        self._metrics.write_groups.observe(len(events))
        return responses.STORED

"""Group commit: callbacks that wait are written together, and each is answered when it is durable.

There is no timer: callbacks that come while a group is being written form the next one. So a single callback is written
at once and a storm in large groups, and the disk is never idle while a callback waits.
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

#: The most that one commit writes. Larger groups are no faster, and their first callbacks wait longer.
GROUP_EVENTS: Final = 1000
GROUP_BYTES: Final = 8 * 2**20


class Waiting(Protocol):
    """A callback that waits to be stored. It is answered exactly once."""

    @property
    def event(self) -> Event: ...

    @property
    def size(self) -> int: ...

    def answer_with(self, answer: Response, /) -> None: ...


class EventStore(Protocol):
    """Where groups are stored."""

    async def store(self, group: Sequence[Event]) -> None:
        """Store a group; on return it is durable. Raises `ServiceError` if it is not."""


class Intake:
    """Takes callbacks from any number of connections; one task writes them in the order in which they came.

    One task, so that groups commit in order and a VM's callbacks are applied in the order of their arrival. While
    Postgres writes a group, this process is busy reading the next one.
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
        """Add a callback to the next group. Raises `Overloaded` if too many wait already."""
        if len(self._queue) >= self._most_waiting:
            raise Overloaded
        self._queue.append(one)
        self._gathered.set()

    async def close(self) -> None:
        """Write and answer what waits, then stop. The caller must offer nothing more."""
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

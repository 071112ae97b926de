"""What the connections of one listener share. Nothing is decided here."""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from service.receiver.arrival import Arrivals
from service.receiver.bounds import Bounds
from service.receiver.intake import Intake
from service.telemetry import Metrics


class Open(Protocol):
    """A connection, as the listener sees it."""

    def check(self, now: float) -> None: ...

    def retire(self) -> None: ...

    def drop(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one connection may do: bytes of a body, and seconds for headers, for a body, and between requests."""

    most_body: int
    head_seconds: float
    body_seconds: float
    idle_seconds: float


@dataclass(slots=True, kw_only=True)
class Desk:
    """The parts that every connection works with, and the set of them."""

    intake: Intake
    arrivals: Arrivals
    bounds: Bounds
    limits: Limits
    secrets: tuple[bytes, ...]
    metrics: Metrics
    connections: set[Open] = field(default_factory=set)
    #: The listener is stopping: connections end with the last answer that they owe.
    closing: bool = False
    #: Set whenever the last connection has gone.
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def enter(self, connection: Open) -> None:
        self.connections.add(connection)
        self.bounds.connections += 1

    def leave(self, connection: Open) -> None:
        self.connections.discard(connection)
        self.bounds.connections -= 1
        if not self.connections:
            self.gone.set()

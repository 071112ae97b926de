"""One connection of the callback listener: answers in their order, deadlines, bounds. No storage, no HTTP grammar.

A protocol on a bare HTTP parser and not a web framework: the framework's work for each request was several times what
hearing a callback takes, and it has neither a deadline for headers nor a way to refuse before the body is read.
"""

import asyncio
import math
from collections import deque
from typing import Final, cast

from service.core.token import CreationRef
from service.errors import Overloaded
from service.receiver import answers
from service.receiver.answers import Answer
from service.receiver.desk import Desk
from service.receiver.requests import Requests
from service.storage.events import Event

#: Requests that one connection may have sent ahead of their answers before it is no longer read.
MOST_AHEAD: Final = 64
#: Bytes that a callback costs beside its body while it waits.
OVERHEAD: Final = 1024
#: Seconds that a refused sender has to read its answer; what it still sends is thrown away meanwhile. Closing at once
#: would reset the connection, and the answer could be lost with it.
LINGER: Final = 2.0


class Slot:
    """The place of one answer in its connection's order."""

    __slots__ = ("_connection", "answer", "keep_alive")

    def __init__(self, connection: "Connection", *, keep_alive: bool) -> None:
        self._connection = connection
        self.keep_alive = keep_alive
        self.answer: Answer | None = None

    def settle(self, answer: Answer) -> None:
        """Give the answer. It is sent when those before it have been."""
        self.answer = answer
        self._connection.send()


class Delivery(Slot):
    """A callback that waits to be kept, and so for its answer."""

    __slots__ = ("_began", "_desk", "event", "size")

    def __init__(self, connection: "Connection", desk: Desk, event: Event, *, size: int, keep_alive: bool) -> None:
        super().__init__(connection, keep_alive=keep_alive)
        self._desk = desk
        self._began = connection.began
        self.event = event
        self.size = size

    def settle(self, answer: Answer) -> None:
        """Give the answer, and count it."""
        self._desk.bounds.give(self.size)
        self._desk.metrics.callback_seconds.observe(self._connection.now() - self._began)
        self._desk.metrics.callbacks.labels(answer.name).inc()
        super().settle(answer)


class Connection(asyncio.Protocol):
    """Hears requests and answers them in their order. Its methods are called by the event loop, its requests and slots.

    A refused request ends the connection: the answer is sent, and the rest of what comes is thrown away.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._transport: asyncio.Transport | None = None
        self._requests: Requests | None = Requests(desk, self)
        self._pending: deque[Slot] = deque()
        self._paused = False  # reading is
        self._stuck = False  # the sender does not read its answers
        self._deadline = math.inf
        self._peer: str | None = None
        self.now = asyncio.get_running_loop().time
        #: When the present request began.
        self.began = 0.0

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else None
        self._deadline = self.now() + self._desk.limits.head_seconds
        self._desk.enter(self)
        if self._desk.bounds.flooded:
            self._transport.abort()
        elif self._desk.bounds.full and self._requests is not None:
            self._requests.refuse(answers.BUSY)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # a reset is a sender's right
        self._desk.leave(self)
        self._transport = None
        if self._requests is not None:
            self._requests.stop()
        self._requests = None  # it refers to this object, and a cycle would wait for the collector

    def data_received(self, data: bytes) -> None:
        if self._requests is not None:
            self._requests.feed(data)

    def eof_received(self) -> bool:
        """The sender will send no more. It may still read the answers that it is owed."""
        if not self._pending or self._requests is None:
            return False
        self._requests.stop()
        self._pending[-1].keep_alive = False
        return True

    def pause_writing(self) -> None:
        # Who does not read its answers is not read, and not for long.
        self._stuck = True
        self._deadline = self.now() + self._desk.limits.body_seconds
        self._hold_back()

    def resume_writing(self) -> None:
        self._stuck = False
        ended = self._requests is None or self._requests.ended
        self._deadline = self.now() + (LINGER if ended else self._desk.limits.idle_seconds)
        self._hear_again()

    # What the requests call.

    def begins(self) -> None:
        self.began = self.now()
        self._deadline = self.began + self._desk.limits.head_seconds

    def headed(self, *, invite: bool) -> None:
        self._deadline = self.now() + self._desk.limits.body_seconds
        if invite and not self._pending and self._transport is not None:
            self._transport.write(answers.CONTINUE)

    def hears(self, ref: CreationRef, body: bytes, headers: dict[str, bytes], held: int, *, keep_alive: bool) -> None:
        desk = self._desk
        self._deadline = math.inf  # from here on the sender waits for us
        event = desk.arrivals.event(ref, body, headers, self._peer)
        # Taken even beyond the bound: that much is counted for everyone, and turned down by the next.
        desk.bounds.held += OVERHEAD
        delivery = Delivery(self, desk, event, size=held + OVERHEAD, keep_alive=keep_alive)
        self._pending.append(delivery)
        if len(self._pending) > MOST_AHEAD:
            self._hold_back()
        try:
            desk.intake.offer(delivery)
        except Overloaded:
            delivery.settle(answers.BUSY)

    def asked_if_alive(self, *, keep_alive: bool, without_body: bool) -> None:
        self._answer(answers.ALIVE, keep_alive=keep_alive, without_body=without_body)

    def refuses(self, answer: Answer, *, without_body: bool) -> None:
        self._desk.metrics.callbacks.labels(answer.name).inc()
        self._deadline = math.inf
        self._answer(answer, keep_alive=False, without_body=without_body)

    # What slots and the listener call.

    def send(self) -> None:
        """Send the answers whose turn it is."""
        pending = self._pending
        out = []
        stays = True
        while pending and stays and (answer := pending[0].answer) is not None:
            # A listener that closes still answers everything that was asked, and then closes the connection.
            stays = pending.popleft().keep_alive and (bool(pending) or not self._desk.closing)
            out.append(answer.staying if stays else answer.closing)
        if not out or self._transport is None:
            return
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        if stays:
            self._go_on()
        else:
            self._finish()

    def check(self, now: float) -> None:
        """End the connection if its sender took too long."""
        if now < self._deadline or self._transport is None or self._requests is None:
            return
        if self._stuck or self._requests.ended:
            self._transport.abort()
        elif self._requests.begun:
            self._requests.refuse(answers.TOO_SLOW)
        else:
            self._transport.close()

    def retire(self) -> None:
        """End the connection if nothing is under way on it; else it ends with its last answer."""
        if self._transport is None or self._requests is None:
            return
        if not self._pending and not self._requests.begun:
            self._transport.close()

    def drop(self) -> None:
        """End the connection at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    def _answer(self, answer: Answer, *, keep_alive: bool, without_body: bool) -> None:
        slot = Slot(self, keep_alive=keep_alive)
        self._pending.append(slot)
        slot.settle(answer.without_body() if without_body else answer)

    def _go_on(self) -> None:
        if not self._pending and self._requests is not None and not self._requests.begun:
            self._deadline = self.now() + self._desk.limits.idle_seconds
        if self._paused and not self._stuck and len(self._pending) <= MOST_AHEAD // 2:
            self._hear_again()

    def _finish(self) -> None:
        if self._requests is None or self._transport is None:
            return
        self._requests.stop()
        self._deadline = self.now() + LINGER
        self._hear_again()
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _hold_back(self) -> None:
        if self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _hear_again(self) -> None:
        if self._transport is not None and self._paused:
            self._paused = False
            self._transport.resume_reading()

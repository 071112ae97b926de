"""A world in one process: a simulated cloud, a virtual clock, and daemons whose calls and callbacks use no socket.

A seed decides the order of everything. Jobs run one at a time; only this file moves time.
"""

import asyncio
import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self
from urllib.parse import urlsplit

import orjson
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

from service.config import Settings
from service.core.ids import uuid7
from service.core.token import CreationRef, verify
from service.errors import Unconfirmed
from service.provider.calls import ReassignRoute
from service.provider.client import Client
from service.provider.wire import HttpResponse
from service.runtime.runtime import Runtime
from service.simulator.callback_sender import CallbackDelivery
from service.simulator.cloud import Cloud
from service.simulator.config import CloudConfig
from service.simulator.http import HttpRequest
from service.storage import events
from service.storage.engine import transact
from service.storage.events import Event

IMAGE = "Ubuntu Server 22.04 LTS R535 CUDA 12.2"
_BY_HAND = "by-hand"
_VMS = "/v1/core/virtual-machines"
SECRET = b"the explorer's own callback secret"


class VirtualClock:
    """Time that stands still until it is moved. Sleeping moves it."""

    def __init__(self, start: datetime) -> None:
        self.start = start
        self._now = start

    def now(self) -> datetime:
        return self._now

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=max(0.0, seconds))

    @property
    def elapsed(self) -> float:
        """Seconds since the start: the cloud's time."""
        return (self._now - self.start).total_seconds()


class CrashError(BaseException):
    """The process was killed here. Not an Exception: nothing in a process may survive a kill."""


@dataclass
class Failpoint:
    """Kills the process at the `left`-th call or commit from now; never if None."""

    left: int | None = None

    def hit(self) -> None:
        if self.left is None:
            return
        self.left -= 1
        if self.left <= 0:
            self.left = None
            raise CrashError


class LossyCommits:
    """Cuts the connection to Postgres at some commits: just before, so that nothing was written, or just after.

    Either way the caller gets an error, and cannot know which it was. A process may also freeze after a commit.
    """

    def __init__(self, engine: AsyncEngine, often: float, *, seed: int, freeze: "Freeze | None" = None) -> None:
        self._freeze = freeze
        self._dialect: Any = engine.sync_engine.dialect
        self._sound = self._dialect.do_commit
        self._often, self._rng = often, random.Random(f"commits {seed}")  # noqa: S311  a seed is the point
        self.cut = 0

    def __enter__(self) -> Self:
        self._dialect.do_commit = self._commit
        return self

    def __exit__(self, *_: object) -> None:
        self._dialect.do_commit = self._sound

    def stop(self) -> None:
        self._often = 0.0

    def _commit(self, connection: Any) -> None:
        lost, written = self._rng.random() < self._often, self._rng.random() < 0.5
        if not lost or written:
            self._sound(connection)
        if lost:
            self.cut += 1
            connection.driver_connection.terminate()
            raise self._dialect.loaded_dbapi.InterfaceError("connection is closed")
        if self._freeze is not None:
            await_only(self._freeze.point("commit"))


@dataclass
class Freeze:
    """Stops a process for a while, as a paused machine is: in a create call, or after a commit. Then it goes on."""

    wanted: str | None = None  # where: call, or commit
    frozen: asyncio.Event = field(default_factory=asyncio.Event)
    thawed: asyncio.Event = field(default_factory=asyncio.Event)

    async def point(self, where: str) -> None:
        if self.wanted != where:
            return
        self.wanted = None
        self.thawed = asyncio.Event()
        self.frozen.set()
        await self.thawed.wait()


@dataclass
class World:
    """A cloud, its time, and the callbacks received from it."""

    cloud: Cloud
    clock: VirtualClock
    engine: AsyncEngine
    settings: Settings
    rng: random.Random
    failpoint: Failpoint = field(default_factory=Failpoint)
    freeze: Freeze = field(default_factory=Freeze)
    #: The timeline of the seed: seconds, and what happened.
    timeline: list[tuple[float, str]] = field(default_factory=list)
    received: int = 0
    foreign_calls: int = 0

    @classmethod
    def make(
        cls, config: CloudConfig, engine: AsyncEngine, settings: Settings, *, start: datetime, seed: int
    ) -> "World":
        return cls(Cloud(config, start=start), VirtualClock(start), engine, settings, random.Random(seed))  # noqa: S311  a seed is the point

    def daemon(self, engine: AsyncEngine | None = None) -> Runtime:
        """A daemon's runtime, as after a start: what a killed one knew is in the database or lost."""
        transport = CloudTransport(self)
        route = ReassignRoute(method="PUT", path=self.settings.reassign_path) if self.settings.reassign_path else None
        client = Client(
            transport,
            base_url="http://cloud.invalid/v1",
            api_key=SecretStr("explorer"),
            reassign=route,
            timeout=self.settings.call_timeout,
            create_timeout=self.settings.create_timeout,
        )
        return Runtime(
            settings=self.settings,
            engine=engine or self.engine,
            client=client,
            transport=transport,
            callback_secrets=(SECRET,),
            clock=self.clock,
            rng=random.Random(self.rng.random()),  # noqa: S311  a seed is the point
        )

    def tell(self, text: str) -> None:
        self.timeline.append((self.clock.elapsed, text))

    async def deliver(self) -> int:
        """Receive the callbacks that are due by now; returns how many were stored."""
        due = self.cloud.advance(self.clock.elapsed)
        stored = [event for event in (self._receive(delivery) for delivery in due) if event is not None]
        if stored:
            await transact(self.engine, lambda conn: events.insert(conn, stored))
        for delivery in due:
            self.cloud.record_answer(delivery.delivery_id, 200, self.clock.elapsed)
        return len(stored)

    def make_foreign(self) -> None:
        """Somebody else creates a VM in the same account, without any ownership tag of ours."""
        content = {"name": _BY_HAND, "environment_name": "test1", "flavor_name": "n1-cpu-small", "count": 1,
                   "image_name": IMAGE, "key_name": "example-key"}  # fmt: skip
        request = HttpRequest(method="POST", path=_VMS, headers={"api_key": "console"}, body=orjson.dumps(content))
        self.cloud.handle(request, self.clock.elapsed)
        self.foreign_calls += 1

    @property
    def foreign(self) -> set[int]:
        """VMs of the same account that others created, whatever answer they got."""
        return {vm["id"] for vm in self.cloud.truth() if _BY_HAND in vm["name"]}

    async def forge(self, ref: CreationRef, provider_id: int) -> None:
        """Somebody who learned a creation's URL posts that some VM is ACTIVE."""
        body = orjson.dumps({"resource": {"id": provider_id}, "data": {"status": "ACTIVE"}})
        forged = self._event(ref, body, {})
        await transact(self.engine, lambda conn: events.insert(conn, [forged]))

    def _receive(self, delivery: CallbackDelivery) -> Event | None:
        token = urlsplit(delivery.url).path.rpartition("/")[2]
        ref = verify(token, [SECRET])
        if ref is None:
            return None
        return self._event(ref, delivery.body, dict(delivery.headers))

    def _event(self, ref: CreationRef, body: bytes, headers: dict[str, str]) -> Event:
        self.received += 1
        rng = self.received.to_bytes(8, "big")
        return Event(
            submission_id=ref.submission_id,
            received_at=self.clock.now() + timedelta(microseconds=self.received % 1000),
            event_id=uuid7(self.clock.now(), rng),
            creation_no=ref.creation_no,
            body=body,
            headers=headers,
            peer="cloud",
            digest=hashlib.sha256(body).digest(),
        )


@dataclass
class CloudTransport:
    """Carries calls to the cloud of a world, and applies the cloud's faults to them."""

    world: World

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, within: float, /
    ) -> HttpResponse:
        world = self.world
        world.failpoint.hit()
        parts = urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        request = HttpRequest(method=method, path=path, headers=dict(headers), body=body or b"")
        reply = world.cloud.handle(request, world.clock.elapsed)
        world.tell(f"{method} {path} -> {reply.fate} {reply.status}")
        if reply.callbacks_first:
            await world.deliver()
        world.failpoint.hit()
        if method == "POST":
            await world.freeze.point("call")
        if reply.fate == "hang" or reply.delay > within:
            world.clock.advance(within)
            raise Unconfirmed(f"no answer within {within:g} s")
        world.clock.advance(reply.delay)
        if reply.fate != "normal":
            raise Unconfirmed("the connection was lost")
        return HttpResponse(status=reply.status, headers=dict(reply.headers), body=reply.body)

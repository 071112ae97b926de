"""A world in one process: a simulated cloud, a virtual clock, and daemons whose calls and callbacks never touch a socket.

Everything happens in an order that the seed determines. Jobs run one at a time, and only this file moves time.
"""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import UUID

import orjson
from pydantic import SecretStr
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

from service.config import Settings
from service.core.ids import uuid7
from service.core.token import CreationRef, verify
from service.errors import Unconfirmed
from service.lab.explorer.wire_faults import FOREIGN, WireFaults
from service.provider.calls import ReassignRoute
from service.provider.client import Client
from service.provider.wire import HttpResponse
from service.runtime.clock import Clock
from service.runtime.runtime import Runtime
from service.simulator.callback_sender import CallbackDelivery
from service.simulator.cloud import Cloud
from service.simulator.config import CloudConfig
from service.simulator.http import HttpRequest
from service.storage import events
from service.storage.engine import transact
from service.storage.events import Event

IMAGE = "Ubuntu Server 22.04 LTS R535 CUDA 12.2"
_VMS = "/v1/core/virtual-machines"
SECRET = b"the explorer's own callback secret"


class VirtualClock:
    """Time that stands still until it is moved. Sleeping on it moves it.

    `now` is the database's clock, which can be set back; `elapsed` is the cloud's time, which cannot.
    """

    def __init__(self, start: datetime) -> None:
        self.start = start
        self.elapsed = 0.0
        #: How far the database's clock was set back, in seconds.
        self.set_back_by = 0.0

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.elapsed - self.set_back_by)

    def monotonic(self) -> float:
        return self.elapsed

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        self.elapsed += max(0.0, seconds)

    def set_back(self, seconds: float) -> None:
        self.set_back_by += seconds


class DaemonClock:
    """The clock of one process. It counts on when the database's clock is set back, until it is corrected by it."""

    def __init__(self, of_database: VirtualClock) -> None:
        self._of_database = of_database
        self._set_back_by = of_database.set_back_by

    def now(self) -> datetime:
        return self._of_database.now() + self.ahead

    @property
    def ahead(self) -> timedelta:
        return timedelta(seconds=self._of_database.set_back_by - self._set_back_by)

    def monotonic(self) -> float:
        return self._of_database.elapsed

    async def sleep(self, seconds: float) -> None:
        await self._of_database.sleep(seconds)

    async def measure(self, _: AsyncEngine) -> timedelta:
        """As `DatabaseClock.measure`: how far off it was, negative if it was ahead."""
        ahead, self._set_back_by = self.ahead, self._of_database.set_back_by
        return -ahead


class CrashError(BaseException):
    """The process was killed here. Not an Exception, since nothing in a process survives its being killed."""


@dataclass
class Failpoint:
    """Counts down with every call and commit, and kills the process at zero. None never does."""

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

    In both cases the caller gets an error and cannot know which it was. A process may also freeze after a commit.
    """

    def __init__(self, engine: AsyncEngine, probability: float, *, seed: int, freeze: "Freeze | None" = None) -> None:
        self._freeze = freeze
        self._dialect: Any = engine.sync_engine.dialect
        self._commit_soundly = self._dialect.do_commit
        self._probability, self._rng = probability, random.Random(f"commits {seed}")  # noqa: S311  a seed is the point
        self.cut = 0

    def __enter__(self) -> Self:
        self._dialect.do_commit = self._commit
        return self

    def __exit__(self, *_: object) -> None:
        self._dialect.do_commit = self._commit_soundly

    def stop(self) -> None:
        self._probability = 0.0

    def _commit(self, connection: Any) -> None:
        lost, written = self._rng.random() < self._probability, self._rng.random() < 0.5
        if not lost or written:
            self._commit_soundly(connection)
        if lost:
            self.cut += 1
            connection.driver_connection.terminate()
            raise self._dialect.loaded_dbapi.InterfaceError("connection is closed")
        if self._freeze is not None:
            await_only(self._freeze.point("commit"))


class killed_at_commits:  # noqa: N801  a context manager, read as a verb
    """Lets each commit hit the failpoint, so that a process can die between any two of them."""

    def __init__(self, engine: AsyncEngine, world: "World") -> None:
        self._engine, self._hit = engine.sync_engine, lambda _conn: world.failpoint.hit()

    def __enter__(self) -> None:
        event.listen(self._engine, "commit", self._hit)

    def __exit__(self, *_: object) -> None:
        event.remove(self._engine, "commit", self._hit)


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
    """A cloud, its time, and the callbacks received from it. All daemons call from one source address."""

    cloud: Cloud
    clock: VirtualClock
    engine: AsyncEngine
    settings: Settings
    rng: random.Random
    failpoint: Failpoint = field(default_factory=Failpoint)
    freeze: Freeze = field(default_factory=Freeze)
    wire: WireFaults = field(default_factory=WireFaults)
    #: What happened in this seed: when, and what.
    timeline: list[tuple[float, str]] = field(default_factory=list)
    #: The events that were stored, whatever became of them.
    stored: set[UUID] = field(default_factory=set)
    #: What happens meanwhile if a call hangs.
    while_hanging: Callable[[], Awaitable[None]] | None = None
    received: int = 0
    foreign_calls: int = 0
    #: VMs that forged callbacks named.
    forged: set[int] = field(default_factory=set)

    @classmethod
    def make(
        cls, config: CloudConfig, engine: AsyncEngine, settings: Settings, *, start: datetime, seed: int
    ) -> "World":
        return cls(Cloud(config, start=start), VirtualClock(start), engine, settings, random.Random(seed))  # noqa: S311  a seed is the point

    def daemon(self, engine: AsyncEngine | None = None, clock: Clock | None = None) -> Runtime:
        """A daemon's runtime, fresh as after a start: everything that a killed one knew is in the database."""
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
            clock=clock or self.clock,
            rng=random.Random(self.rng.random()),  # noqa: S311  a seed is the point
        )

    def note(self, text: str) -> None:
        self.timeline.append((self.clock.elapsed, text))

    async def deliver(self) -> int:
        """Receive the callbacks that are due by now; how many were stored."""
        due = self.cloud.advance(self.clock.elapsed)
        stored = [event for event in (self._received(delivery) for delivery in due) if event is not None]
        if stored:
            await transact(self.engine, lambda conn: events.insert(conn, stored))
            self.stored |= {event.event_id for event in stored}
        for delivery in due:
            self.cloud.record_answer(delivery.delivery_id, 200, self.clock.elapsed)
        return len(stored)

    def make_foreign(self) -> None:
        """Somebody else creates a VM in the same account, without any ownership tag of ours."""
        content = {"name": FOREIGN, "environment_name": "test1", "flavor_name": "n1-cpu-small", "count": 1,
                   "image_name": IMAGE, "key_name": "example-key"}  # fmt: skip
        request = HttpRequest(method="POST", path=_VMS, headers={"api_key": "console"}, body=orjson.dumps(content))
        self.cloud.handle(request, self.clock.elapsed)
        self.foreign_calls += 1

    @property
    def foreign(self) -> set[int]:
        """VMs of the same account that others created, whatever answer they got."""
        return {vm["id"] for vm in self.cloud.truth() if FOREIGN in vm["name"]}

    async def forge(self, ref: CreationRef, provider_ids: Sequence[int]) -> None:
        """Somebody who learned a creation's URL claims of any VMs that they are ACTIVE."""
        bodies = [orjson.dumps({"resource": {"id": id_}, "data": {"status": "ACTIVE"}}) for id_ in provider_ids]
        self.forged.update(provider_ids)
        forged = [self._event(ref, body, {}) for body in bodies]
        await transact(self.engine, lambda conn: events.insert(conn, forged))

    def _received(self, delivery: CallbackDelivery) -> Event | None:
        token = urlsplit(delivery.url).path.rpartition("/")[2]
        ref = verify(token, [SECRET])
        if ref is None:
            return None
        body = self.wire.callback(delivery.body, self.clock.elapsed)
        return self._event(ref, body, dict(delivery.headers))

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
    """Carries calls to the cloud of a world, and delivers each reply in the way that the cloud decided."""

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
        world.note(f"{method} {path} -> {reply.fate} {reply.status}")
        if reply.callbacks_first:
            await world.deliver()
        world.failpoint.hit()
        if method == "POST":
            await world.freeze.point("call")
        if reply.fate == "hang" or reply.delay > within:
            world.clock.advance(within / 2)
            if world.while_hanging is not None:
                await world.while_hanging()
            world.clock.advance(within / 2)
            raise Unconfirmed(f"no answer within {within:g} s")
        world.clock.advance(reply.delay)
        if reply.fate != "normal":
            raise Unconfirmed("the connection was lost")
        return HttpResponse(status=reply.status, headers=dict(reply.headers), body=world.wire.answer(reply.body))

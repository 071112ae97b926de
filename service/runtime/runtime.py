"""Builds what a process is made of: clock, random numbers, engine, provider client. Layers above get a `Runtime`."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from service.config import Settings
from service.core.backoff import Backoff
from service.core.ids import uuid7
from service.core.refresh import RefreshPolicy
from service.provider.aiohttp_transport import AiohttpTransport
from service.provider.calls import ReassignRoute
from service.provider.client import Client, Transport
from service.runtime.clock import Clock, DatabaseClock
from service.runtime.encryption import Cipher
from service.runtime.health import Health
from service.runtime.metrics import Metrics
from service.runtime.receive_rate import ReceiveRate
from service.runtime.replica import Replica
from service.runtime.secrets import callback_secrets
from service.runtime.slots import connections
from service.runtime.stock import StockCache
from service.runtime.trace_queue import TraceQueue
from service.storage.engine import create_engine, create_replica_engine
from service.storage.rate_limit import RateLimit
from service.storage.scheduled_jobs import FailedRun

#: Up to which share of the rate limit each operation gets calls: creates first, reads last.
SHARES = {"create": 1.0, "delete": 0.97, "assign contract": 0.97, "read contract": 0.95, "read": 0.9, "history": 0.3}
#: While creations wait, reads leave them half of it, but not all: only reads show what was created.
SHARES_WHILE_CREATING = {"read": 0.5, "history": 0.1}


@dataclass(kw_only=True)
class Runtime:
    """What every layer needs. `open_runtime` builds one per process."""

    settings: Settings
    engine: AsyncEngine
    client: Client
    transport: Transport
    callback_secrets: tuple[bytes, ...]
    clock: Clock = field(default_factory=DatabaseClock)
    rng: random.Random = field(default_factory=random.SystemRandom)
    metrics: Metrics = field(default_factory=Metrics)
    health: Health = field(default_factory=Health)
    #: A replica to read from, if one is set.
    replica: Replica | None = None
    #: When newborn VMs are overdue, by flavor and region; measured by the rescue job, lost with the process.
    learned_overdue: Mapping[tuple[str, str | None], float] = field(default_factory=dict)
    learned_at: datetime | None = None
    #: By how much the database's clock was set back, until the times in the record are healed.
    clock_set_back: timedelta = timedelta()
    #: Set by the receiver when it has stored callbacks, so that they are applied before the next poll.
    events_stored: asyncio.Event = field(default_factory=asyncio.Event)
    #: Set for a moment when the database is back, for jobs that wait after a failure.
    database_is_back: asyncio.Event = field(default_factory=asyncio.Event)
    #: Callbacks that the receiver of this process has stored.
    callbacks_stored: int = 0
    receive_rate: ReceiveRate = field(default_factory=ReceiveRate)
    #: VMs whose events wait because another transaction has locked their rows, by submission and provider id.
    locked_vms: set[tuple[UUID, int]] = field(default_factory=set)
    #: What the job `refresh` has under way.
    refreshing: set[object] = field(default_factory=set)
    #: Since when a page of the list of VMs has been under way.
    page_asked_at: datetime | None = None
    #: Since when this process writes its health issues down.
    health_saved_since: datetime | None = None
    #: The kinds of calls whose circuit was open when this process last checked.
    open_circuits: set[str] = field(default_factory=set)

    #: Scheduled jobs whose last run in this process failed.
    failed_runs: dict[str, FailedRun] = field(default_factory=dict)

    #: What traces are to be made of; None if they are off.
    traces: TraceQueue | None = None
    stock: StockCache = field(default_factory=StockCache)

    def __post_init__(self) -> None:
        self.health.attach(self.clock, self.metrics)

    @cached_property
    def cipher(self) -> Cipher:
        return Cipher(self.callback_secrets)

    @property
    def refresh_policy(self) -> RefreshPolicy:
        s = self.settings
        return RefreshPolicy(
            overdue=s.overdue_seconds,
            again=s.again_seconds,
            resync=s.resync_seconds,
            history=s.history_seconds,
            learned=self.learned_overdue,
        )

    @property
    def limits(self) -> RateLimit:
        calls = self.settings.calls_per_minute
        return RateLimit(
            scope=self.settings.rate_limit_scope, calls=calls, shares=SHARES, while_creating=SHARES_WHILE_CREATING
        )

    @property
    def retry(self) -> Backoff:
        cap = self.settings.retry_cap_seconds
        return Backoff(first=self.settings.retry_first_seconds, cap=cap, floor=min(0.2, cap))

    @property
    def look(self) -> Backoff:
        """How long to wait between lookups of an unconfirmed creation or an orphan."""
        first = self.settings.lookup_first_seconds
        return Backoff(first=first, cap=max(first, 30.0), floor=first / 2)

    def lease(self, seconds: float) -> timedelta:
        """How long to lease a row for calls of up to `seconds`: longer, so that only a dead process loses it."""
        return timedelta(seconds=seconds + self.settings.lease_margin_seconds)

    @property
    def public_url(self) -> str:
        """The URL at which the provider reaches the callback listener; by default the listener itself."""
        return self.settings.public_url or f"http://{self.settings.callback_listen}"

    def resume_failed_jobs(self) -> None:
        """Have the jobs that wait after a failure run at once."""
        self.database_is_back.set()
        self.database_is_back.clear()

    def uuid(self) -> UUID:
        return uuid7(self.clock.now(), self.rng.randbytes(8))

    def jitter(self) -> float:
        return self.rng.random()

    async def close(self) -> None:
        if isinstance(self.transport, AiohttpTransport):
            await self.transport.close()
        await self.engine.dispose()
        if self.replica is not None:
            await self.replica.engine.dispose()


def open_runtime(settings: Settings, database_url: str) -> Runtime:
    """Build a process's runtime, inside its event loop. It connects to nothing yet."""
    route = (
        ReassignRoute(method=settings.reassign_method, path=settings.reassign_path) if settings.reassign_path else None
    )
    transport = AiohttpTransport(connections=connections(settings), proxy=settings.proxy)
    client = Client(
        transport,
        base_url=settings.infrahub_url,
        api_key=settings.infrahub_api_key or SecretStr("unset"),
        reassign=route,
        timeout=settings.call_timeout,
        create_timeout=settings.create_timeout,
    )
    replica = settings.read_database_url
    return Runtime(
        settings=settings,
        engine=create_engine(database_url),
        replica=Replica(create_replica_engine(replica.get_secret_value())) if replica else None,
        client=client,
        transport=transport,
        callback_secrets=callback_secrets(settings),
    )

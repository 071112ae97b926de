"""A stage for the worker's passes: a real Postgres, a simulated cloud, and a clock that only the test moves.

Every step of a VM takes ten seconds and callbacks come at once, unless a test says otherwise, so that a test can
say where a VM is.
"""

import asyncio
import hashlib
import math
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
from pydantic import SecretStr
from simulated import IMAGE, STEADY
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.config import Settings
from service.core.catalogue import Advice
from service.core.ids import uuid7
from service.core.token import CreationRef
from service.core.vm import Vm
from service.lab.explorer.world import SECRET, CrashError, World
from service.operations import submission
from service.provider.client import Client
from service.provider.wire import HttpResponse
from service.runtime.runtime import Runtime
from service.simulator import private
from service.simulator.http import HttpRequest
from service.simulator.loading import parse_config, parse_faults
from service.storage import events, submissions, tables
from service.storage.creations import Creation
from service.storage.due import due_jobs
from service.storage.engine import begin
from service.storage.events import Event
from service.storage.orphans import Orphan
from service.storage.rows import from_row
from service.storage.submissions import Submission
from service.worker import apply, contract, create, delete, history, orphan, refresh, rescue

#: For what a daemon writes beside the database; removed when the tests end.
_DATA = tempfile.TemporaryDirectory(prefix="rollcall-stage-")
START = datetime(2026, 8, 17, 9, tzinfo=UTC)
VMS = "/v1/core/virtual-machines"
PASSES = (apply, create, delete, contract, refresh, orphan, history, rescue)
#: Seconds after which a pass runs though nothing is due. The daemon's runs every 30: what is due must be found without.
_SELDOM = 120.0


class Between:
    """A transport with something in between: prepared answers, and a gate that holds calls back after they were done."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.prepared: dict[str, list[HttpResponse]] = {}
        self.asked: list[str] = []
        self.held: asyncio.Event | None = None
        self.hold = "POST"
        self.reached = asyncio.Event()

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, within: float, /
    ) -> HttpResponse:
        self.asked.append(f"{method} {url.partition('/v1')[2]}")
        if self.prepared.get(method):
            return self.prepared[method].pop(0)
        answer = await self.inner.send(method, url, headers, body, within)
        if method == self.hold and self.held is not None:
            self.reached.set()
            await self.held.wait()
        return answer


def refusal(status: int, message: str, reason: str | None = None) -> HttpResponse:
    """An answer that says no, in the provider's form."""
    content = {"status": False, "message": message, **({"error_reason": reason} if reason else {})}
    return HttpResponse(status=status, headers={}, body=orjson.dumps(content))


def request(**changes: Any) -> dict[str, Any]:
    """The body of a submission that is accepted; what is set to None is left out."""
    full = {
        "name": "train",
        "environment_name": "test1",
        "image_name": IMAGE,
        "flavor_name": "n3-A100x1",
        "key_name": "example-key",
        "count": 1,
    }
    return {name: value for name, value in (full | changes).items() if value is not None}


class Stage:
    """The world, a daemon in it, and what a test does to both. `cloud` is as in `parse_config`."""

    def __init__(self, engine: AsyncEngine, *, cloud: Mapping[str, Any] | None = None, **settings: Any) -> None:
        config = parse_config({"timing": STEADY, "callback_variety": 0, **(cloud or {})})
        known = {
            "data_dir": Path(_DATA.name),
            "infrahub_api_key": SecretStr("key"),
            "public_url": "https://rollcall.example.com",
            "callback_secrets": (SecretStr(SECRET.decode()),),
            "lookup_window_seconds": 60,
            "create_timeout": 60,
            **settings,
        }
        self.engine = engine
        self._ran: dict[str, float] = {}  # when each pass last ran
        self.world = World.make(config, engine, Settings(_env_file=None, **known), start=START, seed=1)
        self.rt = self.daemon()

    def daemon(self) -> Runtime:
        """A daemon's runtime as after a start. Its transport lets a test come in between."""
        fresh = self.world.daemon()
        between = Between(fresh.transport)
        client = Client(
            between,
            base_url="http://cloud.invalid/v1",
            api_key=SecretStr("key"),
            reassign=fresh.client._reassign,
            timeout=fresh.settings.call_timeout,
            create_timeout=fresh.settings.create_timeout,
        )
        return replace(fresh, client=client, transport=between)

    @property
    def between(self) -> Between:
        return self.rt.transport

    # What users and others do.

    async def submit(self, **changes: Any) -> UUID:
        asked = submission.read(request(**changes), caller="tests", key=None)
        return (await submission.submit(self.rt, asked, Advice()))[0]

    def misbehave(self, **faults: Any) -> None:
        """Replace all faults; the n-th occasions count from here on."""
        self.world.cloud.set_faults(parse_faults(faults))

    def console(self, provider_id: int, deed: str, *, silent: bool = True) -> None:
        """What somebody else does to a VM: vanish, error, stop, delete."""
        body = orjson.dumps({"silent": silent})
        reply = private.handle(
            self.world.cloud,
            HttpRequest(method="POST", path=f"/_sim/vms/{provider_id}/{deed}", body=body),
            self.world.clock.elapsed,
        )
        assert reply.status == 200, reply

    def change_contract(self, contract_id: int = 41, **change: Any) -> None:
        reply = private.handle(
            self.world.cloud,
            HttpRequest(method="POST", path=f"/_sim/contracts/{contract_id}", body=orjson.dumps(change)),
            self.world.clock.elapsed,
        )
        assert reply.status == 200, reply

    async def hear(self, ref: CreationRef, *bodies: bytes) -> None:
        """Keep callbacks that come in on a creation's URL, as the receiver would."""
        async with begin(self.engine) as conn:
            await events.insert(conn, [self.event(ref, body) for body in bodies])

    def event(self, ref: CreationRef, body: bytes) -> Event:
        """A delivery that is received now, after all those before it."""
        self.world.received += 1
        return Event(
            submission_id=ref.submission_id,
            received_at=self.world.clock.now(),
            event_id=uuid7(self.world.clock.now(), b"12345678", sequence=self.world.received),
            creation_no=ref.creation_no,
            body=body,
            headers={},
            peer="tests",
            digest=hashlib.sha256(body).digest(),
        )

    # Time.

    async def wait(self, seconds: float) -> None:
        """Let time pass, and keep the callbacks that fell due."""
        self.world.clock.advance(seconds)
        await self.world.deliver()

    async def live(self, seconds: float, *, step: float = 10.0, job_runs: tuple[Any, ...] | None = None) -> None:
        """Let time pass with the daemon's passes running."""
        until = self.world.clock.elapsed + seconds
        while self.world.clock.elapsed < until:
            await self.everything(job_runs)
            await self.wait(step)
        await self.everything(job_runs)

    async def everything(self, job_runs: tuple[Any, ...] | None = None) -> None:
        """Each pass that has something to do, or has not run for long, once, as the daemon runs them; or those named.

        None takes no time at all.
        """
        due: set[str] | None = None
        for one in job_runs or PASSES:
            if due is None and not job_runs:
                due = await self.due()
            name, elapsed = getattr(one, "__name__", "").rpartition(".")[2], self.world.clock.elapsed
            if job_runs or name in (due or ()) or elapsed >= self._ran.get(name, -math.inf) + _SELDOM:
                self._ran[name] = elapsed
                if await one.run_once(self.rt):
                    due = None  # what was done may have made others due
            self.world.clock.advance(0.001)

    async def due(self) -> set[str]:
        async with begin(self.engine) as conn:
            return await due_jobs(conn, self.world.clock.now())

    async def until(
        self, reached: Callable[[], Awaitable[bool]], *, within: float = 1000.0, step: float = 10.0
    ) -> None:
        """Live until something is so; a failure if it is not within the time."""
        end = self.world.clock.elapsed + within
        while not await reached():
            assert self.world.clock.elapsed < end, "it never came to that"
            await self.live(step, step=step)

    # The process dies.

    @contextmanager
    def killed_after(self, steps: int) -> Any:
        """The process dies after so many steps, a step being a commit, a call on its way, or an answer on its way."""

        def burn(_conn: Any) -> None:
            self.world.failpoint.hit()

        event.listen(self.engine.sync_engine, "commit", burn)
        self.world.failpoint.left = steps
        try:
            yield
        finally:
            self.world.failpoint.left = None
            event.remove(self.engine.sync_engine, "commit", burn)

    async def dies_in(self, work: Awaitable[Any]) -> bool:
        """Whether the process died while it was at `work`; if so a new one is there."""
        try:
            await work
        except CrashError:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            self.rt = self.daemon()
            return True
        return False

    # What is on record, and what is true.

    async def rows(self, kind: type, table: Any) -> list[Any]:
        async with begin(self.engine) as conn:
            found = await conn.execute(select(table).order_by(*table.primary_key.columns))
            return [from_row(kind, row) for row in found.mappings()]

    async def vms(self) -> list[Vm]:
        return await self.rows(Vm, tables.vms)

    async def vm(self, vm_no: int = 1) -> Vm:
        return next(vm for vm in await self.vms() if vm.vm_no == vm_no)

    async def states(self) -> list[str]:
        return [vm.state.value for vm in await self.vms()]

    async def creations(self) -> list[Creation]:
        return await self.rows(Creation, tables.creations)

    async def creation(self, number: int = 1) -> Creation:
        return next(one for one in await self.creations() if one.creation_no == number)

    async def orphans(self) -> list[Orphan]:
        return await self.rows(Orphan, tables.orphans)

    async def submission(self) -> Submission:
        async with begin(self.engine) as conn:
            ids = (await conn.execute(select(tables.submissions.c.submission_id))).scalars().all()
            return (await submissions.read(conn, ids))[ids[0]]

    async def sql(self, statement: str, **values: Any) -> list[Any]:
        async with begin(self.engine) as conn:
            done = await conn.execute(text(statement), values)
            return [tuple(row) for row in done] if done.returns_rows else []

    def truth(self) -> list[dict[str, Any]]:
        """Every VM that the cloud ever made."""
        return self.world.cloud.truth()

    def alive(self) -> list[int]:
        """The ids of the VMs that are there."""
        return [vm["id"] for vm in self.truth() if vm["ended"] is None]

    def real(self, provider_id: int) -> Any:
        """The cloud's own VM, which a test may change as nobody could."""
        return self.world.cloud.fleet.vms[provider_id]

    def creates(self) -> int:
        """How many create calls the cloud got."""
        return sum(one.call.request.method == "POST" and one.call.request.path == VMS for one in self.world.cloud.log)

    def calls(self, method: str, path: str = "") -> list[str]:
        """The calls of a method that the cloud got, below the base, narrowed to those that begin with `path`."""
        heard = [one.call.request for one in self.world.cloud.log if one.call.request.method == method]
        return [call.path.removeprefix("/v1") for call in heard if call.path.removeprefix("/v1").startswith(path)]

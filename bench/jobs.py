"""Jobs: what each costs with 1,000, 10,000 and 100,000 living VMs that have a history.

    .venv/bin/python bench/jobs.py [--vms 1000,10000,100000] [--seconds 10]

Each size is a database of its own, filled by SQL: VMs in submissions of at most 100,000, ten events and five transitions of
each VM. The provider is a transport in this process whose pages are prepared before. For each job: seconds, CPU seconds of
this process and of Postgres, rows read by Postgres, and the longest time that one callback of the event loop held it, in CPU
time of the thread. Rows read include the 1,000 to 2,000 of the catalogue that a new connection reads. Then the CPU of an idle daemon, and how long it takes until a callback is stored while every job runs
and while a submission with all VMs is cancelled. Figures go to bench/results/jobs.json and, as a table, to standard output.
"""

# longer than 350 lines because the statements that fill a fleet stand beside what is measured on it

import argparse
import asyncio
import gc
import json
import re
import statistics
import sys
import time
from asyncio.events import Handle
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import ground
import orjson
from ground import Ground, resident_mb
from pydantic import SecretStr
from sqlalchemy import text

from service.config import Settings
from service.core.ids import uuid7
from service.errors import VmNotFound
from service.operations import deletion
from service.provider.client import Client
from service.provider.wire import HttpResponse
from service.queries import timeline
from service.runtime.runtime import Runtime
from service.storage import due, events, vms
from service.storage.engine import begin, create_engine
from service.storage.events import Event
from service.worker import apply, orphan, refresh, rescue, runner

FIRST_ID = 1_000_000
CALLBACKS = 1000
#: Long enough for everything that an idle daemon does now and then.
IDLE_SECONDS = 60.0
#: Of a callback that is stored while others work, in seconds: one after another, with this pause.
PAUSE = 0.02
POLICY = {
    "on_contract_error": "keep", "on_stuck": "report", "on_orphan": "report", "stuck_after_seconds": 3600,
    "deadline_seconds": 864000, "lifetime": None,
}  # fmt: skip
FILL = """
INSERT INTO submissions (submission_id, name, count, spec, policy, requested_by, next_creation_no, next_vm_no, created_at,
                         deadline_at, state, ended_at)
VALUES (:id, 'bench', :vms, '{}', CAST(:policy AS jsonb), 'bench', :vms / 20 + 1, :vms + 1, :at, :at + interval '10 days',
        'ready', :at);
INSERT INTO creations (submission_id, creation_no, vm_count, name, state, attempt, created_at, completed_at, first_sent_at,
                       deadline_at)
SELECT :id, n, 20, 'bench-' || n, 'answered', 1, :at, :at, :at, :at + interval '10 days' FROM generate_series(1, :vms / 20) AS n;
INSERT INTO vms (submission_id, vm_no, creation_no, provider_id, name, state, provider_status, state_since, seq,
                 observed_at, next_refresh_at, wants_address, fixed_ip, flavor, environment, region, assignment, ready,
                 created_at, bound_at, active_at, ready_at)
SELECT :id, n, (n - 1) / 20 + 1, :first + n, 'vm-' || n, 'ACTIVE', 'ACTIVE', :at, 5, :at, :at + interval '10 days', false,
       '10.0.0.1', 'n3-A100x1', 'test1', 'CANADA-1', 'none', true, :at, :at, :at, :at FROM generate_series(1, :vms) AS n;
INSERT INTO transitions (submission_id, vm_no, seq, at, from_state, to_state, verdict, claimed, evidence, evidence_at)
SELECT :id, n, seq, :at, CASE seq WHEN 1 THEN 'BUILD' ELSE 'ACTIVE' END, CASE seq WHEN 1 THEN 'ACTIVE' ELSE 'ACTIVE' END,
       CASE seq WHEN 1 THEN 'moved' ELSE 'unexpected' END, 'ODD', 'event', :at
FROM generate_series(1, :vms) AS n, generate_series(1, 5) AS seq;
INSERT INTO events (submission_id, received_at, event_id, creation_no, source, body, headers, digest)
SELECT :id, :at - interval '15 minutes' + n * interval '1 millisecond' + k * interval '1 minute' AS received_at, gen_random_uuid(), (n - 1) / 20 + 1, 'callback',
       convert_to('{"resource": {"id": ' || :first + n || '}, "data": {"status": "ACTIVE"}}', 'UTF8'), '{}', '\\x00'
FROM generate_series(1, :vms) AS n, generate_series(1, 10) AS k
ORDER BY received_at
"""


class Provider:
    """Every VM, in pages that are prepared before; single VMs as they are asked for."""

    def __init__(self, number: int) -> None:
        shown = [self.shown(FIRST_ID + n) for n in range(1, number + 1)]
        self.pages = [
            orjson.dumps({"status": True, "instances": shown[at : at + 100], "count": number, "page_size": 100})
            for at in range(0, number, 100)
        ]

    @staticmethod
    def shown(provider_id: int) -> dict[str, Any]:
        return {
            "id": provider_id, "name": f"vm-{provider_id}", "status": "ACTIVE", "fixed_ip": "10.0.0.1", "floating_ip": None,
            "environment": {"name": "test1", "region": "CANADA-1"}, "flavor": {"name": "n3-A100x1", "gpu": "A100"},
            "labels": [], "callback_url": None, "contract_id": None, "created_at": "2026-03-02T12:00:00",
        }  # fmt: skip

    async def send(self, method: str, url: str, *_: Any) -> HttpResponse:
        path, _, query = url.partition("?")
        if query:
            number = int(dict(part.split("=") for part in query.split("&"))["page"])
            page = self.pages[number - 1] if number <= len(self.pages) else b'{"status": true, "instances": []}'
            return HttpResponse(status=200, headers={}, body=page)
        last = path.rpartition("/")[2]
        if last == "events":
            return HttpResponse(status=200, headers={}, body=b'{"status": true, "instance_events": []}')
        if last == "pricebook":
            return HttpResponse(status=200, headers={}, body=b"[]")
        if method != "GET" or int(last) > FIRST_ID + 100 * len(self.pages):
            raise VmNotFound(f"VM {last} does not exist", status=404)
        return HttpResponse(
            status=200, headers={}, body=orjson.dumps({"status": True, "instance": self.shown(int(last))})
        )


@dataclass
class Holds:
    """The longest CPU time that one callback held the event loop."""

    longest: float = 0.0

    def install(self) -> None:
        original = Handle._run  # noqa: SLF001  the one place through which every callback goes

        def measured(handle: Handle) -> None:
            began = time.thread_time()
            original(handle)
            self.longest = max(self.longest, time.thread_time() - began)

        Handle._run = measured  # type: ignore[method-assign]  # noqa: SLF001  as above


@dataclass
class Fleet:
    """A database with so many VMs, and a daemon's runtime on it."""

    here: Ground
    rt: Runtime
    submission_id: UUID
    number: int
    holds: Holds
    rows: list[dict[str, Any]] = field(default_factory=list)

    async def sql(self, statement: str, **values: Any) -> None:
        async with begin(self.rt.engine) as conn:
            for one in statement.split(";\n"):
                await conn.execute(text(one), values if ":" in one else {})

    async def callbacks(self, number: int, status: str) -> None:
        """Store callbacks about the first VMs."""
        async with begin(self.rt.engine) as conn:
            await events.insert(conn, [self.event(n, status) for n in range(1, number + 1)])

    def event(self, n: int, status: str) -> Event:
        body = orjson.dumps({"resource": {"id": FIRST_ID + n}, "data": {"status": status}})
        now = self.rt.clock.now()
        return Event(
            submission_id=self.submission_id, received_at=now, event_id=self.rt.uuid(), creation_no=(n - 1) // 20 + 1,
            body=body, headers={}, peer=None, digest=b"\0",
        )  # fmt: skip

    async def measure(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Run once and note what it cost. Connections are closed before and after, so that Postgres counts all rows."""
        await self.rt.engine.dispose()
        gc.collect()  # what the preparation left is not the job's
        before = await self.here.counters()
        read_of_tables, read = (
            await ground.number(self.here.url, _READ_OF_TABLES),
            await ground.number(self.here.url, _READ),
        )
        self.holds.longest, cpu, began = 0.0, time.process_time(), time.monotonic()
        result = await work()
        seconds, cpu, longest = time.monotonic() - began, time.process_time() - cpu, self.holds.longest
        await self.rt.engine.dispose()
        spent = (await self.here.counters()).since(before)
        read, read_of_tables = (
            await ground.number(self.here.url, _READ) - read,
            await ground.number(self.here.url, _READ_OF_TABLES) - read_of_tables,
        )
        row = {
            "vms": self.number, "job": name, "did": result if isinstance(result, int) else None,
            "seconds": round(seconds, 4), "cpu_seconds": round(cpu, 4), "postgres_seconds": round(spent.postgres_seconds, 2),
            "rows_read": read, "rows_of_tables": read_of_tables, "longest_hold_ms": round(longest * 1000, 2),
        }  # fmt: skip
        self.rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)


#: Rows and entries of indexes that were read so far: of everything, and without Postgres's catalogue. A connection is counted when it is closed.
_READ = "SELECT tup_returned + tup_fetched FROM pg_stat_database WHERE datname = current_database()"
_READ_OF_TABLES = """
SELECT (SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables)
     + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes)
"""


async def fill(here: Ground, number: int, holds: Holds) -> Fleet:
    url = await here.fresh()
    provider = Provider(number)
    settings = Settings(
        _env_file=None,
        data_dir=here.folder / f"data-{number}",
        infrahub_api_key=SecretStr("key"),
        public_url="https://rollcall.example.com",
        callback_secrets=(SecretStr("a secret of thirty-two characters"),),
        calls_per_minute=100_000,
    )
    client = Client(provider, base_url="http://provider.invalid/v1", api_key=SecretStr("key"))
    rt = Runtime(
        settings=settings, engine=create_engine(url), client=client, transport=provider,
        callback_secrets=(b"a secret of thirty-two characters",),
    )  # fmt: skip
    await rt.clock.measure(rt.engine)
    now = datetime.now(UTC)
    fleet = Fleet(here, rt, uuid7(now, b"benchmark"), number, holds)
    policy = f"'{orjson.dumps(POLICY).decode()}'::jsonb"
    values = {"id": f"'{fleet.submission_id}'::uuid", "vms": number, "at": f"'{now}'::timestamptz", "first": FIRST_ID}
    statements = FILL.replace("CAST(:policy AS jsonb)", policy)
    for name, value in values.items():
        statements = re.sub(rf":{name}\b", str(value).replace("\\", r"\\"), statements)
    async with begin(rt.engine) as conn:
        for statement in statements.split(";\n"):
            await conn.exec_driver_sql(statement)
    await tidy(here)
    gc.collect()
    gc.freeze()  # as the daemon does when it has started
    return fleet


async def tidy(here: Ground) -> None:
    """Have Postgres do now what it does at some time after many changes."""
    await here.checkpoint()
    connection = await ground.asyncpg.connect(here.url)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


async def measure_jobs(fleet: Fleet) -> None:
    rt = fleet.rt
    for one in runner.ALL.values():  # what is due at the first start: partitions, the first resync
        await one(rt)

    async def ask_due() -> int:
        async with begin(rt.engine) as conn:
            return len(await due.due_jobs(conn, rt.clock.now()))

    async def read_timeline() -> int:
        async with begin(rt.engine) as conn:
            vm = await vms.get(conn, fleet.submission_id, fleet.number // 2)
            assert vm is not None
            return len(await timeline.of_vm(conn, vm))

    await fleet.measure("due question, nothing due", ask_due)
    for name, one in runner.ALL.items():
        await fleet.measure(f"{name}, nothing due", lambda one=one: one(rt))
    await fleet.callbacks(CALLBACKS, "STOPPING")
    await fleet.measure(f"apply, {CALLBACKS} callbacks", lambda: apply.run_once(rt))
    await fleet.sql("UPDATE vms SET next_refresh_at = now() WHERE vm_no <= 10")
    await fleet.measure("refresh, 10 due", lambda: refresh.run_once(rt))
    await fleet.sql("UPDATE scheduled_jobs SET due_at = now() - interval '1 hour' WHERE job = 'resync'")
    await fleet.measure("refresh, resync of the whole list", lambda: refresh.run_once(rt))
    await fleet.sql(
        "DELETE FROM orphans;\nINSERT INTO orphans (submission_id, provider_id, creation_no, state, reason, found_at, due_at) "
        "SELECT :id, n, 1, 'suspected', '', now(), now() FROM generate_series(1, 8) AS n",
        id=fleet.submission_id,
    )
    await fleet.measure("orphan, 8 due", lambda: orphan.run_once(rt))
    await fleet.sql(
        "UPDATE submissions SET state = 'open', ended_at = NULL;\nUPDATE vms SET state = 'ERROR', ready = false, "
        "ready_at = NULL WHERE vm_no BETWEEN 500 AND 599;\nUPDATE vms SET state = 'BUILD', ready = false, ready_at = NULL, "
        "bound_at = now() WHERE vm_no = 600"
    )
    await fleet.measure("rescue, 100 VMs became stuck", lambda: rescue.run_once(rt))
    await fleet.sql("UPDATE vms SET state = 'ACTIVE', ready = true, ready_at = now() WHERE vm_no = 600")
    await fleet.measure("rescue, a submission of all of them ends", lambda: rescue.run_once(rt))
    await fleet.measure("timeline of a VM", read_timeline)


async def measure_idle(fleet: Fleet, seconds: float) -> dict[str, float]:
    """CPU of an idle daemon: jobs and clock, without the listeners."""
    stop = asyncio.Event()
    jobs = asyncio.create_task(runner.run(fleet.rt, stop, grace=5))
    await asyncio.sleep(2)
    before, cpu, began = await fleet.here.counters(), time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    spent, cpu, took = (await fleet.here.counters()).since(before), time.process_time() - cpu, time.monotonic() - began
    stop.set()
    await jobs
    return {"percent_of_a_core": cpu / took * 100, "postgres_percent": spent.postgres_seconds / took * 100}


async def measure_callbacks(fleet: Fleet, work: Callable[[], Awaitable[None]]) -> dict[str, float]:
    """How long it takes to store a callback in the process that does `work`, from when it was to be stored."""
    times: list[float] = []
    working = asyncio.ensure_future(work())
    began = time.monotonic()
    at = began
    while not working.done():
        at += PAUSE
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        async with begin(fleet.rt.engine) as conn:
            await events.insert(conn, [fleet.event(1 + len(times) % fleet.number, "STOPPING")])
        times.append(time.monotonic() - at)
    await working
    seconds = time.monotonic() - began
    spread = statistics.quantiles(times, n=100)
    return {"seconds": seconds, "callbacks": len(times), "p50_ms": spread[49] * 1000, "p99_ms": spread[98] * 1000}


async def measured(here: Ground, sizes: Sequence[int], seconds: float, holds: Holds) -> dict[str, object]:
    result: dict[str, list[dict[str, Any]]] = {"jobs": [], "fleets": []}
    for number in sizes:
        fleet = await fill(here, number, holds)
        await measure_jobs(fleet)
        await tidy(here)
        idle = await measure_idle(fleet, IDLE_SECONDS)

        async def all_jobs(fleet: Fleet = fleet) -> None:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                await fleet.sql("UPDATE scheduled_jobs SET due_at = now() - interval '1 hour' WHERE job = 'resync'")
                await fleet.callbacks(CALLBACKS, "SHUTOFF")
                await asyncio.gather(*(one(fleet.rt) for one in runner.ALL.values()))

        async def cancel(fleet: Fleet = fleet) -> None:
            await deletion.cancel(fleet.rt, fleet.submission_id, caller="bench")
            async with begin(fleet.rt.engine) as conn:
                left = bool(await vms.wanted(conn, fleet.submission_id, limit=1))
            while left:
                await rescue.run_once(fleet.rt)
                await apply.run_once(fleet.rt)
                async with begin(fleet.rt.engine) as conn:
                    left = bool(await vms.wanted(conn, fleet.submission_id, limit=1))

        fleets = {"vms": number, "idle": idle, "while_all_jobs_run": await measure_callbacks(fleet, all_jobs)}
        holds.longest = 0.0
        fleets["while_all_are_cancelled"] = await measure_callbacks(fleet, cancel)
        fleets["longest_hold_ms_while_cancelled"] = holds.longest * 1000
        fleets["resident_mb"] = resident_mb(ground.os.getpid())
        print(json.dumps(fleets), file=sys.stderr, flush=True)
        result["fleets"].append(fleets)
        result["jobs"] += fleet.rows
        await fleet.rt.engine.dispose()
    return result | {"postgres": await here.settings()}


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each job: seconds, rows read and longest hold with each number of VMs."""
    sizes = sorted({row["vms"] for row in rows})
    found = {(row["job"], row["vms"]): row for row in rows}
    heads = [f"{what}, {size:,} VMs" for what in ("ms", "rows read", "longest hold ms") for size in sizes]
    lines = ["| job | " + " | ".join(heads) + " |", "|---" + "|--:" * len(heads) + "|"]
    for job in dict.fromkeys(row["job"] for row in rows):
        of_it = [found[job, size] for size in sizes]
        cells = [f"{row['seconds'] * 1000:,.1f}" for row in of_it]
        cells += [f"{row['rows_read']:,}" for row in of_it] + [f"{row['longest_hold_ms']:.1f}" for row in of_it]
        lines.append(f"| {job} | " + " | ".join(cells) + " |")
    return lines


#: Jobs whose due work grows with the fleet, so that their ratio says nothing.
GROWING = ("refresh, resync of the whole list", "rescue, a submission of all of them ends")


def ratios(rows: Sequence[Mapping[str, Any]], fleets: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """How much dearer each thing is with the most VMs than with the fewest. At most 3 was aimed at."""
    first, last = min(row["vms"] for row in rows), max(row["vms"] for row in rows)
    found = {(row["job"], row["vms"]): row for row in rows}
    of_jobs = {
        job: {
            what: _ratio(found[job, last][what], found[job, first][what])
            for what in ("seconds", "rows_read", "longest_hold_ms")
        }
        for job in dict.fromkeys(row["job"] for row in rows)
        if job not in GROWING
    }
    small, large = fleets[0], fleets[-1]
    of_fleets = {
        "idle daemon": {what: _ratio(large["idle"][what], small["idle"][what]) for what in small["idle"]},
        **{
            f"callbacks, {when.replace('_', ' ')}": {
                what: _ratio(large[when][what], small[when][what]) for what in ("p50_ms", "p99_ms")
            }
            for when in ("while_all_jobs_run", "while_all_are_cancelled")
        },
        "process": {
            what: _ratio(large[what], small[what]) for what in ("resident_mb", "longest_hold_ms_while_cancelled")
        },
    }
    return of_jobs | of_fleets


def _ratio(large: float, small: float) -> float:
    return round(large / max(small, 1e-9), 2)


def ratio_table(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = ["", "| most VMs : fewest VMs | |", "|---|---|"]
    for name, each in found.items():
        cells = ", ".join(
            f"{what} {'**' if one > 3 else ''}{one:g}{'**' if one > 3 else ''}" for what, one in each.items()
        )
        lines.append(f"| {name} | {cells} |")
    return lines


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--vms", type=ground.numbers, default=[1000, 10_000, 100_000])
    arguments.add_argument("--seconds", type=float, default=10.0, help="of all jobs with callbacks")
    given = arguments.parse_args()
    holds = Holds()
    holds.install()
    with ground.ground() as here:
        result = ground.machine() | asyncio.run(measured(here, sorted(given.vms), given.seconds, holds))
    result["ratios"] = ratios(result["jobs"], result["fleets"])
    ground.write("jobs", result)
    print("\n".join([*table(result["jobs"]), *ratio_table(result["ratios"])]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

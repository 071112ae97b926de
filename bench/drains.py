"""The contenders of the apply bench: one process each, which finds its work in the database and applies all of it.

    python bench/drains.py KIND DATABASE_URL VMS EVENTS SEED

It prints `ready` once its work is there, begins when it is told a line, and ends with one line of JSON.

`ours` is the duty `apply` as the daemon runs it. The rivals get the same deliveries as jobs, each with the whole body,
and their job does what is left of it when all that is ours is taken away: it reads the body, and in one statement
that commits it moves the VM if it is where this move may come from, and writes the row of its history. They get what
made them fastest here: their fast drivers, uvloop, no log, a pool for their jobs, many jobs at once, and they are not
asked to keep the order of a VM's callbacks, which costs them moves and no time. `pgqueuer, empty` is a job that does
nothing at all: what the queue alone takes. `procrastinate, as it comes` has none of what made it faster. `ceiling` is the SQL alone, in sets of 1,000 from arrays that were made
before: no event is read, none is judged and nothing is taken from a queue.
"""

import gc
import json
import logging
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from uuid import UUID

import asyncpg
import fleet as fleets
import orjson
import uvloop
from fleet import IN_SUBMISSION, PATH, Fleet

from service.config import Settings
from service.core.event import Unreadable, parse
from service.core.ids import uuid7
from service.core.lifecycle import EXPECTED
from service.runtime.runtime import open_runtime
from service.worker import apply

CEILING_GROUP = 1000

#: Which states each state may be moved to from.
BEFORE: dict[str, list[str]] = defaultdict(list)
for _state, _following in EXPECTED.items():
    for _next in _following:
        BEFORE[_next.value].append(_state.value)

GUARDED = """
WITH moved AS (
    UPDATE vms SET state = $3, provider_status = $3, state_since = now(), seq = seq + 1, last_event_at = $5
    FROM (SELECT state AS was, vm_no AS no FROM vms WHERE submission_id = $1 AND provider_id = $2 FOR UPDATE) AS old
    WHERE submission_id = $1 AND vm_no = old.no AND old.was = ANY($4::text[])
    RETURNING submission_id, vm_no, seq, old.was, state
)
INSERT INTO transitions (submission_id, vm_no, seq, at, from_state, to_state, verdict, claimed, evidence, evidence_id,
                         evidence_at)
SELECT submission_id, vm_no, seq, now(), was, state, 'moved', state, 'event', $6, $5 FROM moved
"""

SETS = """
WITH moved AS (
    UPDATE vms SET state = new.state, state_since = now(), seq = vms.seq + 1
    FROM unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::uuid[]) AS new(submission_id, vm_no, was, state, id)
    WHERE vms.submission_id = new.submission_id AND vms.vm_no = new.vm_no AND vms.state = new.was
    RETURNING vms.submission_id, vms.vm_no, vms.seq, new.was, vms.state, new.id
)
INSERT INTO transitions (submission_id, vm_no, seq, at, from_state, to_state, verdict, claimed, evidence, evidence_id,
                         evidence_at)
SELECT submission_id, vm_no, seq, now(), was, state, 'moved', state, 'event', id, now() FROM moved
"""


Drain = Callable[[], Awaitable[object]]


@asynccontextmanager
async def ours(url: str, fleet: Fleet) -> AsyncIterator[Drain]:
    async def drain() -> None:
        while await apply.run_once(runtime):
            pass

    await fleets.deliver(url, fleet)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(_env_file=None, data_dir=Path(folder), callback_secrets="x" * 32, database_url=url)
        runtime = open_runtime(settings, url)
        yield drain
        await runtime.close()


@asynccontextmanager
async def ceiling(url: str, fleet: Fleet) -> AsyncIterator[Drain]:
    async def drain() -> None:
        for group in groups:
            await connection.execute(SETS, *group)

    groups = _sets(fleet)
    connection = await asyncpg.connect(url)
    await fleets.tidy(connection)
    yield drain
    await connection.close()


def _sets(fleet: Fleet) -> list[tuple[list[object], ...]]:
    """As many moves as there are deliveries: all VMs a step further, then all of them another."""
    moves = []
    now = datetime.now(UTC)
    for place in range(fleet.events):
        step, number = divmod(place, fleet.vms)
        was = PATH[(step - 1) % len(PATH)][1] if step else "CREATING"
        key = (fleets.submission(number), number % IN_SUBMISSION + 1)
        moves.append((*key, was, PATH[step % len(PATH)][1], uuid7(now, place.to_bytes(8, "big"))))
    cut = [moves[at : at + CEILING_GROUP] for at in range(0, len(moves), CEILING_GROUP)]
    return [tuple(map(list, zip(*group, strict=True))) for group in cut]


def _jobs(fleet: Fleet) -> Iterator[list[bytes]]:
    """The deliveries as a rival's jobs, 5,000 at a time: the body, and what the receiver knows beside it."""
    heard = fleet.deliveries(datetime.now(UTC) - timedelta(milliseconds=fleet.events))
    while some := list(islice(heard, 5000)):
        yield [
            orjson.dumps({
                "submission_id": str(one.submission_id),
                "event_id": str(one.event_id),
                "received_at": one.received_at.isoformat(),
                "body": one.body.decode(),
            })
            for one in some
        ]  # fmt: skip


async def _guarded(pool: asyncpg.Pool, job: dict[str, str]) -> None:
    """What a rival's job does."""
    callback = parse(job["body"].encode())
    if isinstance(callback, Unreadable) or callback.state is None:
        return
    await pool.execute(
        GUARDED,
        UUID(job["submission_id"]),
        callback.provider_id,
        callback.state.value,
        BEFORE[callback.state.value],
        datetime.fromisoformat(job["received_at"]),
        UUID(job["event_id"]),
    )


@asynccontextmanager
async def pgqueuer(url: str, fleet: Fleet, *, empty: bool = False) -> AsyncIterator[Drain]:
    from pgqueuer import PgQueuer  # noqa: PLC0415  only its own process loads a rival
    from pgqueuer.db import AsyncpgPoolDriver  # noqa: PLC0415  as above
    from pgqueuer.models import Job  # noqa: PLC0415  as above
    from pgqueuer.types import QueueExecutionMode  # noqa: PLC0415  as above

    async with _pool(url, 8) as own, _pool(url, 16) as pool:
        queue = PgQueuer(AsyncpgPoolDriver(own))
        await queue.queries.install()
        for some in _jobs(fleet):
            await queue.queries.enqueue(["apply"] * len(some), some, [0] * len(some))

        @queue.entrypoint("apply")
        async def one(job: Job) -> None:
            if not empty:
                await _guarded(pool, orjson.loads(job.payload))

        await _tidied(pool)
        yield partial(
            queue.run,
            mode=QueueExecutionMode.drain,
            batch_size=500,
            max_concurrent_tasks=2000,
            dequeue_timeout=timedelta(seconds=0.1),
        )
        await _nothing_left(pool, "pgqueuer")


@asynccontextmanager
async def procrastinate(url: str, fleet: Fleet, *, tuned: bool = True) -> AsyncIterator[Drain]:
    from procrastinate import App, PsycopgConnector  # noqa: PLC0415  as above

    sizes = {"min_size": 16, "max_size": 16} if tuned else {}
    connector = PsycopgConnector(conninfo=url, **sizes)
    async with _pool(url, 16) as pool, App(connector=connector).open_async() as app:
        await app.schema_manager.apply_schema_async()

        @app.task(name="apply")
        async def one(**job: str) -> None:
            await _guarded(pool, job)

        for some in _jobs(fleet):
            await one.batch_defer_async(*map(orjson.loads, some))
        await _tidied(pool)
        yield partial(
            app.run_worker_async,
            wait=False,
            install_signal_handlers=False,
            **({"concurrency": 16, "listen_notify": False, "delete_jobs": "successful"} if tuned else {}),
        )
        await _nothing_left(pool, "procrastinate_jobs WHERE status <> 'succeeded'")


def _pool(url: str, size: int) -> asyncpg.Pool:
    return asyncpg.create_pool(url, min_size=size, max_size=size)


async def _tidied(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        await fleets.tidy(connection)


async def _nothing_left(pool: asyncpg.Pool, table: str) -> None:
    if left := await pool.fetchval(f"SELECT count(*) FROM {table}"):
        raise AssertionError(f"{left} jobs are left")


CONTENDERS: dict[str, Callable[[str, Fleet], AbstractAsyncContextManager[Drain]]] = {
    "ours": ours,
    "pgqueuer": pgqueuer,
    "pgqueuer, empty": partial(pgqueuer, empty=True),
    "procrastinate": procrastinate,
    "procrastinate, as it comes": partial(procrastinate, tuned=False),
    "ceiling": ceiling,
}


async def drained(kind: str, url: str, fleet: Fleet) -> dict[str, float]:
    await fleets.settle(url, fleet)
    async with CONTENDERS[kind](url, fleet) as drain:
        gc.collect()
        gc.freeze()  # what was made to prepare the work is none of the work
        print("ready", flush=True)
        sys.stdin.readline()
        busy, begun = time.process_time(), time.perf_counter()
        await drain()
        return {"seconds": time.perf_counter() - begun, "client_cpu": time.process_time() - busy}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    kind_, url_, *sizes = sys.argv[1:]
    print(json.dumps(uvloop.run(drained(kind_, url_, Fleet(*map(int, sizes))))))

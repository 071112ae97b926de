"""How soon an auditor's questions are answered, beside the same asked of one plain table of events with the obvious indexes.

    .venv/bin/python bench/audit.py [--events 10000000] [--rounds 100] [--seed 1]

The record is of a year: a fifth as many transitions and a fiftieth as many VMs as events (audit_record.py). Each question is asked of
both in turn, about VMs and moments drawn at random; what reads much is asked a tenth as often. Then the events are exported beside COPY, and the
whole record is sealed and verified. A plain table has no availability of fleets and no proof, so nothing stands beside these.

10 million events take some 60 GB of disk and an hour and a half on two cores; a million a tenth of each.
Exit code 0 if everything was answered; `summary.slower` lists what takes longer than with the plain table, by the medians.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import audit_record
import export
import ground
import seal
import uvloop
from audit_record import YEAR
from ground import Ground
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.config import Settings
from service.core.vm import Vm
from service.queries import as_of, availability, diff, search, timeline
from service.queries import events as event_queries
from service.queries import statistics as statistic_queries
from service.queries.callback_statistics import callbacks
from service.queries.events import EventFilter
from service.queries.search_scope import SearchFilter
from service.queries.statistics import StatisticsPeriod
from service.runtime.runtime import open_runtime
from service.storage import vms
from service.storage.engine import begin, create_engine

MONTH = timedelta(days=30)
#: A question that is at most so many times as slow is not slower: figures of a run wobble by as much.
NOISE = 1.1

_STATES = "SELECT DISTINCT ON (submission_id, vm_no) submission_id, vm_no, to_state, name, at FROM plain_events WHERE kind = 'transition' AND at <= {} ORDER BY submission_id, vm_no, at DESC"
_FIRST = "min(at) FILTER (WHERE to_state = '{}')"


@dataclass(frozen=True, slots=True)
class Subject:
    """What a question is about: a VM and a moment, drawn at random."""

    vm: Vm
    address: str
    at: datetime

    @property
    def month(self) -> StatisticsPeriod:
        return StatisticsPeriod(self.at - MONTH, self.at)


@dataclass(frozen=True, slots=True)
class Question:
    """A question: how we answer it, and the statement for the plain table, with its arguments."""

    ours: Callable[[AsyncConnection, Subject], Awaitable[Any]]
    plain: str | None
    arguments: Callable[[Subject], tuple[Any, ...]]
    heavy: bool = False


def _of_vm(one: Subject) -> tuple[UUID, int]:
    return one.vm.submission_id, one.vm.vm_no


def _month(one: Subject) -> tuple[datetime, datetime]:
    return one.at - MONTH, one.at


async def _found(conn: AsyncConnection, which: SearchFilter) -> Any:
    return await search.page(conn, which, after=None, limit=100)


async def _differences(conn: AsyncConnection, one: Subject) -> None:
    moments = diff.Moments(one.at - MONTH, one.at)
    await diff.total(conn, moments)
    await diff.page(conn, moments, after=None, limit=100)


def _page(condition: str) -> str:
    return f"SELECT * FROM plain_events WHERE {condition} ORDER BY at DESC LIMIT 100"


QUESTIONS: Mapping[str, Question] = {
    "timeline of a VM": Question(
        lambda conn, one: timeline.of_vm(conn, one.vm),
        "SELECT * FROM plain_events WHERE submission_id = $1 AND vm_no = $2 ORDER BY at",
        _of_vm,
    ),
    "events of a VM": Question(
        lambda conn, one: event_queries.page_about(
            conn, EventFilter(), [(one.vm.submission_id, one.vm.creation_no, one.vm.provider_id)], before=None, limit=100
        ),
        _page("submission_id = $1 AND vm_no = $2 AND kind = 'callback'"),
        _of_vm,
    ),
    "search by provider id": Question(
        lambda conn, one: _found(conn, SearchFilter(provider_id=one.vm.provider_id)), _page("provider_id = $1"),
        lambda one: (one.vm.provider_id,),
    ),
    "search by name": Question(
        lambda conn, one: _found(conn, SearchFilter(name=one.vm.name)), _page("name = $1"), lambda one: (one.vm.name,)
    ),
    "search by address": Question(
        lambda conn, one: _found(conn, SearchFilter(address=one.address)), _page("address = $1"), lambda one: (one.address,)
    ),
    "newest transitions": Question(
        lambda conn, one: _found(conn, SearchFilter(kind="transition", until=one.at)),
        _page("kind = 'transition' AND at < $1"), lambda one: (one.at,),
    ),
    "newest events": Question(
        lambda conn, one: _found(conn, SearchFilter(kind="event", until=one.at)),
        _page("kind = 'callback' AND at < $1"), lambda one: (one.at,),
    ),
    "fleet at a moment": Question(
        lambda conn, one: as_of.count(conn, at=one.at),
        f"SELECT to_state, count(*) FROM ({_STATES.format('$1')}) AS states GROUP BY to_state", lambda one: (one.at,), heavy=True,
    ),
    "diff of a month": Question(
        _differences,
        f"""SELECT coalesce(a.submission_id, b.submission_id), a.to_state, b.to_state FROM ({_STATES.format('$1')}) AS a
            FULL JOIN ({_STATES.format('$2')}) AS b USING (submission_id, vm_no)
            WHERE a.to_state IS DISTINCT FROM b.to_state""",
        _month, heavy=True,
    ),
    "times over a month": Question(
        lambda conn, one: statistic_queries.times(conn, one.month),
        f"""SELECT flavor, count(*), percentile_cont(ARRAY[0.5, 0.9, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM active - begun))
            FROM (SELECT flavor, submission_id, vm_no, min(at) AS begun, {_FIRST.format('ACTIVE')} AS active
                  FROM plain_events WHERE kind = 'transition' AND at >= $1 AND at < $2 GROUP BY 1, 2, 3) AS each GROUP BY flavor""",
        _month, heavy=True,
    ),
    "failures over a month": Question(
        lambda conn, one: statistic_queries.failures(conn, one.month),
        """SELECT to_state, from_state, count(*) FROM plain_events WHERE kind = 'transition' AND at >= $1 AND at < $2
           AND to_state IN ('ERROR', 'LOST', 'REFUSED') GROUP BY 1, 2""",
        _month, heavy=True,
    ),
    "callbacks over a month": Question(
        lambda conn, one: callbacks(conn, one.month),
        """SELECT (SELECT count(*) - count(DISTINCT (submission_id, md5(body::text))) FROM plain_events
                   WHERE kind = 'callback' AND at >= $1 AND at < $2),
                  (SELECT count(*) FROM plain_events t WHERE kind = 'transition' AND evidence = 'observation' AND at >= $1 AND at < $2
                   AND NOT EXISTS (SELECT FROM plain_events e WHERE e.submission_id = t.submission_id AND e.vm_no = t.vm_no
                                   AND e.kind = 'callback' AND e.to_state = t.to_state))""",
        _month, heavy=True,
    ),
    "availability over a month": Question(
        lambda conn, one: availability.total(conn, one.month), None, lambda _: (), heavy=True
    ),
}  # fmt: skip


async def subjects(engine: AsyncEngine, first: datetime, count: int, rng: random.Random) -> list[Subject]:
    async with begin(engine) as conn:
        newest = (await conn.exec_driver_sql("SELECT max(provider_id) FROM vms")).scalar_one()
        found = []
        for _ in range(count):
            (vm,) = await vms.by_provider_id(conn, [rng.randint(1, newest)])
            moment = first + YEAR * rng.uniform(0.2, 1.0)
            found.append(Subject(vm, str(vm.floating_ip), moment))
        return found


async def asked(url: str, first: datetime, rounds: int, rng: random.Random) -> list[dict[str, object]]:
    engine = create_engine(url)
    plain = await asyncpg.connect(url)
    about = await subjects(engine, first, rounds, rng)
    rows = []
    for name, question in QUESTIONS.items():
        some = about[: max(5, rounds // 10)] if question.heavy else about
        took: dict[str, list[float]] = {"ours": [], "plain": []}
        for one in some:
            begun = time.perf_counter()
            async with begin(engine) as conn:
                await question.ours(conn, one)
            took["ours"].append((time.perf_counter() - begun) * 1000)
            if question.plain is not None:
                begun = time.perf_counter()
                await plain.fetch(question.plain, *question.arguments(one))
                took["plain"].append((time.perf_counter() - begun) * 1000)
        rows.append({"question": name, **_summary("ours", took["ours"]), **_summary("plain", took["plain"])})
        print(json.dumps(rows[-1]), file=sys.stderr)
    await plain.close()
    await engine.dispose()
    return rows


def _summary(name: str, took: list[float]) -> dict[str, float]:
    if not took:
        return {}
    ordered = sorted(took)
    return {f"{name}_p50_ms": statistics.median(ordered), f"{name}_p95_ms": ordered[int(len(ordered) * 0.95)]}


async def proved(url: str) -> dict[str, float]:
    """The rows a second that are sealed and verified, of the whole record."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(_env_file=None, data_dir=Path(folder), callback_secrets="x" * 32, database_url=url)
        rt = open_runtime(settings, url)
        rows, sealing, verifying = await seal.sealed_and_verified(rt)
        await rt.close()
    return {"rows": rows, "sealed_per_second": rows / sealing, "verified_per_second": rows / verifying}


async def exported(url: str) -> dict[str, float]:
    """The rate of an export of all events, and its share of COPY's."""
    copy = await export.copied(url)
    took, rows = await export.exported(url, "ndjson")
    return {"events": rows, "per_second": rows / took, "of_copy": copy / took}


async def measured(here: Ground, events: int, rounds: int, seed: int) -> dict[str, object]:
    url = await here.fresh()
    begun = time.perf_counter()
    first = await audit_record.fill(url, events)
    filled = time.perf_counter()
    await audit_record.fill_plain(url)
    print(f"made in {filled - begun:.0f} s, the plain table in {time.perf_counter() - filled:.0f} s", file=sys.stderr)
    rows = await asked(url, first, rounds, random.Random(seed))
    taken, sealing = await exported(url), await proved(url)
    slower = [row["question"] for row in rows if row["ours_p50_ms"] > NOISE * row.get("plain_p50_ms", float("inf"))]
    return {"questions": rows, "export": taken, "proof": sealing, "summary": {"slower": slower}}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--events", type=int, default=10_000_000)
    arguments.add_argument("--rounds", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()
    with ground.ground() as here:
        result = ground.machine() | vars(given) | uvloop.run(measured(here, given.events, given.rounds, given.seed))
    ground.write("audit", result)
    print(json.dumps({name: result[name] for name in ("questions", "export", "proof", "summary")}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

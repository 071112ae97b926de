"""How soon an auditor's questions are answered, beside the same asked of one plain table of events with the obvious indexes.

    .venv/bin/python bench/audit.py [--events 10000000] [--rounds 100] [--seed 1] [--record FOLDER [--prove]]

The record is of a year: a fifth as many transitions and a fiftieth as many VMs as events (audit_record.py). Each question is asked of
both in turn, about VMs and moments drawn at random; what reads much is asked a tenth as often. Then the events are exported beside COPY, and the
whole record is sealed and verified. A plain table has no availability of fleets and no proof, so nothing stands beside these.

Both are asked as a service asks: through the same pool, in a transaction of their own, until the answer is there as records with their JSON
decoded. `bare` is the plain table's statement alone, sent by the driver, its rows left as they came: nobody can serve that, and it is not compared.
The plain table holds transitions, callbacks and calls. What we answer besides, it does not:

- timeline: assignments, actions, the VM's own row, which call or event moved it, and sentences for people;
- searches: also the VMs, submissions, calls and actions that match, and events of the VM that came without its name or address;
- fleet and difference: counts by region, flavor and contract too, and what each VM was and is;
- times: until ready; failures: contracts and dead letters;
- callbacks: in time, late and lost. The plain table only says which changes no callback names at all, by its column of decoded states.

With `--record` the record is kept in a folder, made if it is not there, and only the questions are asked: sealing would change it. With
`--prove` too it is exported and sealed all the same.

10 million events take some 30 GB of disk and half an hour on two cores; a million a tenth of each.
`summary.slower` lists what takes longer than with the plain table, by the medians, and `summary.over_aim` what takes longer than was aimed at
on a quiet machine. Exit code 1 if anything is slower.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
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
from service.queries import as_of, availability, diff, search, timeline, vm_events
from service.queries import statistics as statistic_queries
from service.queries.callback_statistics import callbacks
from service.queries.events import EventFilter
from service.queries.search_scope import SearchFilter
from service.queries.statistics import StatisticsPeriod
from service.queries.vm_events import VmIds
from service.runtime.runtime import open_runtime
from service.storage import vms
from service.storage.engine import begin, create_engine

MONTH = timedelta(days=30)
#: A question that is at most so many times as slow is not slower: figures of a run wobble by as much.
NOISE = 1.1
#: What was aimed at on a quiet machine: a question begins with this, which figure, milliseconds.
AIMS = (
    ("timeline", "ours_p95_ms", 20), ("fleet", "ours_p50_ms", 500), ("search", "ours_p50_ms", 50), ("newest", "ours_p50_ms", 50),
    ("times", "ours_p50_ms", 1000), ("failures", "ours_p50_ms", 1000), ("callbacks", "ours_p50_ms", 1000), ("availability", "ours_p50_ms", 1000),
)  # fmt: skip

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
        lambda conn, one: vm_events.page(
            conn, EventFilter(), [VmIds(one.vm.submission_id, one.vm.creation_no, one.vm.provider_id)], before=None, limit=100
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
        f"""SELECT by, key, count(*), count(creating), percentile_cont(ARRAY[0.5, 0.9, 0.99]) WITHIN GROUP (ORDER BY creating),
                   count(active), percentile_cont(ARRAY[0.5, 0.9, 0.99]) WITHIN GROUP (ORDER BY active)
            FROM (SELECT flavor, region, environment, min(at) AS begun, extract(epoch FROM {_FIRST.format('CREATING')} - min(at)) AS creating,
                         extract(epoch FROM {_FIRST.format('ACTIVE')} - min(at)) AS active
                  FROM plain_events WHERE kind = 'transition' AND at >= $1 AND at < $2 GROUP BY submission_id, vm_no, 1, 2, 3) AS each
            CROSS JOIN LATERAL (VALUES ('all', 'all'), ('flavor', flavor), ('region', region), ('environment', environment),
                ('hour', to_char(begun AT TIME ZONE 'UTC', 'HH24')), ('day', to_char(begun AT TIME ZONE 'UTC', 'YYYY-MM-DD'))) AS keys (by, key)
            GROUP BY 1, 2""",
        _month, heavy=True,
    ),
    "failures over a month": Question(
        lambda conn, one: statistic_queries.failures(conn, one.month),
        """SELECT kind, to_state, from_state, count(*) FROM plain_events WHERE at >= $1 AND at < $2
           AND (kind = 'transition' AND to_state IN ('ERROR', 'LOST', 'REFUSED') OR kind = 'call' AND to_state <> 'ok') GROUP BY 1, 2, 3""",
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


async def answered(engine: AsyncEngine, statement: str, arguments: tuple[Any, ...]) -> list[dict[str, Any]]:
    """What a service on the plain table would answer."""
    async with begin(engine) as conn:
        return [dict(row) for row in (await conn.exec_driver_sql(statement, arguments)).mappings()]


async def asked(url: str, first: datetime, rounds: int, rng: random.Random) -> list[dict[str, object]]:
    engine = create_engine(url)
    plain = await asyncpg.connect(url)
    about = await subjects(engine, first, rounds, rng)
    rows = []
    for name, question in QUESTIONS.items():
        some = about[: max(5, rounds // 10)] if question.heavy else about
        took: dict[str, list[float]] = {"ours": [], "plain": [], "bare": []}
        for one in some:
            begun = time.perf_counter()
            async with begin(engine) as conn:
                await question.ours(conn, one)
            took["ours"].append((time.perf_counter() - begun) * 1000)
            if question.plain is not None:
                begun = time.perf_counter()
                await answered(engine, question.plain, question.arguments(one))
                took["plain"].append((time.perf_counter() - begun) * 1000)
                begun = time.perf_counter()
                await plain.fetch(question.plain, *question.arguments(one))
                took["bare"].append((time.perf_counter() - begun) * 1000)
        rows.append(
            {"question": name} | {key: one for who, all_ in took.items() for key, one in _summary(who, all_).items()}
        )
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


def table(result: Mapping[str, Any]) -> Iterator[str]:
    """The questions for people, as Markdown; then the export and the proof."""
    yield f"{result['events']:,} events. What each of the two answers is in audit.py.\n"
    yield "| question | p50 | p95 | plain table, p50 | p95 | of its time |\n|---|--:|--:|--:|--:|--:|"
    for one in result["questions"]:
        figures = (one.get(f"{who}_{which}_ms") for who in ("ours", "plain") for which in ("p50", "p95"))
        cells = " | ".join("" if figure is None else f"{figure:,.1f} ms" for figure in figures)
        times = f"{one['ours_p50_ms'] / one['plain_p50_ms']:.2f}" if "plain_p50_ms" in one else ""
        yield f"| {one['question']} | {cells} | {times} |"
    exported, proved = result["export"], result["proof"]
    yield f"\nThe export of all events has {exported['of_copy']:.2f} of the rate of `COPY` ({exported['per_second']:,.0f} events/s)."
    yield f"All {proved['rows']:,} rows are sealed at {proved['sealed_per_second']:,.0f}/s and verified at {proved['verified_per_second']:,.0f}/s."


async def made(here: Ground, events: int) -> tuple[str, datetime]:
    """A record in a new database: its URL, and its first moment."""
    url = await here.fresh()
    begun = time.perf_counter()
    first = await audit_record.fill(url, events)
    filled = time.perf_counter()
    await audit_record.fill_plain(url)
    print(f"made in {filled - begun:.0f} s, the plain table in {time.perf_counter() - filled:.0f} s", file=sys.stderr)
    return url, first


async def kept(here: Ground, events: int, folder: Path) -> tuple[str, datetime]:
    """The same, of a folder in which it stays."""
    about = folder / "record.json"
    if not about.exists():
        url, first = await made(here, events)
        about.write_text(json.dumps({"database": here.database, "first": first.isoformat(), "events": events}))
        return url, first
    known = json.loads(about.read_text())
    if known["events"] != events:
        raise SystemExit(f"{folder} has a record of {known['events']} events")
    here.database = known["database"]
    return here.url, datetime.fromisoformat(known["first"])


async def measured(
    here: Ground, events: int, rounds: int, seed: int, record: Path | None, *, prove: bool
) -> dict[str, object]:
    url, first = await (kept(here, events, record) if record else made(here, events))
    rows = await asked(url, first, rounds, random.Random(seed))
    others = {"export": await exported(url), "proof": await proved(url)} if prove else {}
    slower = [row["question"] for row in rows if row["ours_p50_ms"] > NOISE * row.get("plain_p50_ms", float("inf"))]
    over = [
        row["question"]
        for row in rows
        for what, figure, ms in AIMS
        if row["question"].startswith(what) and row[figure] > ms
    ]
    return {"questions": rows, **others, "summary": {"slower": slower, "over_aim": over}}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--events", type=int, default=10_000_000)
    arguments.add_argument("--rounds", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--record", type=Path, help="a folder to keep the record in")
    arguments.add_argument("--prove", action="store_true", help="export and seal the kept record too")
    given = arguments.parse_args()
    asked_for = {"events": given.events, "rounds": given.rounds, "seed": given.seed}
    prove = given.prove or given.record is None
    with ground.ground(given.record) as here:
        work = measured(here, **asked_for, record=given.record, prove=prove)
        result = ground.machine() | asked_for | uvloop.run(work)
    ground.write("audit", result)
    shown = ("questions", "export", "proof", "summary")
    print(json.dumps({name: result[name] for name in shown if name in result}, indent=1))
    return 1 if result["summary"]["slower"] else 0


if __name__ == "__main__":
    sys.exit(main())

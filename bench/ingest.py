"""Ingest: how many callbacks a second become durable, beside a handler that does nothing and those one writes first.

    .venv/bin/python bench/ingest.py [--rounds 5] [--seconds 5] [--kinds ours,nothing] ...

Every contender has a fresh database and a process of its own, is warmed up for a second, and is measured turn by turn
with the others. A 2xx alone counts for nothing: the bench stops with an error if a contender has acknowledged more
than is in its table; and for ours, once a run, after Postgres was stopped as by a power cut. Figures go to bench/results/ingest.json and, as a table, to standard output.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg
import ground
import load
import memory
from ground import Ground, cpu_seconds, resident_mb
from servers import KEPT_IN, submission

from service.lab.demo.stage import free_ports

WARM_UP = 1.0
FIGURES = ("per_second", "p50_ms", "p99_ms", "server_cpu_us", "postgres_cpu_us", "wal_bytes", "commits", "memory_mb")


@dataclass(frozen=True)
class Setting:
    """How a contender is loaded. `rate` is None for a closed loop."""

    connections: int
    size: int
    rate: int | None

    def __str__(self) -> str:
        loop = "closed loop" if self.rate is None else f"{self.rate}/s"
        return f"{loop}, {self.connections} connections, {self.size} B"

    def load(self, seconds: float, port: int) -> dict[str, float]:
        if self.rate is None:
            return load.closed(self.connections, seconds, port, load.said(self.size))
        return load.at_rate(self.rate, self.connections, seconds, port, load.said(self.size))


async def measure(
    here: Ground, kinds: Sequence[str], settings: Sequence[Setting], *, rounds: int, seconds: float
) -> list[dict[str, object]]:
    """Every contender at every setting, turn by turn, so that a bad minute of the machine is shared by all."""
    runs: list[dict[str, object]] = []
    for number in range(rounds):
        for setting in settings:
            for kind in _turned(kinds, number):
                last = number == rounds - 1 and setting == settings[-1]
                one = await _once(here, kind, setting, seconds, crash=last and kind == "ours")
                runs.append({"kind": kind, **asdict(setting), "round": number, **one})
                _say(number, kind, one, setting)
    return runs


async def _once(here: Ground, kind: str, setting: Setting, seconds: float, *, crash: bool) -> dict[str, float]:
    url = await here.fresh()
    if kind == "daemon":
        await _fill(url)
    with memory.daemon(url) if kind == "daemon" else server(kind, url) as (pid, port):
        warm = load.closed(setting.connections, WARM_UP, port, load.said(setting.size))
        before, busy = await here.counters(), cpu_seconds(pid)
        told = setting.load(seconds, port)
        busy = cpu_seconds(pid) - busy
        resident = resident_mb(pid)
    spent = (await here.counters()).since(before)
    if crash:
        here.crash()
    await _check(here, kind, warm["answered"] + told["answered"])
    await here.drop()
    each = max(told["answered"], 1)
    return {
        **told,
        "per_second": told["answered"] / told["seconds"],
        "server_cpu_us": busy / each * 1e6,
        "postgres_cpu_us": spent.postgres_seconds / each * 1e6,
        "wal_bytes": spent.wal_bytes / each,
        "commits": spent.commits / each,
        "memory_mb": resident,
    }


_FLEET = """
INSERT INTO submissions (submission_id, name, count, spec, policy, requested_by, next_creation_no, next_vm_no, created_at,
                         deadline_at, state, ended_at)
SELECT id, 'bench', 1, '{}', '{}', 'bench', 2, 2, now(), now() + interval '1 day', 'ready', now() FROM unnest($1::uuid[]) AS id;
INSERT INTO creations (submission_id, creation_no, vm_count, name, state, attempt, created_at, completed_at, first_sent_at,
                       deadline_at)
SELECT id, 1, 1, 'bench', 'answered', 1, now(), now(), now(), now() FROM unnest($1::uuid[]) AS id;
INSERT INTO vms (submission_id, vm_no, creation_no, provider_id, name, state, provider_status, state_since, observed_at,
                 next_refresh_at, wants_address, flavor, environment, assignment, created_at, bound_at)
SELECT id, 1, 1, 507279, 'bench', 'CREATING', 'CREATING', now(), now(), now() + interval '1 day', false, 'f', 'e', 'none',
       now(), now() FROM unnest($1::uuid[]) AS id
"""


async def _fill(url: str) -> None:
    """The VMs that the callbacks name: the whole daemon applies them."""
    connection = await asyncpg.connect(url)
    for statement in _FLEET.split(";\n"):
        await connection.execute(statement, [submission(number) for number in range(load.TOKENS)])
    await connection.close()


async def _check(here: Ground, kind: str, acknowledged: float) -> None:
    if not acknowledged:
        raise AssertionError(f"{kind} acknowledged nothing: it is broken, and no rival")
    table = KEPT_IN[kind]
    if table is not None and (kept := await here.count(table)) < acknowledged:
        raise AssertionError(f"{kind}: {acknowledged} were acknowledged and {kept} are in the table")


@contextlib.contextmanager
def server(kind: str, url: str) -> Iterator[tuple[int, int]]:
    """A contender in a process of its own: its process id, and the port on which it listens."""
    (port,) = free_ports(1)
    command = [sys.executable, str(Path(__file__).with_name("servers.py")), kind, str(port), url]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            if process.stdout.readline().strip() != "ready":
                errors.seek(0)
                raise RuntimeError(f"{kind!r} did not start: {errors.read().decode()[-2000:]}")
            yield process.pid, port
        finally:
            process.terminate()
            process.wait(30)


def _turned(kinds: Sequence[str], number: int) -> Sequence[str]:
    turn = number % len(kinds)
    return [*kinds[turn:], *kinds[:turn]]


def summary(runs: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Median, minimum and maximum of each figure, for each contender at each setting."""
    groups: dict[tuple[object, ...], list[Mapping[str, object]]] = {}
    for run in runs:
        groups.setdefault((run["connections"], run["size"], run["rate"], run["kind"]), []).append(run)
    return [
        {
            **dict(zip(("connections", "size", "rate", "kind"), group, strict=True)),
            "failed": sum(one["failed"] for one in some),
            **{figure: _spread([one[figure] for one in some]) for figure in FIGURES},
        }
        for group, some in groups.items()
    ]


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def table(rows: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """The summary for people, as Markdown: a table for each setting, its contenders from the fastest on."""
    for setting in dict.fromkeys(Setting(one["connections"], one["size"], one["rate"]) for one in rows):
        some = [one for one in rows if Setting(one["connections"], one["size"], one["rate"]) == setting]
        ceiling = next((one for one in some if one["kind"] == "nothing"), None)
        yield f"\n{setting}\n"
        yield "| contender | events/s | of the ceiling | p50 ms | p99 ms | server CPU µs | Postgres CPU µs | WAL bytes | commits | failed |"
        yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
        for one in sorted(some, key=lambda one: -one["per_second"]["median"]):
            yield "| " + " | ".join(_cells(one, ceiling)) + " |"


def _cells(one: Mapping[str, object], ceiling: Mapping[str, object] | None) -> Iterator[str]:
    rate, p99 = one["per_second"], one["p99_ms"]
    yield one["kind"]
    yield f"{rate['median']:,.0f} ({rate['min']:,.0f}-{rate['max']:,.0f})"
    yield f"{rate['median'] / ceiling['per_second']['median']:.2f}" if ceiling and not one["rate"] else ""
    yield f"{one['p50_ms']['median']:.1f}"
    yield f"{p99['median']:.1f} ({p99['min']:.1f}-{p99['max']:.1f})"
    yield f"{one['server_cpu_us']['median']:.0f}"
    yield f"{one['postgres_cpu_us']['median']:.0f}"
    yield f"{one['wal_bytes']['median']:.0f}"
    yield f"{one['commits']['median']:.3f}"
    yield str(one["failed"])


def _say(number: int, kind: str, one: Mapping[str, float], setting: Setting) -> None:
    told = f"{one['per_second']:>9,.0f}/s  p50 {one['p50_ms']:.1f} ms  p99 {one['p99_ms']:.1f} ms"
    print(f"round {number}  {setting!s:<42} {kind:<16} {told}  failed {one['failed']}", file=sys.stderr, flush=True)


async def run(here: Ground, asked: argparse.Namespace, settings: Sequence[Setting]) -> dict[str, object]:
    await here.warm()
    runs = await measure(here, asked.kinds, settings, rounds=asked.rounds, seconds=asked.seconds)
    about = {
        "rounds": asked.rounds,
        "seconds": asked.seconds,
        "warm_up_seconds": WARM_UP,
        "seeds": {"a body": "its size", "tokens": load.TOKENS},
        "wrk": shutil.which("wrk") is not None,
        "load_after": os.getloadavg()[0],
        "postgres": await here.settings(),
    }
    return {**about, "summary": summary(runs), "runs": runs}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    numbers, words = (lambda text: [int(one) for one in text.split(",") if one]), (lambda text: text.split(","))
    arguments.add_argument("--kinds", type=words, default=list(KEPT_IN), help="contenders, by comma")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=5.0, help="of load in each measurement")
    arguments.add_argument("--connections", type=numbers, default=[64, 256])
    arguments.add_argument("--sizes", type=numbers, default=[320, 4096], help="bytes of a body")
    arguments.add_argument("--rates", type=numbers, default=[1000, 5000], help="events a second of the open loop")
    asked = arguments.parse_args()
    settings = [Setting(connections, size, None) for connections in asked.connections for size in asked.sizes]
    # Fixed rates need as many connections as there are: a slow answer must not keep the next request from being sent.
    settings += [Setting(max(asked.connections), size, rate) for rate in asked.rates for size in asked.sizes]
    about = ground.machine()
    with ground.ground() as here:
        result = {**about, **asyncio.run(run(here, asked, settings))}
    ground.write("ingest", result)
    print("\n".join(table(result["summary"])))


if __name__ == "__main__":
    main()

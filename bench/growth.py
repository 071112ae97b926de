"""Growth: how fast callbacks are stored and applied, and in how much memory, with up to 100 million events on record.

    .venv/bin/python bench/growth.py [--events 0,1000000,10000000,100000000] [--times 10] [--rounds 5] [--seconds 5]

Each state of a VM is told ten times, so that 100 million events are of 2 million VMs. They take some 60 GB of disk and half an hour to make.

Each record is a database of its own on the same server (as_of.py), and each round goes through all of them: callbacks
about VMs under way are sent in a closed loop for N seconds, and then everything that was stored is applied. What a
round writes stays, as dead rows of the queue do. Figures go to bench/results/growth.json and, as a table, to standard
output; CPU is that of the process and of Postgres together, since it wobbles less with the machine than a rate does.
Exit code 0 if nothing is lost and no rate with the most events is under 90 % of that with the fewest.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import as_of
import ground
import ingest
import load
from ground import Ground, cpu_seconds, resident_mb

CONNECTIONS = 64
WARM_UP = 1.0
ENOUGH = 0.9
RATES = ("ingest_per_second", "apply_per_second")
FIGURES = (*RATES, "ingest_p99_ms", "ingest_cpu_us", "ingest_wal_bytes", "apply_cpu_us", "receiver_mb", "worker_mb")


async def measured(here: Ground, sizes: Sequence[int], times: int, rounds: int, seconds: float) -> dict[str, object]:
    await here.warm()
    urls = {size: await _filled(here, size, times) for size in sizes}
    runs = []
    for number in range(rounds):
        turn = number % len(sizes)
        for size in (*sizes[turn:], *sizes[:turn]):
            runs.append({"events": size, "round": number, **await _once(here, urls[size], seconds)})
            print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    return {
        "summary": [{"events": size, **_spread([one for one in runs if one["events"] == size])} for size in sizes],
        "runs": runs,
        "sizes": {size: await _sizes(url) for size, url in urls.items()},
        "postgres": await here.settings(),
    }


async def _filled(here: Ground, events: int, times: int) -> str:
    url = await here.fresh()
    begun = time.monotonic()
    await here.set("autovacuum", "off")  # it would go through the same rows again and again
    await as_of.fill(url, events, times)
    await here.set("autovacuum", "on")
    print(f"{events} events on record after {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    await here.checkpoint()
    return url


async def _once(here: Ground, url: str, seconds: float) -> dict[str, float]:
    before = await _count(url, "events")
    with ingest.server("ours", url) as (pid, port):
        warm = load.closed(CONNECTIONS, WARM_UP, port, as_of.said())
        start, busy = await here.counters(), cpu_seconds(pid)
        told = load.closed(CONNECTIONS, seconds, port, as_of.said())
        spent = (await here.counters()).since(start)
        ingest_cpu = cpu_seconds(pid) - busy + spent.postgres_seconds
        receiver = resident_mb(pid)
    kept, acknowledged = await _count(url, "events") - before, warm["answered"] + told["answered"]
    if kept < acknowledged:
        raise AssertionError(f"{acknowledged} were acknowledged and {kept} are in the table")
    start = await here.counters()
    applied = json.loads(_applied(url))
    apply_cpu = applied["cpu_seconds"] + (await here.counters()).since(start).postgres_seconds
    if applied["events"] != kept:
        raise AssertionError(f"{kept} were kept and {applied['events']} applied")
    return {
        "ingest_per_second": told["answered"] / told["seconds"],
        "ingest_p99_ms": told["p99_ms"],
        "apply_per_second": applied["events"] / applied["seconds"],
        "ingest_cpu_us": ingest_cpu / told["answered"] * 1e6,
        "ingest_wal_bytes": spent.wal_bytes / told["answered"],
        "apply_cpu_us": apply_cpu / kept * 1e6,
        "receiver_mb": receiver,
        "worker_mb": applied["resident_mb"],
        "queue_dead": await _dead(url),
    }


def _applied(url: str) -> str:
    command = [sys.executable, str(Path(__file__).with_name("worker.py")), url]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout


async def _count(url: str, table: str) -> int:
    # By the statistics of what was inserted: counting ten million rows would drive everything else out of memory.
    return await ground.number(url, f"SELECT sum(pg_stat_get_tuples_inserted(relid)) FROM pg_partition_tree('{table}')")


async def _dead(url: str) -> int:
    return await ground.number(url, "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'inbox'")


async def _sizes(url: str) -> dict[str, int]:
    """Bytes on the disk, with indexes."""
    names = ("events", "inbox", "transitions", "vms")
    # A table without partitions is not in its own tree.
    total = "SELECT coalesce((SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('{0}')), pg_total_relation_size('{0}'))::bigint"
    return {name: await ground.number(url, total.format(name)) for name in names}


def _spread(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    values = {figure: [one[figure] for one in runs] for figure in FIGURES}
    return {
        figure: {"median": statistics.median(some), "min": min(some), "max": max(some)}
        for figure, some in values.items()
    }


def table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    lines = [
        "| events on record | stored/s | applied/s | p99 ms of storing | CPU µs to store | WAL bytes to store | CPU µs to apply | receiver MB | worker MB |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for one in rows:
        cells = [f"{one[name]['median']:,.0f} ({one[name]['min']:,.0f}-{one[name]['max']:,.0f})" for name in FIGURES]
        lines.append(f"| {one['events']:,} | " + " | ".join(cells) + " |")
    return lines


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--events", type=ground.numbers, default=[0, 1_000_000, 10_000_000, 100_000_000])
    arguments.add_argument("--times", type=int, default=10, help="that each state of a VM is told")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=5.0, help="of load in each measurement")
    asked = arguments.parse_args()
    about = ground.machine() | {
        "times": asked.times,
        "rounds": asked.rounds,
        "seconds": asked.seconds,
        "connections": CONNECTIONS,
    }
    with ground.ground() as here:
        result = about | asyncio.run(measured(here, sorted(asked.events), asked.times, asked.rounds, asked.seconds))
    ground.write("growth", result)
    print("\n".join(table(result["summary"])))
    shares = {rate: share(result["runs"], rate) for rate in RATES}
    print(", ".join(f"{rate}: {left:.2f} of that with the fewest" for rate, left in shares.items()))
    return 0 if min(shares.values()) >= ENOUGH else 1


def share(runs: Sequence[Mapping[str, float]], rate: str) -> float:
    """What is left of a rate with the most events: of each round by itself, and then the median."""
    most, fewest = max(one["events"] for one in runs), min(one["events"] for one in runs)
    found = {(one["round"], one["events"]): one[rate] for one in runs}
    return statistics.median(found[number, most] / found[number, fewest] for number in {one["round"] for one in runs})


if __name__ == "__main__":
    sys.exit(main())

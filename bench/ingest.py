"""Ingest: how many callbacks a second become durable, beside a handler that does nothing and those one writes first."""

import contextlib
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import load
from ground import Ground, cpu_seconds, resident_mb

KINDS = ("nothing", "ours", "row", "first")


async def measure(ground: Ground, *, rounds: int, seconds: float, rates: tuple[int, ...]) -> dict[str, object]:
    """Every contender at every setting, turn by turn, so that a bad minute of the machine is shared by all."""
    settings = [(connections, size) for connections in (64, 256) for size in (320, 4096)]
    runs: list[dict[str, object]] = []
    for number in range(rounds + 1):
        for connections, size in settings:
            for kind in _turned(KINDS, number):
                one = await _once(ground, kind, lambda port, c=connections, s=size: load.closed(c, seconds, port, s))
                # The first round warms up: WAL files are made and caches filled; it is not counted.
                if number:
                    runs.append({"kind": kind, "loop": "closed", "connections": connections, "size": size, **one})
                _say(number, kind, one, f"{connections} connections, {size} B")
        for rate in rates:
            for kind in _turned(KINDS, number):
                one = await _once(ground, kind, lambda port, r=rate: load.at_rate(r, 64, seconds, port, 320))
                if number:
                    runs.append({"kind": kind, "loop": "open", "rate": rate, "size": 320, **one})
                _say(number, kind, one, f"{rate}/s")
    return {"summary": _summary(runs), "runs": runs}


async def _once(ground: Ground, kind: str, send: Callable[[int], dict[str, float]]) -> dict[str, float]:
    url = await ground.fresh()
    with server(kind, url) as (pid, port):
        before, busy = await ground.counters(), cpu_seconds(pid)
        told = send(port)
        busy = cpu_seconds(pid) - busy
        memory = resident_mb(pid)
    spent = (await ground.counters()).since(before)
    kept = await ground.count("events")
    await ground.drop()
    if kind != "nothing" and kept < told["answered"]:
        raise AssertionError(f"{kind}: {told['answered']} were acknowledged and {kept} are in the table")
    each = max(told["answered"], 1)
    return {
        **told,
        "per_second": told["answered"] / told["seconds"],
        "server_cpu_us": busy / each * 1e6,
        "postgres_cpu_us": spent.postgres_seconds / each * 1e6,
        "wal_bytes": spent.wal_bytes / each,
        "commits": spent.commits / each,
        "memory_mb": memory,
    }


@contextlib.contextmanager
def server(kind: str, url: str) -> Iterator[tuple[int, int]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(Path(__file__).with_name("servers.py")), kind, str(port), url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"the server {kind!r} did not start")
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(30)


def _turned(kinds: tuple[str, ...], number: int) -> tuple[str, ...]:
    turn = number % len(kinds)
    return kinds[turn:] + kinds[:turn]


def _summary(runs: list[dict[str, object]]) -> list[dict[str, object]]:
    """Median, minimum and maximum of each figure, for each contender at each setting."""
    groups: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for run in runs:
        groups.setdefault((run["kind"], run["loop"], run.get("connections"), run.get("rate"), run["size"]), []).append(
            run
        )
    figures = (
        "per_second",
        "p50_ms",
        "p99_ms",
        "server_cpu_us",
        "postgres_cpu_us",
        "wal_bytes",
        "commits",
        "memory_mb",
    )
    return [
        {
            "kind": kind,
            "loop": loop,
            "connections": connections,
            "rate": rate,
            "size": size,
            "failed": sum(one["failed"] for one in some),
            **{figure: _spread([one[figure] for one in some]) for figure in figures},
        }
        for (kind, loop, connections, rate, size), some in groups.items()
    ]


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def table(result: dict[str, object]) -> Iterator[str]:
    """The summary for people, as Markdown."""
    yield "| loop | size | contender | events/s | of the ceiling | p50 ms | p99 ms | server CPU µs | WAL bytes | commits |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    rows = result["summary"]
    ceiling = {_setting(one): one["per_second"]["median"] for one in rows if one["kind"] == "nothing"}
    for one in sorted(rows, key=lambda one: (str(_setting(one)), KINDS.index(one["kind"]))):
        rate = one["per_second"]
        cells = [
            f"{one['connections']} connections" if one["loop"] == "closed" else f"{one['rate']}/s",
            f"{one['size']} B",
            one["kind"],
            f"{rate['median']:,.0f} ({rate['min']:,.0f}-{rate['max']:,.0f})",
            f"{rate['median'] / ceiling[_setting(one)]:.2f}",
            f"{one['p50_ms']['median']:.1f}",
            f"{one['p99_ms']['median']:.1f} ({one['p99_ms']['min']:.1f}-{one['p99_ms']['max']:.1f})",
            f"{one['server_cpu_us']['median']:.0f}",
            f"{one['wal_bytes']['median']:.0f}",
            f"{one['commits']['median']:.3f}",
        ]
        yield "| " + " | ".join(cells) + " |"


def _setting(one: dict[str, object]) -> tuple[object, ...]:
    return one["loop"], one["connections"], one["rate"], one["size"]


def _say(number: int, kind: str, one: dict[str, float], where: str) -> None:
    told = f"{one['per_second']:>9,.0f}/s  p50 {one['p50_ms']:.1f} ms  p99 {one['p99_ms']:.1f} ms"
    print(f"round {number}  {where:<28} {kind:<8} {told}  failed {one['failed']}", file=sys.stderr, flush=True)

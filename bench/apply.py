"""How many callbacks a second are applied, beside two job queues that do the same in jobs, and the SQL alone.

    .venv/bin/python bench/apply.py [--rounds 5] [--vms 20000] [--events 200000]

What each contender does stands in drains.py, what it does it with in fleet.py. The slow ones get fewer jobs of the
same kind; rates are what is compared. Exit code 0 if the medians are what is promised: at least 2 times pgqueuer's
rate, 15 times procrastinate's at its fastest, and 0.15 of the ceiling's, which is 15,000 events a second where the SQL
alone does 100,000 transitions.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import ground
from fleet import Fleet
from ground import Ground

#: For each contender: which share of the events it gets, and how many times its rate ours has to be.
SHARES = {
    "ours": 1.0,
    "ceiling": 1.0,
    "pgqueuer": 0.1,
    "pgqueuer, empty": 0.1,
    "procrastinate": 0.02,
    "procrastinate, as it comes": 0.02,
}
PROMISED = {"pgqueuer": 2.0, "procrastinate": 15.0, "ceiling": 0.15}
FIGURES = ("events_per_second", "transitions_per_second", "client_cpu_us", "postgres_cpu_us", "wal_bytes")


async def measured(here: Ground, rounds: int, fleet: Fleet) -> dict[str, object]:
    """Every contender in every round, turn by turn, so that a bad minute of the machine is shared by all."""
    await here.warm()
    kinds, runs = list(SHARES), []
    for number in range(rounds):
        for kind in kinds[number % len(kinds) :] + kinds[: number % len(kinds)]:
            some = Fleet(fleet.vms, max(1, int(fleet.events * SHARES[kind])), seed=number + 1)
            run = {"round": number + 1, "kind": kind, **await _once(here, kind, some)}
            runs.append(run)
            print(f"round {number + 1}  {kind:<26} {run['events_per_second']:>9,.0f} events/s", file=sys.stderr)
    return {"postgres": await here.settings(), "summary": _summary(runs), "runs": runs}


async def _once(here: Ground, kind: str, fleet: Fleet) -> dict[str, float]:
    url = await here.fresh()
    with _contender(kind, url, fleet) as go:
        before = await here.counters()
        told = go()
    spent = (await here.counters()).since(before)
    transitions = await here.count("transitions")
    if kind == "ours" and await here.count("inbox"):
        raise AssertionError("events are left")
    await here.drop()
    return {
        "events": fleet.events,
        "events_per_second": fleet.events / told["seconds"],
        "transitions_per_second": transitions / told["seconds"],
        "client_cpu_us": told["client_cpu"] / fleet.events * 1e6,
        "postgres_cpu_us": spent.postgres_seconds / fleet.events * 1e6,
        "wal_bytes": spent.wal_bytes / fleet.events,
    }


@contextlib.contextmanager
def _contender(kind: str, url: str, fleet: Fleet) -> Iterator[Callable[[], dict[str, float]]]:
    """A contender that has prepared its work; what has it begin returns what it tells at the end."""
    command = [sys.executable, str(Path(__file__).with_name("drains.py")), kind, url]
    command += map(str, (fleet.vms, fleet.events, fleet.seed))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout.readline().strip() != "ready":
                raise RuntimeError(f"the contender {kind!r} did not start")
            yield lambda: json.loads(process.communicate("go\n")[0])
        finally:
            process.kill()


def _summary(runs: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Median, minimum and maximum of each figure; and how many times the contender's rate ours is, round by round."""
    ours = {run["round"]: run["events_per_second"] for run in runs if run["kind"] == "ours"}
    return [
        {
            "kind": kind,
            "events": some[0]["events"],
            **{figure: _spread([run[figure] for run in some]) for figure in FIGURES},
            "ours_is": _spread([ours[run["round"]] / run["events_per_second"] for run in some]),
        }
        for kind in SHARES
        if (some := [run for run in runs if run["kind"] == kind])
    ]


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def table(summary: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """The summary for people, as Markdown."""
    yield "| contender | events | events/s | transitions/s | ours is | client CPU µs | Postgres CPU µs | WAL bytes |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for one in summary:
        rates = [
            f"{one[rate]['median']:,.0f} ({one[rate]['min']:,.0f}-{one[rate]['max']:,.0f})"
            for rate in ("events_per_second", "transitions_per_second")
        ]
        times = "" if one["kind"] == "ours" else f"{one['ours_is']['median']:,.2f} times"
        costs = [f"{one[cost]['median']:,.0f}" for cost in ("client_cpu_us", "postgres_cpu_us", "wal_bytes")]
        yield "| " + " | ".join([one["kind"], f"{one['events']:,}", *rates, times, *costs]) + " |"


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--vms", type=int, default=20_000)
    arguments.add_argument("--events", type=int, default=200_000)
    asked = arguments.parse_args()
    # SIGTERM ends it as Ctrl-C does, so that what was started is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    about = ground.machine() | {"rounds": asked.rounds, "vms": asked.vms, "events": asked.events}
    with ground.ground() as here:
        result = about | asyncio.run(measured(here, asked.rounds, Fleet(asked.vms, asked.events)))
    ground.write("apply", result)
    print("\n".join(table(result["summary"])))
    reached = {one["kind"]: one["ours_is"]["median"] for one in result["summary"]}
    return 0 if all(reached[kind] >= times for kind, times in PROMISED.items()) else 1


if __name__ == "__main__":
    sys.exit(main())

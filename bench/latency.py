"""How soon a callback has moved its VM: from its first byte, and from the commit of its event, to that of its transition.

    .venv/bin/python bench/latency.py [--rates 100,1000,5000] [--seconds 10] [--rounds 3]

It runs `rollcall serve` itself and sends in an open loop: callbacks are due at fixed times whatever becomes of earlier
ones, and each says when it was due. When its event and its transition were committed is Postgres's own word
(`track_commit_timestamp`), on the same machine's clock. The first second of each run is left out. Exit code 0 if half
of the callbacks are applied within 20 ms of their events' commit at 1,000 a second.
"""

import argparse
import asyncio
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import asyncpg
import ground
import uvloop
from fleet import Fleet, settle
from ground import Ground, cpu_seconds
from load import Generator, Sender
from memory import daemon
from servers import SECRETS

from service.core.token import CreationRef, mint

CONNECTIONS = 64
VMS = 20_000
PROMISED_AT, PROMISED_MS = 1000, 20.0
FIGURES = ("whole_p50", "whole_p99", "stored_p50", "stored_p99", "applied_p50", "applied_p99", "answered_p50", "cpu_us")

LATENCIES = """
WITH happened AS (
    SELECT (convert_from(body, 'UTF8')::json ->> 'sent')::float8 AS sent,
           extract(epoch FROM pg_xact_commit_timestamp(events.xmin))::float8 AS stored,
           extract(epoch FROM pg_xact_commit_timestamp(transitions.xmin))::float8 AS applied
    FROM events JOIN transitions USING (submission_id) WHERE evidence_id = event_id
), counted AS (
    SELECT * FROM happened WHERE sent > (SELECT min(sent) + 1 FROM happened)
)
SELECT count(*) AS moved,
       1e3 * percentile_cont(0.5) WITHIN GROUP (ORDER BY applied - sent) AS whole_p50,
       1e3 * percentile_cont(0.99) WITHIN GROUP (ORDER BY applied - sent) AS whole_p99,
       1e3 * percentile_cont(0.5) WITHIN GROUP (ORDER BY stored - sent) AS stored_p50,
       1e3 * percentile_cont(0.99) WITHIN GROUP (ORDER BY stored - sent) AS stored_p99,
       1e3 * percentile_cont(0.5) WITHIN GROUP (ORDER BY applied - stored) AS applied_p50,
       1e3 * percentile_cont(0.99) WITHIN GROUP (ORDER BY applied - stored) AS applied_p99
FROM counted
"""


class Stamping(Generator):
    """Sends the deliveries of a fleet, each with the time at which it was due."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(CONNECTIONS, [])
        self._told = iter(list(_told(fleet)))
        self._clocks_apart = time.time() - self.now()

    def _send(self, sender: Sender, due: float) -> None:
        path, body = next(self._told)
        content = b'%s,"sent":%.6f}' % (body, due + self._clocks_apart)
        self._busy.add(sender)
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        sender.send(head % (path, len(content)) + content, due)


def _told(fleet: Fleet) -> Iterator[tuple[bytes, bytes]]:
    """The path and the body, without its last brace, of each delivery."""
    paths: dict[CreationRef, bytes] = {}
    for one in fleet.deliveries(datetime.now(UTC)):
        if one.ref not in paths:
            paths[one.ref] = f"/callbacks/{mint(one.ref, SECRETS[0])}".encode()
        yield paths[one.ref], one.body[:-1]


async def measured(here: Ground, rates: Sequence[int], seconds: float, rounds: int) -> dict[str, object]:
    await here.warm()
    await here.stamp_commits()
    runs = []
    for number in range(rounds):
        for rate in rates:
            run = {"round": number + 1, "rate": rate, **await _once(here, rate, seconds, number + 1)}
            runs.append(run)
            told = "  ".join(f"{name} {run[name]:.1f}" for name in FIGURES)
            print(f"round {number + 1}  {rate:>5}/s  {told}", file=sys.stderr, flush=True)
    summary = [_spread(rate, [run for run in runs if run["rate"] == rate]) for rate in rates]
    return {"postgres": await here.settings(), "summary": summary, "runs": runs}


async def _once(here: Ground, rate: int, seconds: float, seed: int) -> dict[str, float]:
    url = await here.fresh()
    fleet = Fleet(VMS, int(rate * seconds * 1.1) + CONNECTIONS, seed)
    await settle(url, fleet)
    generator = Stamping(fleet)
    connection = await asyncpg.connect(url)
    with daemon(url) as (pid, port):
        await generator.connect(port)
        busy = cpu_seconds(pid)
        await generator.at_rate(rate, seconds)
        while await here.count("inbox"):  # noqa: ASYNC110  another process empties it
            await asyncio.sleep(0.05)
        busy = cpu_seconds(pid) - busy
    found = dict(await connection.fetchrow(LATENCIES))
    stored = await connection.fetchval("SELECT count(*) FROM events")
    await connection.close()
    await here.drop()
    told = generator.told(seconds)
    return {
        **found,
        "stored": stored,
        "failed": told["failed"],
        "answered_p50": told["p50_ms"],
        "cpu_us": busy / stored * 1e6,
    }


def _spread(rate: int, runs: Sequence[Mapping[str, float]]) -> dict[str, object]:
    values = {figure: [run[figure] for run in runs] for figure in FIGURES}
    return {
        "rate": rate,
        "failed": sum(run["failed"] for run in runs),
        **{
            figure: {"median": statistics.median(some), "min": min(some), "max": max(some)}
            for figure, some in values.items()
        },
    }


def table(summary: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """The summary for people, as Markdown: milliseconds, of rounds the median, the least and the most."""
    names = {"whole": "first byte to transition", "stored": "first byte to event", "applied": "event to transition"}
    yield "| events/s | " + " | ".join(f"{name}, p50 | p99" for name in names.values()) + " | daemon CPU µs |"
    yield "|--:|" + "--:|" * (2 * len(names) + 1)
    for one in summary:
        cells = [
            f"{one[figure]['median']:.1f} ({one[figure]['min']:.1f}-{one[figure]['max']:.1f})"
            for name in names
            for figure in (f"{name}_p50", f"{name}_p99")
        ]
        yield f"| {one['rate']:,} | " + " | ".join(cells) + f" | {one['cpu_us']['median']:.0f} |"


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rates", type=ground.numbers, default=[100, 1000, 5000])
    arguments.add_argument("--seconds", type=float, default=10.0)
    arguments.add_argument("--rounds", type=int, default=3)
    asked = arguments.parse_args()
    # SIGTERM ends it as Ctrl-C does, so that what was started is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    about = ground.machine() | {"rounds": asked.rounds, "seconds": asked.seconds, "connections": CONNECTIONS}
    with ground.ground() as here:
        result = about | uvloop.run(measured(here, asked.rates, asked.seconds, asked.rounds))
    ground.write("latency", result)
    print("\n".join(table(result["summary"])))
    late = [
        one for one in result["summary"] if one["rate"] == PROMISED_AT and one["applied_p50"]["median"] > PROMISED_MS
    ]
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())

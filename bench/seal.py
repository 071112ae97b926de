"""How fast the record is sealed and verified, beside how fast it is applied; and what callbacks notice of it.

    .venv/bin/python bench/seal.py [--rounds 5] [--vms 20000] [--events 200000] [--rate 1000] [--seconds 10]

Each round applies the events of a fleet, seals all of them with the transitions that came of them, and verifies the whole
record, one after another in a process of its own. Then callbacks are sent at a fixed rate to `rollcall serve`, in rounds
that take turns: one that seals every second while its record is exported over and over, and one that does neither. The first second of each is left out. Last, groups
of 1,000 events are stored with and without the column and index by which unsealed rows are found.

Exit code 0 if sealing is at least as fast as applying, and the p99 of callbacks with sealing and an export at most 1.5 times that without, both as
medians of the rounds.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import fleet as fleets
import ground
import uvloop
from aiohttp import ClientSession
from fleet import Fleet
from ground import Ground
from latency import CONNECTIONS, Stamping
from memory import daemon

from service.audit import keys, live, seal, verify
from service.config import Settings
from service.lab.demo.stage import free_ports
from service.runtime.runtime import Runtime, open_runtime
from service.storage import seals
from service.storage.engine import begin
from service.storage.events import insert_autocommit
from service.worker import apply

SLOWER = 1.5
GROUP = 1000
TOKEN = "a-token-of-the-bench"
RATES = ("applied_per_second", "sealed_per_second", "sealed_rows_per_second", "verified_rows_per_second")


async def worked(url: str, fleet: Fleet) -> dict[str, float]:
    """Apply, seal and verify a fleet; the rate of each."""
    await fleets.settle(url, fleet)
    await fleets.deliver(url, fleet)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(_env_file=None, data_dir=Path(folder), callback_secrets="x" * 32, database_url=url)
        rt = open_runtime(settings, url)
        gc.collect()
        gc.freeze()
        begun = time.perf_counter()
        while await apply.run_once(rt):
            pass
        applied = time.perf_counter()
        rows, sealing, verifying = await sealed_and_verified(rt)
        await rt.close()
    return {
        "rows": rows,
        "applied_per_second": fleet.events / (applied - begun),
        "sealed_per_second": fleet.events / sealing,
        "sealed_rows_per_second": rows / sealing,
        "verified_rows_per_second": rows / verifying,
    }


async def sealed_and_verified(rt: Runtime) -> tuple[int, float, float]:
    """Seal the whole record and verify it: the rows, and the seconds of each."""
    begun = time.perf_counter()
    rows = await seal.seal(rt, lambda: asyncio.sleep(0))
    sealed = time.perf_counter()
    async with begin(rt.engine) as conn:
        log = await seals.newest(conn)
    trusted = [one.key for one in keys.signers_of(keys.own_keys(rt.settings, rt.callback_secrets), log.origin)]
    report = await verify.verify(await live.LiveRecord.read(rt.engine, log.log_id), trusted)
    verified = time.perf_counter()
    if report.findings or report.rows != rows or report.unsealed.count:
        raise AssertionError(report)
    return rows, sealed - begun, verified - sealed


async def rates(here: Ground, rounds: int, fleet: Fleet) -> list[dict[str, float]]:
    runs = []
    for number in range(rounds):
        url = await here.fresh()
        command = [sys.executable, __file__, "--work", url, *map(str, (fleet.vms, fleet.events, number + 1))]
        done = await asyncio.to_thread(subprocess.run, command, stdout=subprocess.PIPE, check=True)
        runs.append(json.loads(done.stdout))
        await here.drop()
        _tell("rates", runs[-1])
    return runs


async def callbacks(here: Ground, rounds: int, rate: int, seconds: float) -> list[dict[str, float]]:
    """The p99 of callbacks with and without sealing and an export, turn by turn."""
    runs = []
    for number in range(rounds):
        for sealing in (number % 2 == 0, number % 2 == 1):
            with _environment(SEAL_INTERVAL_SECONDS="1" if sealing else "86400"):
                runs.append(
                    {"round": number, "sealing": sealing, **await _sent(here, rate, seconds, number + 1, sealing)}
                )
            _tell("callbacks", runs[-1])
    return runs


async def _sent(here: Ground, rate: int, seconds: float, seed: int, exporting: bool) -> dict[str, float]:
    url = await here.fresh()
    fleet = Fleet(20_000, int(rate * (seconds + 1) * 1.1) + 2 * CONNECTIONS, seed)
    await fleets.settle(url, fleet)
    generator = Stamping(fleet)
    (api,) = free_ports(1)
    with _environment(API_TOKENS=TOKEN), daemon(url, api_port=api) as (_, port), _exports(api, exporting) as done:
        await generator.connect(port)
        await generator.at_rate(rate, 1.0)
        generator.forget()
        await generator.at_rate(rate, seconds)
        told = generator.told(seconds)
        sealed = await ground.number(url, "SELECT coalesce(sum(rows), 0) FROM seals")
    await here.drop()
    return {"p50_ms": told["p50_ms"], "p99_ms": told["p99_ms"], "failed": told["failed"], "sealed": sealed, **done}


@contextlib.contextmanager
def _exports(api_port: int, exporting: bool) -> Iterator[dict[str, int]]:
    """A client that exports over and over for as long as the block lasts, or only waits. How many bytes it got is in the dict then."""
    done = {"exported_bytes": 0}
    asked = [sys.executable, __file__, "--export", str(api_port if exporting else 0)]
    process = subprocess.Popen(asked, stdout=subprocess.PIPE)
    try:
        process.stdout.readline()  # it is ready: its own start is no export
        yield done
    finally:
        process.terminate()
        done["exported_bytes"] = int(process.communicate(timeout=30)[0])


async def export(api_port: int) -> None:
    """Say that it begins, export until SIGTERM, then print how many bytes came. On port 0 nothing is exported."""
    print(flush=True)
    got, stop = 0, asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if not api_port:
        await stop.wait()
    async with ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}, raise_for_status=True) as session:
        while not stop.is_set():
            for table in ("events", "transitions", "vms"):
                async with session.get(f"http://127.0.0.1:{api_port}/v1/export?table={table}") as answer:
                    async for some in answer.content.iter_any():
                        got += len(some)
    print(got)


async def inserts(here: Ground, rounds: int, groups: int = 60) -> list[dict[str, float]]:
    """Microseconds for each event that is stored, with the column and the index, with neither, turn by turn."""
    runs = []
    for number in range(rounds):
        for kind in ("with", "without") if number % 2 == 0 else ("without", "with"):
            url = await here.fresh()
            events = list(Fleet(GROUP, groups * GROUP, number + 1).deliveries(datetime.now(UTC)))
            connection = await asyncpg.connect(url)
            if kind == "without":
                await connection.execute("ALTER TABLE events DROP COLUMN xact_id")
            before, begun = await here.counters(), time.perf_counter()
            for at in range(0, len(events), GROUP):
                await insert_autocommit(connection, events[at : at + GROUP])
            spent, taken = (await here.counters()).since(before), time.perf_counter() - begun
            await connection.close()
            await here.drop()
            runs.append({
                "round": number, "kind": kind, "us": taken / len(events) * 1e6,
                "postgres_us": spent.postgres_seconds / len(events) * 1e6, "wal_bytes": spent.wal_bytes / len(events),
            })  # fmt: skip
            _tell("inserts", runs[-1])
    return runs


@contextlib.contextmanager
def _environment(**settings: str) -> Iterator[None]:
    os.environ.update({f"ROLLCALL_{name}": value for name, value in settings.items()})
    try:
        yield
    finally:
        for name in settings:
            del os.environ[f"ROLLCALL_{name}"]


def _tell(what: str, run: Mapping[str, object]) -> None:
    print(what, json.dumps(run, default=str), file=sys.stderr, flush=True)


def summary(result: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, object]:
    """Medians, and the two ratios that are demanded, each as the median over the rounds."""
    of_rates, sent = result["rates"], result["callbacks"]
    p99 = {on: {one["round"]: one["p99_ms"] for one in sent if one["sealing"] == on} for on in (True, False)}
    stored = {kind: [one for one in result["inserts"] if one["kind"] == kind] for kind in ("with", "without")}
    return {
        **{name: _median(of_rates, lambda one, name=name: one[name]) for name in RATES},
        "sealing_to_applying": _median(of_rates, lambda one: one["sealed_per_second"] / one["applied_per_second"]),
        "p99_ms_sealing": statistics.median(p99[True].values()),
        "p99_ms_not_sealing": statistics.median(p99[False].values()),
        "p99_times": statistics.median(p99[True][number] / p99[False][number] for number in p99[True]),
        **{
            f"insert_{figure}_{kind}": _median(some, lambda one, figure=figure: one[figure])
            for kind, some in stored.items()
            for figure in ("us", "postgres_us", "wal_bytes")
        },
    }


def _median(runs: Sequence[Mapping[str, float]], of: Callable[[Mapping[str, float]], float]) -> float:
    return statistics.median(map(of, runs))


async def measured(asked: argparse.Namespace, here: Ground) -> dict[str, object]:
    await here.warm()
    result = {
        "rates": await rates(here, asked.rounds, Fleet(asked.vms, asked.events)),
        "callbacks": await callbacks(here, asked.rounds, asked.rate, asked.seconds),
        "inserts": await inserts(here, asked.rounds),
    }
    return {"postgres": await here.settings(), "summary": summary(result), **result}


def main() -> int:
    if sys.argv[1:2] == ["--work"]:
        url, *numbers = sys.argv[2:]
        print(json.dumps(uvloop.run(worked(url, Fleet(*map(int, numbers))))))
        return 0
    if sys.argv[1:2] == ["--export"]:
        asyncio.run(export(int(sys.argv[2])))
        return 0
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--vms", type=int, default=20_000)
    arguments.add_argument("--events", type=int, default=200_000)
    arguments.add_argument("--rate", type=int, default=1000)
    arguments.add_argument("--seconds", type=float, default=10.0)
    asked = arguments.parse_args()
    with ground.ground() as here:
        result = ground.machine() | vars(asked) | uvloop.run(measured(asked, here))
    ground.write("seal", result)
    print(json.dumps(result["summary"], indent=1))
    found = result["summary"]
    return 0 if found["sealing_to_applying"] >= 1 and found["p99_times"] <= SLOWER else 1


if __name__ == "__main__":
    sys.exit(main())

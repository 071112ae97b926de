"""The dashboard's pages on a large record: what each reads and how long it takes, and what open live pages cost callbacks.

    .venv/bin/python bench/pages.py [--vms 100000] [--events 10000000] [--rounds 9] [--open 50] [--rate 200] [--seconds 10]

The record has one submission with all living VMs (jobs.py), and a past of many that have ended (as_of.py). Each page is read as
a browser reads it, by this process, twice; Postgres counts the rows. Before, the job `sample` has counted the fleet, as it does every few seconds. A new connection reads the catalogue of Postgres, as the line
`a connection` shows, and so does each statement that it sees first. Then a daemon of its own gets callbacks at a fixed rate, in turns with and without open pages: each follows
`/live` and reads itself again when it is told to, as dashboard.js does. What is compared is the p99 of the callbacks' answers.
Exit code 0 if open pages leave it at most 1.5 times what it was, as the median of the rounds. Figures go to bench/results/pages.json.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import cycle, islice
from typing import Any

import as_of
import ground
import jobs
from aiohttp import ClientError, ClientResponse, ClientSession, CookieJar, web
from ground import Ground
from jobs import Fleet, Holds
from load import Generator
from memory import daemon
from pydantic import SecretStr
from sqlalchemy import text

from service.api.app import make_app
from service.lab.demo.stage import free_ports
from service.storage.engine import begin
from service.web.dashboard import add_dashboard
from service.worker import sample

TOKEN = "a-token-of-the-bench"
CONNECTIONS = 16
MOST_TIMES = 1.5
#: What open pages show: some of each.
OPEN = ("/", "/vms", "/submissions", "/events", "/calls")


def pages(fleet: Fleet) -> list[str]:
    """Every page that lists or counts something."""
    of, past = fleet.submission_id, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return [
        "/", "/?minutes=10080", "/submissions", "/submissions?state=open", f"/submissions/{of}", "/vms", "/vms?state=ERROR",
        f"/vms?submission_id={of}", f"/vms/{of}.{fleet.number // 2}", "/orphans", "/events", f"/events?submission_id={of}",
        "/events?dead_letter=any", "/calls", "/notifications", "/audit", f"/audit?time={past}", f"/audit?time={past}&exact=yes",
        f"/audit/statistics?submission_id={of}", "/audit/statistics", "/docs",
    ]  # fmt: skip


@asynccontextmanager
async def browser(url: str) -> AsyncIterator[ClientSession]:
    async with ClientSession(url, cookie_jar=CookieJar(unsafe=True)) as session:
        async with session.post("/signin", data={"token": TOKEN}) as answer:
            assert answer.status == 200, await answer.text()
        yield session


async def read(session: ClientSession, path: str) -> int:
    """The number of rows and entries that a page shows."""
    async with session.get(path) as answer:
        return await read_shown(path, answer)


async def read_shown(path: str, answer: ClientResponse) -> int:
    shown = await answer.text()
    assert answer.status == 200, (path, answer.status, shown[:2000])
    return shown.count("<tr>") + shown.count("<li")


async def read_made(session: ClientSession, path: str) -> int:
    """The same; a report that is being made is waited for."""
    while True:
        async with session.get(path) as answer:
            if "Refresh" not in answer.headers:
                return await read_shown(path, answer)


async def measure_pages(fleet: Fleet) -> None:
    app = make_app(fleet.rt, {"bench": SecretStr(TOKEN)})
    add_dashboard(app)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]

    async def connect() -> int:
        async with begin(fleet.rt.engine) as conn:
            return int((await conn.execute(text("SELECT 1"))).scalar_one())

    try:
        await fleet.measure("a connection", connect)
        await fleet.measure("the job `sample`", lambda: sample.run_once(fleet.rt))
        async with browser(f"http://127.0.0.1:{port}") as session:
            for path in pages(fleet):
                # The first of its kind prepares statements, or makes a report that the others see.
                await fleet.measure(f"{path} (first)", lambda path=path: read_made(session, path))
                await fleet.measure(path, lambda path=path: read(session, path))
    finally:
        await runner.cleanup()


async def follow(url: str, path: str, times: list[float], is_open: asyncio.Event) -> None:
    """An open page: it reads itself again when it is told to."""
    async with browser(url) as session:
        await read(session, path)
        async with session.get("/live", timeout=None) as live:
            is_open.set()
            async for line in live.content:
                if line.startswith(b"event: changed"):
                    began = time.monotonic()
                    await read(session, path)
                    times.append(time.monotonic() - began)


async def keep_open(url: str, number: int) -> None:
    """Keep pages open until SIGTERM; then print how often they read themselves, and how long that took."""
    times: list[float] = []
    ready = [asyncio.Event() for _ in range(number)]
    paths = zip(islice(cycle(OPEN), number), ready, strict=True)
    following = [asyncio.create_task(follow(url, path, times, is_open)) for path, is_open in paths]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await asyncio.gather(*(one.wait() for one in ready))
    times.clear()
    print("open", flush=True)
    await stop.wait()
    for task in following:
        task.cancel()
    found = await asyncio.gather(*following, return_exceptions=True)
    broken = sum(isinstance(one, ClientError | AssertionError) for one in found)
    p50 = statistics.median(times) * 1000 if times else 0.0
    print(json.dumps({"reads": len(times), "read_p50_ms": round(p50, 1), "broken": broken}), flush=True)


@asynccontextmanager
async def open_pages(url: str, number: int) -> AsyncIterator[dict[str, Any]]:
    """Pages that are open in a process of their own, for as long as the block lasts. What they did is in the dict then."""
    done: dict[str, Any] = {}
    if not number:
        yield done
        return
    command = [sys.executable, __file__, "--keep-open", url, "--open", str(number)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield done
    finally:
        process.terminate()
        rest = await process.stdout.read()
        await process.wait()
        done.update(json.loads(rest) if rest else {})


async def measure_callbacks(url: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    runs = []
    (api,) = free_ports(1)
    os.environ["ROLLCALL_API_TOKENS"] = TOKEN
    with daemon(url, api_port=api) as (_, port):
        for number in range(given.rounds):
            for opened in ((0, given.open), (given.open, 0))[number % 2]:
                generator = Generator(CONNECTIONS, as_of.said())
                async with open_pages(f"http://127.0.0.1:{api}", opened) as pages_did:
                    await generator.connect(port)
                    await generator.at_rate(given.rate, 2.0)
                    generator.forget()
                    await generator.at_rate(given.rate, given.seconds)
                runs.append({"round": number + 1, "open": opened, **generator.told(given.seconds), **pages_did})
                print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    return runs


def times(runs: Sequence[dict[str, Any]]) -> float:
    """How many times larger the p99 is with open pages: the median of the rounds."""
    p99 = {(run["round"], bool(run["open"])): run["p99_ms"] for run in runs}
    return statistics.median(p99[number, True] / p99[number, False] for number, is_open in p99 if is_open)


async def measured(here: Ground, given: argparse.Namespace, holds: Holds) -> dict[str, Any]:
    fleet = await jobs.fill(here, given.vms, holds)
    await as_of.fill(here.url, max(0, given.events - 10 * given.vms))
    await measure_pages(fleet)
    await fleet.rt.engine.dispose()
    runs = await measure_callbacks(here.url, given)
    return {
        "vms": given.vms, "events": given.events, "pages": fleet.rows, "callbacks": runs,
        "p99_times": round(times(runs), 3), "postgres": await here.settings(),
    }  # fmt: skip


def is_page(row: Mapping[str, Any]) -> bool:
    """Whether a page was read as it is most of the time: not what is counted in the background, or only on demand."""
    return row["job"].startswith("/") and "exact=" not in row["job"] and not row["job"].endswith("(first)")


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| page | shows | rows and index entries read | of the catalogue | ms | Postgres ms |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        page = re.sub(r"[0-9a-f]{8}-[-0-9a-f]{27}", "ID", row["job"])
        catalogue = row["rows_read"] - row["rows_of_tables"]
        cells = (page, row["did"], f"{row['rows_of_tables']:,}", f"{catalogue:,}", f"{row['seconds'] * 1000:,.0f}")
        lines.append(f"| {' | '.join(map(str, cells))} | {row['postgres_seconds'] * 1000:,.0f} |")
    return lines


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--vms", type=int, default=100_000)
    arguments.add_argument("--events", type=int, default=10_000_000)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--open", type=int, default=50)
    arguments.add_argument("--rate", type=float, default=200.0)
    arguments.add_argument("--seconds", type=float, default=10.0)
    arguments.add_argument("--keep-open", metavar="URL", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.keep_open:
        asyncio.run(keep_open(given.keep_open, given.open))
        return 0
    # SIGTERM ends it as Ctrl-C does, so that what was started is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ground.ground() as here:
        result = ground.machine() | asyncio.run(measured(here, given, Holds()))
    ground.write("pages", result)
    print("\n".join(table(result["pages"])))
    print(f"\ncallbacks' p99 with {given.open} open pages: {result['p99_times']:.2f} times that without")
    return 0 if result["p99_times"] <= MOST_TIMES else 1


if __name__ == "__main__":
    sys.exit(main())

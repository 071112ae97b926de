"""A flood of hostile requests beside good callbacks: is the listener up, is its memory flat, are the good ones answered?

    .venv/bin/python bench/flood.py [--requests 100000] [--seed 1]

The requests are those of tests/hostile.py: wrong tokens, other paths, bodies too large by word or by deed, crumbs of
chunks, requests broken off, malformed or smuggled, garbage, hundreds of headers; and on genuine URLs JSON too deep, what
is not UTF-8, and gzip bombs, which have to be kept. A hundred others drip a byte at a time, all the while.

Exit code 0 if every good callback was answered 200 and is in the table, their p99 was under 100 ms, and memory grew by
less than 20 MB after the first tenth of the flood. Result as JSON in bench/results/flood.json.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from contextlib import suppress
from pathlib import Path

import aiohttp
import ground
import ingest
from servers import tokens

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from hostile import requests, slow

SENDERS = 16
SLOW = 100
MOST_MS = 100.0
MOST_GROWTH_MB = 20.0


async def flood(port: int, seed: str, number: int, sent: list[int]) -> None:
    for parts in requests(seed, f"/callbacks/{tokens(1)[0]}", number):
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with suppress(ConnectionError):
                writer.writelines(parts)
                await writer.drain()
                writer.write_eof()
                await reader.read()
            writer.close()
        sent[0] += 1


async def drip(port: int, seed: str, ended: list[int]) -> None:
    """Connections that send a byte now and then, one after another, each until the listener ends it."""
    rng = random.Random(seed)
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        at_once, dripped = slow(rng, f"/callbacks/{tokens(1)[0]}")
        with suppress(ConnectionError):
            writer.write(at_once)
            for one in dripped:
                if writer.is_closing() or reader.at_eof():
                    break
                writer.write(bytes([one]))
                await asyncio.sleep(0.1)
        ended[0] += 1
        writer.close()


async def good_ones(port: int, latencies: list[float], statuses: list[int]) -> None:
    """Good callbacks, one after another, until cancelled."""
    url = f"http://127.0.0.1:{port}/callbacks/{tokens(2)[1]}"
    async with aiohttp.ClientSession() as session:
        while True:
            begun = time.perf_counter()
            async with session.post(url, data=b'{"good": true}') as response:
                statuses.append(response.status)
            latencies.append((time.perf_counter() - begun) * 1e3)
            await asyncio.sleep(0.01)


async def measured(here: ground.Ground, number: int, seed: int) -> dict[str, object]:
    latencies: list[float] = []
    statuses: list[int] = []
    sent = [0]
    with ingest.server("ours", await here.fresh()) as (pid, port):
        begun = time.perf_counter()
        probe = asyncio.create_task(good_ones(port, latencies, statuses))
        ended = [0]
        drips = [asyncio.create_task(drip(port, f"{seed} {one}", ended)) for one in range(SLOW)]
        floods = [asyncio.create_task(flood(port, f"{seed} {one}", number // SENDERS, sent)) for one in range(SENDERS)]
        memory = []
        while not all(one.done() for one in floods):
            memory.append((sent[0], ground.resident_mb(pid)))
            await asyncio.wait(floods, timeout=1.0)
        for one in (probe, *drips):
            one.cancel()
        await asyncio.gather(*floods, *drips, probe, return_exceptions=True)
        seconds = time.perf_counter() - begun
    settled = next((mb for count, mb in memory if count >= number / 10), memory[-1][1])
    latencies.sort()
    return {
        "hostile": sent[0],
        "slow_at_once": SLOW,
        "slow_ended_by_the_listener": ended[0],
        "seconds": seconds,
        "good": len(statuses),
        "good_refused": sum(status != 200 for status in statuses),
        "good_in_table": await _good_in_table(here),
        "good_p50_ms": latencies[len(latencies) // 2],
        "good_p99_ms": latencies[int(len(latencies) * 0.99)],
        "good_max_ms": latencies[-1],
        "memory_mb": [mb for _, mb in memory[:: max(1, len(memory) // 20)]],
        "memory_growth_mb": max(mb for _, mb in memory) - settled,
    }


async def _good_in_table(here: ground.Ground) -> int:
    return await here.count("""events WHERE body = '{"good": true}'""")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--requests", type=int, default=100_000)
    arguments.add_argument("--seed", type=int, default=1)
    asked = arguments.parse_args()
    with ground.ground() as here:
        told = asyncio.run(measured(here, asked.requests, asked.seed))
    result = {"seed": asked.seed, "machine": ground.machine(), **told}
    ground.write("flood", result)
    print(json.dumps({name: value for name, value in told.items() if name != "memory_mb"}, indent=1))
    kept = not told["good_refused"] and told["good_in_table"] >= told["good"]
    return 0 if kept and told["good_p99_ms"] < MOST_MS and told["memory_growth_mb"] < MOST_GROWTH_MB else 1


if __name__ == "__main__":
    sys.exit(main())

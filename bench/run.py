"""Measure what the README claims about speed: `make bench`, or `make bench ARGS="--rounds 5 --seconds 10"`.

Figures go to bench/results/ as JSON, with the versions and the machine they come from, and as a table to standard
output. Postgres, the server and the load share the machine's processors, so figures compare with each other and with
no other machine's. Durability stays on: fsync, synchronous_commit, full_page_writes.
"""

import argparse
import asyncio
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import ground
import ingest

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5, help="counted rounds; one more comes before them")
    arguments.add_argument("--seconds", type=float, default=5.0, help="of load in each measurement")
    arguments.add_argument("--rates", default="100,1000,5000", help="events a second of the open loop")
    arguments.add_argument("--out", type=Path, default=RESULTS / "ingest.json")
    asked = arguments.parse_args()
    rates = tuple(int(rate) for rate in asked.rates.split(",") if rate)
    with ground.ground() as here:
        result = asyncio.run(measured(here, asked.rounds, asked.seconds, rates))
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(ingest.table(result)))


async def measured(here: ground.Ground, rounds: int, seconds: float, rates: tuple[int, ...]) -> dict[str, object]:
    about = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "rounds": rounds, "seconds": seconds}
    machine = ground.machine()
    await here.warm()
    figures = await ingest.measure(here, rounds=rounds, seconds=seconds, rates=rates)
    load = {"load_after": os.getloadavg()[0]}
    return {**about, "machine": machine | load, "postgres": await here.settings(), **figures}


if __name__ == "__main__":
    main()

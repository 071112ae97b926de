"""Notifications while processes and the database die: does each message arrive, and do its numbers tell the order?

    .venv/bin/python bench/notifications.py [--due 10000] [--crashes 20] [--seed 1]

Messages are due to a webhook. The process that delivers them is killed with kill -9, or Postgres is stopped as by a power
cut, by turns and at moments that the seed draws. Exit code 0 if every message arrived at least once and the numbers of each
submission are without a gap. Result as JSON in bench/results/notifications.json.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

import ground

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from notify_outage import Outcome, outage, shown
from postgres import embedded_postgres, migrated


async def measured(due: int, crashes: int, seed: int) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="rollcall-") as folder, embedded_postgres() as server:
        await migrated(server.url)
        return await outage(server, folder, due=due, crashes=crashes, seed=seed)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--due", type=int, default=10_000)
    arguments.add_argument("--crashes", type=int, default=20)
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()
    began = time.monotonic()
    found = asyncio.run(measured(given.due, given.crashes, given.seed))
    result = {**shown(found), "seed": given.seed, "seconds": time.monotonic() - began, "machine": ground.machine()}
    ground.write("notifications", result)
    print(json.dumps(result, indent=1))
    return 0 if found.good else 1


if __name__ == "__main__":
    sys.exit(main())

"""How fast the events of a record are exported, beside COPY of the same table in the same turn; and the memory of it.

    .venv/bin/python bench/export.py [--rounds 5] [--events 300000]

Exit code 0 if the export has at least 0.3 of the rate of COPY, as the median of the rounds, and its memory stays flat.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from datetime import UTC, datetime, timedelta

import asyncpg
import ground
import uvloop
from ground import Ground

from service.audit import export
from service.audit.export_formats import formatter
from service.audit.export_tables import Selection
from service.storage import partitions
from service.storage.engine import begin, create_engine

LEAST = 0.3
#: Events that are stored in one transaction, as in a storm.
GROUP = 1000
#: Kilobytes that the process may grow by while it exports.
GROWTH = 50_000
MADE = """
    INSERT INTO events (submission_id, received_at, event_id, creation_no, source, body, headers, peer, digest)
    SELECT s, $1::timestamptz + n * interval '1 millisecond', gen_random_uuid(), 1, 'callback', body,
           '{"content-type": "application/json", "user-agent": "python-requests/2.32"}', '192.0.2.7', sha256(body)
    FROM (SELECT n, md5((n % 200)::text)::uuid AS s, convert_to(
            '{"resource": {"id": ' || n || ', "name": "vm-' || n || '", "status": "ACTIVE"}, "operation": {"name": '
            || '"createVM", "status": "SUCCESS"}, "data": {"flavor": "n3-A100x1", "note": "' || repeat('x', 200) || '"}}',
            'UTF8') AS body FROM generate_series($2::int, $3::int) AS n) AS made
"""


async def fill(url: str, events: int) -> None:
    engine = create_engine(url)
    start = datetime.now(UTC) - timedelta(hours=2)
    async with begin(engine) as conn:
        await partitions.make_partitions(conn, now=start, months=2)
    await engine.dispose()
    connection = await asyncpg.connect(url)
    for first in range(0, events, GROUP):
        await connection.execute(MADE, start, first, min(first + GROUP, events) - 1)
    await connection.execute("VACUUM ANALYZE events")
    await connection.close()


async def copied(url: str) -> float:
    connection = await asyncpg.connect(url)

    async def drop(_: bytes) -> None:
        pass

    begun = time.perf_counter()
    await connection.copy_from_query("SELECT * FROM events", output=drop)
    took = time.perf_counter() - begun
    await connection.close()
    return took


async def exported(url: str, kind: str) -> tuple[float, int]:
    engine = create_engine(url)
    made, rows = formatter(kind, "events", "rollcall/bench"), 0
    begun = time.perf_counter()
    async for page in export.pages(engine, "events", Selection(xmax=2**62), after=None):
        rows += len(page)
        made.encode(page)
    took = time.perf_counter() - begun
    await engine.dispose()
    return took, rows


async def measured(here: Ground, rounds: int, events: int) -> dict[str, object]:
    runs = []
    url = await here.fresh()
    await fill(url, events)
    await exported(url, "ndjson")  # what the first one allocates
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(rounds):
        copy = await copied(url)
        run = {"round": number, "copy_per_second": events / copy}
        for kind in ("ndjson", "csv", "cloudevents"):
            took, rows = await exported(url, kind)
            if rows != events:
                raise AssertionError(f"{rows} of {events} were exported")
            run |= {f"{kind}_per_second": events / took, f"{kind}_of_copy": copy / took}
        runs.append(run)
        print(json.dumps(run), file=sys.stderr)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    share = statistics.median(run["ndjson_of_copy"] for run in runs)
    return {"summary": {"of_copy": share, "grown_kilobytes": grown}, "runs": runs}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--events", type=int, default=300_000)
    asked = arguments.parse_args()
    with ground.ground() as here:
        result = ground.machine() | vars(asked) | uvloop.run(measured(here, asked.rounds, asked.events))
    ground.write("export", result)
    print(json.dumps(result["summary"], indent=1))
    found = result["summary"]
    return 0 if found["of_copy"] >= LEAST and found["grown_kilobytes"] < GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())

"""What a callback pays in Postgres when it is stored: as we do, and in one plain table with the indexes that answer a page at once.

    .venv/bin/python bench/alternatives/index_on_the_vm.py [--events 1000000] [--rounds 5]

Both hold the record of `bench/audit_record.py`; callbacks of its VMs are then stored again, a hundred in a transaction,
ours with their inbox. Decision 0104. Prints Markdown: microseconds and bytes of WAL for each, the medians of the rounds.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import asyncpg
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))
import audit_record
import ground

_GROUP, _GROUPS = 100, 100
#: Callbacks from all over the record, as they come from many VMs.
_CHOSEN = f"SELECT * FROM plain_events WHERE kind = 'callback' AND id % $1::bigint = $2::bigint ORDER BY md5(id::text) LIMIT {_GROUP}"
_OURS = """
WITH stored AS (
    INSERT INTO events (submission_id, received_at, event_id, creation_no, source, body, headers, peer, digest)
    SELECT submission_id, clock_timestamp(), gen_random_uuid(), 1, 'callback', convert_to(body::text, 'UTF8'),
           '{"content-type": "application/json"}', '192.0.2.7', sha256(convert_to(body::text, 'UTF8'))
    FROM CHOSEN RETURNING submission_id, received_at, event_id, creation_no)
INSERT INTO inbox (submission_id, received_at, event_id, creation_no, due_at)
SELECT *, received_at FROM stored
"""
_COLUMNS = "kind, submission_id, vm_no, provider_id, name, flavor, region, environment, address, from_state, to_state, evidence, body"
_PLAIN = f"INSERT INTO plain_events (at, {_COLUMNS}) SELECT clock_timestamp(), {_COLUMNS} FROM CHOSEN"


async def measured(connection: asyncpg.Connection, statement: str) -> tuple[float, float]:
    """Microseconds and bytes of WAL for each."""
    await connection.execute("CHECKPOINT")  # whole pages are written again, as in a daemon's life
    before = await connection.fetchval("SELECT pg_current_wal_lsn()")
    begun = time.perf_counter()
    for number in range(_GROUPS):
        await connection.execute(statement.replace("CHOSEN", f"chosen_{number}"))
    took = time.perf_counter() - begun
    wal = await connection.fetchval("SELECT pg_current_wal_lsn() - $1::pg_lsn", before)
    return took / _GROUPS / _GROUP * 1e6, float(wal) / _GROUPS / _GROUP


async def main(events: int, rounds: int) -> None:
    with ground.ground() as here:
        url = await here.fresh()
        await audit_record.fill(url, events)
        await audit_record.fill_plain(url)
        connection = await asyncpg.connect(url)
        for number in range(_GROUPS):
            chosen = _CHOSEN.replace("$1", str(events // 10_000)).replace("$2", str(number % (events // 10_000)))
            await connection.execute(f"CREATE UNLOGGED TABLE chosen_{number} AS {chosen}")
        runs: dict[str, list[tuple[float, float]]] = {"ours, with the inbox": [], "one plain table, six indexes": []}
        for _ in range(rounds):
            for name, statement in zip(runs, (_OURS, _PLAIN), strict=True):
                runs[name].append(await measured(connection, statement))
        await connection.close()
    print("| | µs | bytes of WAL |\n|---|--:|--:|")
    for name, figures in runs.items():
        took, wal = (statistics.median(one) for one in zip(*figures, strict=True))
        print(f"| {name} | {took:,.0f} | {wal:,.0f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    uvloop.run(main(given.events, given.rounds))

"""A record with a past, made by SQL: submissions, creations and VMs that have ended, and all that was heard of them.

A VM goes through five states. Each can be told several times: what is told again is short, and moves no VM.

Every event is of the present month, so that it lies in the partition which the new ones go to: no database that has
run for months is as full where it matters. What is under way lies between what is past, also by the order of its ids:
submissions of the past have even numbers and those under way odd ones, spread over all of them.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import asyncpg
from servers import SECRETS, submission

from service.core.token import CreationRef, mint

VMS_OF_SUBMISSION, VMS_OF_CREATION, STATES = 100, 20, 5
#: Submissions under way, and the number of VMs in each.
UNDER_WAY, VMS_UNDER_WAY = 200, 20
#: Numbers of submissions: half of past ones, however many of these there are, so that what is under way has the same ids in all records.
NUMBERS = 40_000
_AT_ONCE = 100_000  # events
_MAKERS = 2  # connections
_BATCHES_OF_A_VACUUM = 10

# As service/core/ids.py and bench/servers.py make them.
_FUNCTIONS = """
CREATE FUNCTION pg_temp.id_of(at timestamptz, tail bytea) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7000'
        || lpad(to_hex(get_byte(tail, 0) & 63 | 128), 2, '0') || encode(substr(tail, 2, 7), 'hex'))::uuid
$$;
CREATE FUNCTION pg_temp.submission(number int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_temp.id_of(timestamptz '2026-01-01 00:00Z' + make_interval(mins => number),
                         sha256(convert_to('submission ' || number, 'UTF8')))
$$;
"""

#: A submission, when it was made, and when the last of its VMs was gone: one after another, from the begin of the month until now.
_NUMBERED = f"""
SELECT number, pg_temp.submission(number) AS id, month + (now - month) * number / {NUMBERS} AS begun, now,
       month + (now - month) * (number + 1) / {NUMBERS} AS gone
FROM (SELECT $4::timestamptz AS now, date_trunc('month', $4::timestamptz) AS month) AS times,
     generate_series($1::int, $2::int, $3::int) AS number
"""

_SUBMISSIONS = f"""
INSERT INTO submissions (submission_id, name, count, spec, policy, state, requested_by, next_creation_no, next_vm_no,
                         created_at, deadline_at, ended_at)
SELECT id, 'train-' || number, $5, '{{}}', '{{}}', $6, 'bench', $5 / {VMS_OF_CREATION} + 1, $5 + 1,
       begun, begun + interval '1 day', CASE WHEN $6 = 'open' THEN NULL ELSE gone END
FROM ({_NUMBERED}) AS one
"""
_CREATIONS = f"""
INSERT INTO creations (submission_id, creation_no, vm_count, name, state, attempt, created_at, completed_at, deadline_at)
SELECT id, no, {VMS_OF_CREATION}, 'train-' || number || '-' || no, 'answered', 1, begun, begun, begun
FROM ({_NUMBERED}) AS one, generate_series(1, $5::int / {VMS_OF_CREATION}) AS no
"""
_VMS = f"""
INSERT INTO vms (submission_id, vm_no, creation_no, provider_id, name, state, provider_status, state_since, seq, last_event_at,
                 next_refresh_at, wants_address, fixed_ip, flavor, environment, region, gpu_model, gpu_count, assignment,
                 member, ready, created_at, bound_at, active_at, ready_at, ended_at)
SELECT id, no, (no - 1) / {VMS_OF_CREATION} + 1, number::bigint * {VMS_OF_SUBMISSION} + no, 'train-' || number || '-' || no,
       $6, $6, CASE WHEN $6 = 'DELETED' THEN gone ELSE begun END, {STATES}, gone, CASE WHEN $6 = 'DELETED' THEN NULL ELSE now + interval '1 day' END, false,
       '10.0.' || number % 256 || '.' || no, 'n3-A100x1', 'default-CANADA-1', 'CANADA-1', 'A100-80G-PCIe', 1, 'none',
       true, $6 <> 'DELETED', begun, begun, begun, begun, CASE WHEN $6 = 'DELETED' THEN gone END
FROM ({_NUMBERED}) AS one, generate_series(1, $5::int) AS no
"""

_WORDS = "ARRAY['CREATING', 'BUILD', 'ACTIVE', 'DELETING', 'DELETED']"
_HEARD = f"""
SELECT one.*, no, step, again, ({_WORDS})[step] AS word, number::bigint * {VMS_OF_SUBMISSION} + no AS vm,
       begun + (gone - begun) * ((no * {STATES} + step) * $6::int + again) / ($6::int * {STATES}.0 * {VMS_OF_SUBMISSION + 2}) AS at
FROM ({_NUMBERED}) AS one, generate_series(1, $5::int) AS no, generate_series(1, {STATES}) AS step,
     generate_series(1, $6::int) AS again
"""
_SHORT = '{"resource": {"id": %1$s}, "operation": {"name": "hardRebootVM", "status": null}, "data": {"status": "%3$s"}}'
_EVENTS = f"""
INSERT INTO events (submission_id, received_at, event_id, creation_no, source, body, headers, peer, digest)
SELECT id, at, pg_temp.id_of(at, sha256(body)), (no - 1) / {VMS_OF_CREATION} + 1, 'callback', body,
       '{{"content-type": "application/json", "user-agent": "bench"}}', '127.0.0.1', sha256(body)
FROM (SELECT *, convert_to(format(CASE again WHEN 1 THEN $text$BODY$text$ ELSE $text$SHORT$text$ END, vm, 'train-' || number || '-' || no, word), 'UTF8') AS body
      FROM ({_HEARD}) AS heard) AS told
"""
_TRANSITIONS = f"""
INSERT INTO transitions (submission_id, vm_no, seq, at, from_state, to_state, verdict, claimed, evidence, evidence_id,
                         evidence_at)
SELECT id, no, step, at, CASE WHEN step = 1 THEN 'REQUESTED' ELSE ({_WORDS})[step - 1] END, word, 'moved', word, 'event',
       gen_random_uuid(), at
FROM ({_HEARD}) AS heard
"""


def body(vm: object, name: object, word: object) -> str:
    """A callback of some 300 bytes."""
    return (
        f'{{"resource": {{"id": "{vm}", "type": "virtual_machine", "name": "{name}"}}, '
        f'"operation": {{"name": "hardRebootVM", "status": "{word}"}}, '
        f'"data": {{"id": {vm}, "name": "{name}", "status": "{word}", "fixed_ip": "10.0.17.25", "floating_ip": "", '
        '"flavor": {"name": "n3-A100x1", "cpu": 28, "ram": 120.0, "gpu": "A100-80G-PCIe"}}}'
    )


def numbers_under_way() -> list[int]:
    apart = NUMBERS // UNDER_WAY
    return [number * apart + 1 for number in range(UNDER_WAY)]


def said() -> list[tuple[str, str]]:
    """What is said of the VMs under way: each is rebooted, and comes back, for ever."""
    return [
        (
            mint(CreationRef(submission(number), 1), SECRETS[0]),
            body(number * VMS_OF_SUBMISSION + no, f"train-{number}-{no}", word),
        )
        for word in ("REBOOTING", "ACTIVE")
        for no in range(1, VMS_UNDER_WAY + 1)
        for number in numbers_under_way()
    ]


async def fill(url: str, events: int, times: int = 1) -> None:
    """Put so many events on record, each state told so many times, with all that belongs to them, and what is under way."""
    of_submission = VMS_OF_SUBMISSION * STATES * times
    count, at_once = events // of_submission, _AT_ONCE // of_submission
    if count > NUMBERS // 2:
        raise ValueError(
            f"{events} events are of more than {NUMBERS // 2} submissions: have each state told more often"
        )
    apart = 2 * (NUMBERS // 2 // max(count, 1))
    batches = [(first, min(first + at_once, count)) for first in range(0, count, at_once)]
    async with _connected(url) as connection:
        indexes = await _without_indexes(connection)
    # In turns, so that what was heard at about the same time lies together.
    makers = (_make(url, batches[maker::_MAKERS], apart, times, vacuum=maker == 0) for maker in range(_MAKERS))
    await asyncio.gather(*makers)
    async with _connected(url) as connection:
        await connection.execute("SET maintenance_work_mem = '1GB'")
        for statement in indexes:
            await connection.execute(statement)
        await _under_way(connection)
        await connection.execute("VACUUM ANALYZE")  # as autovacuum would have, in a record that has grown by itself


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET synchronous_commit = off")  # a past is made again if the machine stops
        await connection.execute(_FUNCTIONS)
        yield connection
    finally:
        await connection.close()


async def _without_indexes(connection: asyncpg.Connection) -> list[str]:
    """Drop the indexes of events, and return the statements that make them again: two makers would leave them half empty."""
    key = await connection.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'events'::regclass AND conname = 'events_pkey'"
    )
    others = await connection.fetch(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'events' AND indexname <> 'events_pkey'"
    )
    await connection.execute("ALTER TABLE events DROP CONSTRAINT events_pkey")
    for one in others:
        await connection.execute(f"DROP INDEX {one['indexname']}")
    return [
        f"ALTER TABLE events ADD CONSTRAINT events_pkey {key}",
        *(one["indexdef"].replace(" ON ONLY ", " ON ") for one in others),
    ]


async def _make(url: str, batches: Sequence[tuple[int, int]], apart: int, times: int, *, vacuum: bool) -> None:
    async with _connected(url) as connection:
        for done, (first, end) in enumerate(batches, 1):
            await _past(connection, first * apart, (end - 1) * apart, apart, times)
            if vacuum and done % _BATCHES_OF_A_VACUUM == 0:
                await connection.execute("VACUUM (INDEX_CLEANUP off) events")  # while its blocks are in memory


async def _past(connection: asyncpg.Connection, first: int, last: int, apart: int, times: int) -> None:
    which = (first, last, apart, await connection.fetchval("SELECT now()"), VMS_OF_SUBMISSION)
    await connection.execute(_SUBMISSIONS, *which, "cancelled")
    await connection.execute(_CREATIONS, *which)
    await connection.execute(_VMS, *which, "DELETED")
    text = body("%1$s", "%2$s", "%3$s")
    await connection.execute(_EVENTS.replace("BODY", text).replace("SHORT", _SHORT), *which, times)
    await connection.execute(_TRANSITIONS, *which, 1)


async def _under_way(connection: asyncpg.Connection) -> None:
    numbers = numbers_under_way()
    now = await connection.fetchval("SELECT now()")
    which = (numbers[0], numbers[-1], numbers[1] - numbers[0], now, VMS_UNDER_WAY)
    await connection.execute(_SUBMISSIONS, *which, "open")
    await connection.execute(_CREATIONS, *which)
    await connection.execute(_VMS, *which, "ACTIVE")

"""A record with a past, made by SQL: submissions, creations and VMs that have ended, and all that was heard of them.

Every event is of the present month, so that it lies in the partition which the new ones go to: no database that has
run for months is as full where it matters. What is under way lies between what is past, also by the order of its ids:
submissions of the past have even numbers and those under way odd ones, spread over all of them.
"""

import asyncpg
from servers import SECRETS, submission

from service.core.token import CreationRef, mint

VMS_OF_SUBMISSION, VMS_OF_CREATION, EVENTS_OF_VM = 100, 20, 5
EVENTS_OF_SUBMISSION = VMS_OF_SUBMISSION * EVENTS_OF_VM
#: Submissions under way, and the number of VMs in each.
UNDER_WAY, VMS_UNDER_WAY = 200, 20
#: The record is as wide as one of so many events, however many it holds: ids are the same in all.
WIDEST = 10_000_000
_AT_ONCE = 200  # submissions

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

_NUMBERED = "SELECT number, pg_temp.submission(number) AS id, $4::timestamptz AS now FROM generate_series($1::int, $2::int, $3::int) AS number"

_SUBMISSIONS = f"""
INSERT INTO submissions (submission_id, name, count, spec, policy, state, requested_by, next_creation_no, next_vm_no,
                         created_at, deadline_at, ended_at)
SELECT id, 'train-' || number, $5, '{{}}', '{{}}', $6, 'bench', $5 / {VMS_OF_CREATION} + 1, $5 + 1,
       now, now + interval '1 day', CASE WHEN $6 = 'open' THEN NULL ELSE now END
FROM ({_NUMBERED}) AS one
"""
_CREATIONS = f"""
INSERT INTO creations (submission_id, creation_no, vm_count, name, state, attempt, created_at, completed_at, deadline_at)
SELECT id, no, {VMS_OF_CREATION}, 'train-' || number || '-' || no, 'answered', 1, now, now, now
FROM ({_NUMBERED}) AS one, generate_series(1, $5::int / {VMS_OF_CREATION}) AS no
"""
_VMS = f"""
INSERT INTO vms (submission_id, vm_no, creation_no, provider_id, name, state, provider_status, state_since, seq, last_event_at,
                 next_refresh_at, wants_address, fixed_ip, flavor, environment, region, gpu_model, gpu_count, assignment,
                 member, ready, created_at, bound_at, active_at, ready_at, ended_at)
SELECT id, no, (no - 1) / {VMS_OF_CREATION} + 1, number::bigint * {VMS_OF_SUBMISSION} + no, 'train-' || number || '-' || no,
       $6, $6, now, {EVENTS_OF_VM}, now, CASE WHEN $6 = 'DELETED' THEN NULL ELSE now + interval '1 day' END, false,
       '10.0.' || number % 256 || '.' || no, 'n3-A100x1', 'default-CANADA-1', 'CANADA-1', 'A100-80G-PCIe', 1, 'none',
       true, $6 <> 'DELETED', now, now, now, now, CASE WHEN $6 = 'DELETED' THEN now END
FROM ({_NUMBERED}) AS one, generate_series(1, $5::int) AS no
"""

_WORDS = "ARRAY['CREATING', 'BUILD', 'ACTIVE', 'DELETING', 'DELETED']"
_HEARD = f"""
SELECT one.*, no, step, ({_WORDS})[step] AS word, number::bigint * {VMS_OF_SUBMISSION} + no AS vm,
       $6::timestamptz + (now - $6) * (number / {2 * WIDEST / EVENTS_OF_SUBMISSION}
           + (no * {EVENTS_OF_VM} + step) / {2.0 * WIDEST}) AS at
FROM ({_NUMBERED}) AS one, generate_series(1, $5::int) AS no, generate_series(1, {EVENTS_OF_VM}) AS step
"""
_EVENTS = f"""
INSERT INTO events (submission_id, received_at, event_id, creation_no, source, body, headers, peer, digest)
SELECT id, at, pg_temp.id_of(at, sha256(body)), (no - 1) / {VMS_OF_CREATION} + 1, 'callback', body,
       '{{"content-type": "application/json", "user-agent": "bench"}}', '127.0.0.1', sha256(body)
FROM (SELECT *, convert_to(format($text$BODY$text$, vm, 'train-' || number || '-' || no, word), 'UTF8') AS body
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
    apart = 2 * WIDEST // EVENTS_OF_SUBMISSION // UNDER_WAY
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


async def fill(url: str, events: int) -> None:
    """Put so many events on record, with all that belongs to them, and what is under way."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET synchronous_commit = off")  # a past is made again if the machine stops
        await connection.execute(_FUNCTIONS)
        for first in range(0, events // EVENTS_OF_SUBMISSION, _AT_ONCE):
            last = min(first + _AT_ONCE, events // EVENTS_OF_SUBMISSION) - 1
            await _past(connection, 2 * first, 2 * last)
        await _under_way(connection)
        await connection.execute("VACUUM ANALYZE")  # as autovacuum would have, in a record that has grown by itself
    finally:
        await connection.close()


async def _past(connection: asyncpg.Connection, first: int, last: int) -> None:
    now = await connection.fetchval("SELECT now()")
    which = (first, last, 2, now, VMS_OF_SUBMISSION)
    month = await connection.fetchval("SELECT date_trunc('month', now())")
    await connection.execute(_SUBMISSIONS, *which, "cancelled")
    await connection.execute(_CREATIONS, *which)
    await connection.execute(_VMS, *which, "DELETED")
    text = body("%1$s", "%2$s", "%3$s")
    await connection.execute(_EVENTS.replace("BODY", text), *which, month)
    await connection.execute(_TRANSITIONS, *which, month)


async def _under_way(connection: asyncpg.Connection) -> None:
    numbers = numbers_under_way()
    now = await connection.fetchval("SELECT now()")
    which = (numbers[0], numbers[-1], numbers[1] - numbers[0], now, VMS_UNDER_WAY)
    await connection.execute(_SUBMISSIONS, *which, "open")
    await connection.execute(_CREATIONS, *which)
    await connection.execute(_VMS, *which, "ACTIVE")

"""A record of a year, made by SQL, and the same as one plain table of events with the obvious indexes.

Every submission has one creation of 20 VMs, every VM ten transitions and fifty events, of which one in ten is a repeat. A twentieth of the
moves was seen by a refresh first. VMs live for ten days, so that the last of them are alive.

Rows are appended in the order of their time, as a daemon does it, some hundred at once.
"""

from datetime import UTC, datetime, timedelta

import asyncpg
from as_of import body

from service.storage import partitions
from service.storage.engine import begin, create_engine

VMS_OF_SUBMISSION, EVENTS_OF_VM, MOVES_OF_VM = 20, 50, 10
YEAR, LIFE = timedelta(days=365), timedelta(days=10)
_AT_ONCE = (
    1000  # events in a transaction, on average: it seals the rows of one together, and a daemon writes no more at once
)

# As service/core/ids.py makes ids.
_FUNCTIONS = """
CREATE FUNCTION id_of(at timestamptz, tail bytea) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7000'
        || lpad(to_hex(get_byte(tail, 0) & 63 | 128), 2, '0') || encode(substr(tail, 2, 7), 'hex'))::uuid
$$
"""
# $1 is the first moment, $2 the seconds between two submissions, $3 their number, $4 now, and $5 and $6 the stretch of time that is made:
# its begin and end, in seconds after the first moment.


def _numbers(after: str) -> str:
    """The submissions n to which something happens in the stretch: so many seconds after their begin."""
    first, end = (f"ceil(({at} - ({after})) / $2::float8)::int" for at in ("$5::float8", "$6::float8"))
    return f"generate_series(greatest({first}, 0), least({end}, $3::int) - 1) AS n"


#: Submission n: its id, begin, flavor and region.
_SUBMISSION = """
n, id_of($1::timestamptz + n * $2::float8 * interval '1 s', sha256(convert_to('submission ' || n, 'UTF8'))) AS id,
$1::timestamptz + n * $2::float8 * interval '1 s' AS begun, 'flavor-' || n % 7 AS flavor, 'REGION-' || n % 3 AS region,
$4::timestamptz AS now
"""
_SUBMISSIONS = f"SELECT {_SUBMISSION} FROM {_numbers('0')}"
#: Its VM number no.
_VM = f"n::bigint * {VMS_OF_SUBMISSION} + no AS vm, 'vm-' || n || '-' || no AS name"
_VMS = f"""
SELECT one.*, no, {_VM}, begun + interval '{LIFE.days} days' AS gone, begun + interval '{LIFE.days} days' <= now AS over
FROM ({_SUBMISSIONS}) AS one, generate_series(1, {VMS_OF_SUBMISSION}) AS no
"""
_WORDS = "ARRAY['CREATING', 'BUILD', 'ACTIVE', 'STOPPING', 'SHUTOFF', 'STARTING', 'ACTIVE', 'REBOOTING', 'ACTIVE', 'DELETED']"
#: When each move is, in seconds after the submission; the last is the end of the VM.
_WHEN = "ARRAY[1, 20, 200 + no * 10, 86400, 86460, 90000, 90060, 172800, 172860, 864000]"
_MOVES = f"""
SELECT {_SUBMISSION}, no, {_VM}, step, ({_WORDS})[step] AS word, CASE WHEN step = 1 THEN 'REQUESTED' ELSE ({_WORDS})[step - 1] END AS before,
       $1::timestamptz + (n * $2::float8 + after) * interval '1 s' AS at,
       (n::bigint * {VMS_OF_SUBMISSION} + no + step) % 20 = 0 OR step = {MOVES_OF_VM} AS seen
FROM generate_series(1, {VMS_OF_SUBMISSION}) AS no, generate_series(1, {MOVES_OF_VM}) AS step,
     LATERAL (SELECT ({_WHEN})[step] AS after) AS moved, LATERAL {_numbers("after")}
"""
_HEARD = f"""
SELECT {_SUBMISSION}, no, {_VM}, k, ({_WORDS})[(k - 1) / 5 + 1] AS word,
       $1::timestamptz + (n * $2::float8 + after) * interval '1 s' AS at
FROM generate_series(1, {VMS_OF_SUBMISSION}) AS no, generate_series(1, {EVENTS_OF_VM}) AS k,
     LATERAL (SELECT ({_WHEN})[(k - 1) / 5 + 1] + (k - 1) % 5 * 0.5 AS after) AS heard, LATERAL {_numbers("after")}
"""
_BODY = body("%1$s", "%2$s", "%3$s")
#: The body of a VM's event number k.
_BYTES = f"convert_to(format($text${_BODY}$text$, vm, name || CASE WHEN k % 10 = 0 THEN (k - 1)::text ELSE k::text END, word), 'UTF8')"

_FILL = (
    f"""
    INSERT INTO submissions (submission_id, name, count, spec, policy, state, requested_by, next_creation_no, next_vm_no, created_at,
                             deadline_at, ended_at)
    SELECT id, 'train-' || n, {VMS_OF_SUBMISSION}, jsonb_build_object('labels', jsonb_build_array('team-' || n % 20)), '{{}}', 'ready', 'caller-' || n % 5,
           2, {VMS_OF_SUBMISSION} + 1, begun, begun + interval '1 day', begun + interval '400 s' FROM ({_SUBMISSIONS}) AS one
    """,
    f"""
    INSERT INTO creations (submission_id, creation_no, vm_count, name, state, attempt, created_at, completed_at, deadline_at)
    SELECT id, 1, {VMS_OF_SUBMISSION}, 'train-' || n || '-1', 'answered', 1, begun, begun, begun FROM ({_SUBMISSIONS}) AS one
    """,
    f"""
    INSERT INTO vms (submission_id, vm_no, creation_no, provider_id, name, state, provider_status, state_since, seq, last_event_at,
                     observed_at, next_refresh_at, wants_address, fixed_ip, floating_ip, flavor, environment, region, gpu_model, gpu_count,
                     assignment, member, ready, created_at, bound_at, active_at, ready_at, ended_at)
    SELECT id, no, 1, vm, name, CASE WHEN over THEN 'DELETED' ELSE 'ACTIVE' END, 'ACTIVE', CASE WHEN over THEN gone ELSE begun END, 1,
           begun, begun, CASE WHEN over THEN NULL ELSE now + interval '1 day' END, true, '10.0.' || n % 256 || '.' || no,
           '198.' || n % 200 || '.' || n / 200 % 256 || '.' || no, flavor, 'env-' || n % 4, region, 'A100-80G-PCIe', 1, 'none', true,
           NOT over, begun, begun + interval '1 s', begun + interval '200 s', begun + (200 + no * 10) * interval '1 s',
           CASE WHEN over THEN gone END FROM ({_VMS}) AS vms
    """,
    f"""
    INSERT INTO transitions (submission_id, vm_no, seq, at, from_state, to_state, verdict, claimed, evidence, evidence_id, evidence_at)
    SELECT id, no, CASE WHEN step = {MOVES_OF_VM} THEN step + 1 ELSE step END, at + interval '1 s', before, word, 'moved', word, CASE WHEN seen THEN 'observation' ELSE 'event' END,
           CASE WHEN seen THEN gen_random_uuid() ELSE id_of(at, sha256({_BYTES} || convert_to(k::text, 'UTF8'))) END, at + interval '1 s'
    FROM (SELECT *, (step - 1) * 5 + 1 AS k FROM ({_MOVES}) AS moves) AS moves ORDER BY at
    """,
    # No callback alone ends a VM: it is on record as a claim, and the refresh that follows moves the VM.
    f"""
    INSERT INTO transitions (submission_id, vm_no, seq, at, from_state, to_state, verdict, claimed, evidence, evidence_id, evidence_at)
    SELECT id, no, step, at, before, before, 'unexpected', word, 'event', id_of(at, sha256({_BYTES} || convert_to(k::text, 'UTF8'))), at
    FROM (SELECT *, (step - 1) * 5 + 1 AS k FROM ({_MOVES}) AS moves WHERE step = {MOVES_OF_VM}) AS moves ORDER BY at
    """,
    f"""
    INSERT INTO events (submission_id, received_at, event_id, creation_no, source, body, headers, peer, digest)
    SELECT id, at, id_of(at, sha256(body || convert_to(k::text, 'UTF8'))), 1, 'callback', body,
           '{{"content-type": "application/json"}}', '192.0.2.7', sha256(body)
    FROM (SELECT *, {_BYTES} AS body FROM ({_HEARD}) AS heard) AS bodies ORDER BY at
    """,
    f"""
    INSERT INTO calls (submission_id, call_id, operation, creation_no, begun_at)
    SELECT id, id_of(begun, sha256(convert_to('call ' || n, 'UTF8'))), 'create', 1, begun FROM ({_SUBMISSIONS}) AS one
    """,
    f"""
    INSERT INTO call_ends (submission_id, call_id, outcome, status_code, ms, ended_at)
    SELECT id, id_of(begun, sha256(convert_to('call ' || n, 'UTF8'))), CASE WHEN n % 50 = 0 THEN 'unconfirmed' ELSE 'ok' END, 200, 900,
           begun + interval '1 s' FROM ({_SUBMISSIONS}) AS one
    """,
)

# What somebody would make who wants an audit and no more: one table of all that happened, with what is asked for in columns.
_PLAIN = """
CREATE TABLE plain_events (
    id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL, kind text NOT NULL, submission_id uuid NOT NULL, vm_no integer,
    provider_id bigint, name text, flavor text, region text, environment text, address text, from_state text, to_state text, evidence text, body jsonb)
"""
_PLAIN_FILL = (
    """
    INSERT INTO plain_events (at, kind, submission_id, vm_no, provider_id, name, flavor, region, environment, address, from_state, to_state, evidence)
    SELECT t.at, 'transition', t.submission_id, t.vm_no, v.provider_id, v.name, v.flavor, v.region, v.environment, v.floating_ip, t.from_state,
           t.to_state, t.evidence FROM transitions t JOIN vms v USING (submission_id, vm_no)
    """,
    """
    INSERT INTO plain_events (at, kind, submission_id, vm_no, provider_id, name, flavor, region, environment, address, to_state, body)
    SELECT e.received_at, 'callback', v.submission_id, v.vm_no, v.provider_id, v.name, v.flavor, v.region, v.environment, v.floating_ip,
           e.decoded #>> '{data,status}', e.decoded
    FROM (SELECT *, convert_from(body, 'UTF8')::jsonb AS decoded FROM events) AS e
    JOIN vms v ON v.provider_id = (e.decoded #>> '{data,id}')::bigint
    """,
    """
    INSERT INTO plain_events (at, kind, submission_id, from_state, to_state)
    SELECT c.begun_at, 'call', c.submission_id, c.operation, e.outcome FROM calls c JOIN call_ends e USING (submission_id, call_id)
    """,
    "ALTER TABLE plain_events ADD PRIMARY KEY (id)",
    *(
        f"CREATE INDEX ON plain_events ({columns})"
        for columns in ("at", "submission_id, vm_no, at", "provider_id, at", "name, at", "address, at", "kind, at")
    ),
)


async def fill(url: str, events: int) -> datetime:
    """Put so many events on record, a fifth as many transitions and a fiftieth as many VMs; returns the first moment."""
    now = datetime.now(UTC)
    first = now - YEAR
    engine = create_engine(url)
    async with begin(engine) as conn:
        await partitions.make_partitions(conn, now=first, months=14)
    await engine.dispose()
    count = max(1, events // (VMS_OF_SUBMISSION * EVENTS_OF_VM))
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET synchronous_commit = off")  # a past is made again if the machine stops
        await connection.execute(_FUNCTIONS)
        stretches = max(1, events // _AT_ONCE)
        length = YEAR.total_seconds() / stretches
        for number in range(stretches):
            which = (first, YEAR.total_seconds() / count, count, now, number * length, (number + 1) * length)
            async with connection.transaction():
                for statement in _FILL:
                    await connection.execute(statement, *which)
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()
    return first


async def fill_plain(url: str) -> None:
    """The same as one table."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET synchronous_commit = off")
        await connection.execute("SET maintenance_work_mem = '256MB'")
        await connection.execute(_PLAIN)
        for statement in _PLAIN_FILL:
            await connection.execute(statement)
        await connection.execute("VACUUM ANALYZE plain_events")
    finally:
        await connection.close()

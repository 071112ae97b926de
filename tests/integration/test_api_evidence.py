"""What was heard and what was called, over HTTP: in order, in pages, whole, by the indexes, without a secret."""

import base64
import hashlib
import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from clock import NOON
from msgspec.structs import replace
from operator_api import Api, serving
from sqlalchemy import ClauseElement, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection
from stored_events import event

from service.core.ids import FLEET, uuid7
from service.core.token import CreationRef, mint
from service.queries import calls as call_queries
from service.queries import event_keys
from service.queries import events as event_queries
from service.runtime.runtime import Runtime
from service.storage import calls, events, partitions
from service.storage.calls import Call, CallEnd
from service.storage.engine import begin
from service.storage.events import DeadLetter, Event, history_of
from service.storage.partitions import Month
from service.worker import retention

SUBMISSIONS = [UUID(int=(0x0198C0DE0000 << 80) | (7 << 76) | (2 << 62) | n) for n in range(1, 6)]


@pytest.fixture
async def api(runtime: Runtime) -> AsyncIterator[Api]:
    async with begin(runtime.engine) as conn:
        for back in (0, 1, 3):  # a month is missing: what was heard in it fitted none
            await partitions.make_partitions(conn, now=Month.of(NOON).back(back).first, months=1)
    async with serving(runtime) as api:
        yield api


def said(number: int, *, provider_id: int = 4711, **more: Any) -> Event:
    told = {"resource": {"id": provider_id}, "operation": {"name": "CreateInstance"}, "data": {"status": "BUILD"}}
    return event(number, body=orjson.dumps(told | {"n": number}), **more)


async def keep(rt: Runtime, *group: Event) -> None:
    async with begin(rt.engine) as conn:
        await events.insert(conn, group)


async def dead_letters(rt: Runtime, one: Event, kind: str = "unreadable", provider_id: int | None = None) -> None:
    row = DeadLetter(
        submission_id=one.submission_id,
        received_at=one.received_at,
        event_id=one.event_id,
        kind=kind,
        reason=f"it was {kind}",
        provider_id=provider_id,
        at=one.received_at,
    )
    async with begin(rt.engine) as conn:
        await events.insert_dead_letters(conn, [row])


def scattered(count: int, seed: int = 1) -> list[Event]:
    """Events of several submissions and months, some at the very same time, in the order of a listing."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        at = NOON - timedelta(days=rng.choice((0, 0, 20, 45, 100, 400)), milliseconds=rng.randrange(5))
        made.append(
            said(
                number,
                submission_id=rng.choice(SUBMISSIONS),
                creation_no=rng.randrange(1, 4),
                received_at=at,
                event_id=uuid7(at, rng.randbytes(8)),
            )
        )
    return sorted(made, key=lambda one: (one.received_at, one.submission_id, one.event_id), reverse=True)


def ids(found: Sequence[Any]) -> list[str]:
    return [str(one.event_id if isinstance(one, Event) else one["event_id"]) for one in found]


async def test_an_event_is_listed_with_what_it_says(api: Api, runtime: Runtime) -> None:
    one = said(0)
    await keep(runtime, one)
    (shown,) = await api.every("/v1/events")
    assert shown == {
        "event_id": str(one.event_id),
        "submission_id": str(one.submission_id),
        "creation_no": 3,
        "received_at": "2026-03-02T12:00:00Z",
        "source": "callback",
        "peer": "192.0.2.7",
        "size": len(one.body),
        "digest": hashlib.sha256(one.body).hexdigest(),
        "provider_id": 4711,
        "operation": "CreateInstance",
        "status": "BUILD",
        "dead_letter": None,
        "waiting": True,
    }


async def test_what_cannot_be_read_says_nothing_and_why(api: Api, runtime: Runtime) -> None:
    one = event(0, body=b"{")
    await keep(runtime, one)
    await dead_letters(runtime, one)
    (shown,) = await api.every("/v1/events")
    assert (shown["provider_id"], shown["operation"], shown["status"]) == (None, None, None)
    assert shown["dead_letter"] == {"kind": "unreadable", "reason": "it was unreadable"}


async def test_an_entry_of_a_history_tells_its_reason_and_message_and_does_not_wait(api: Api, runtime: Runtime) -> None:
    entry = {"time": "2026-03-02T11:00:00Z", "reason": "InstanceCreationSuccess", "message": "it is there"}
    one = event(0, source="history", peer=history_of(507279), headers={}, body=orjson.dumps(entry))
    async with begin(runtime.engine) as conn:
        await events.insert_history(conn, [one], since=NOON)
    await keep(runtime, said(1))
    (shown,) = await api.every("/v1/events?source=history")
    assert (shown["provider_id"], shown["operation"], shown["status"], shown["waiting"]) == (
        507279,
        "InstanceCreationSuccess",
        "it is there",
        False,
    )
    assert len(await api.every("/v1/events?source=callback")) == 1
    assert len(await api.every("/v1/events")) == 2


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
async def test_all_pages_hold_each_event_once_and_newest_first_while_more_come_in(
    api: Api, runtime: Runtime, limit: int
) -> None:
    kept = scattered(60)
    await keep(runtime, *random.Random(2).sample(kept, len(kept)))
    for narrowed, wanted in (
        ("", kept),
        (f"&submission_id={SUBMISSIONS[1]}", [one for one in kept if one.submission_id == SUBMISSIONS[1]]),
    ):
        seen: list[str] = []
        cursor = ""
        for number in range(1000, 2000):
            page = await api.get(f"/v1/events?limit={limit}{narrowed}{cursor}")
            assert len(page["items"]) <= limit
            seen += ids(page["items"])
            if page["next"] is None:
                break
            cursor = f"&cursor={page['next']}"
            # Later ones, of a submission that was there and of one that was not.
            await keep(
                runtime,
                said(number, submission_id=SUBMISSIONS[1]),
                said(number, submission_id=uuid7(NOON, number.to_bytes(8, "big"))),
            )
        assert [one for one in seen if one in ids(kept)] == ids(wanted)
        assert len(seen) == len(set(seen))


async def test_events_are_narrowed_by_time_creation_and_submission(api: Api, runtime: Runtime) -> None:
    kept = scattered(60)
    await keep(runtime, *kept)
    since, until = NOON - timedelta(days=45, milliseconds=2), NOON - timedelta(days=20)
    query = f"since={since.isoformat()}&until={until.isoformat()}".replace("+", "%2B")
    inside = [one for one in kept if since <= one.received_at < until]
    assert 0 < len(inside) < len(kept)
    assert ids(await api.every(f"/v1/events?{query}&limit=3")) == ids(inside)
    mine = [one for one in inside if one.submission_id == SUBMISSIONS[0]]
    assert ids(await api.every(f"/v1/events?{query}&submission_id={SUBMISSIONS[0]}")) == ids(mine)
    of_creation = [one for one in kept if (one.submission_id, one.creation_no) == (SUBMISSIONS[2], 2)]
    assert of_creation
    path = f"/v1/events?submission_id={SUBMISSIONS[2]}&creation_no=2"
    assert ids(await api.every(path)) == ids(of_creation)


async def test_what_was_set_aside_is_listed_by_kind_also_when_its_month_has_left(api: Api, runtime: Runtime) -> None:
    old, new = said(0, received_at=NOON - timedelta(days=20)), event(1, body=b"?")
    old = replace(old, event_id=uuid7(old.received_at, b"12345678"))
    await keep(runtime, old, new, said(2))
    await dead_letters(runtime, old, "unknown_vm", provider_id=4711)
    await dead_letters(runtime, new)
    assert ids(await api.every("/v1/events?dead_letter=any&limit=1")) == ids([new, old])
    assert ids(await api.every(f"/v1/events?dead_letter=unknown_vm&submission_id={old.submission_id}")) == ids([old])
    assert await api.every("/v1/events?dead_letter=failed") == []
    assert ids(await api.every(f"/v1/events?dead_letter=any&submission_id={old.submission_id}&creation_no=3")) == ids(
        [new, old]
    )
    async with begin(runtime.engine) as conn:
        await conn.execute(text("TRUNCATE inbox"))
    runtime.settings = runtime.settings.model_copy(update={"events_keep_months": 1, "events_drop": True})
    runtime.clock.set(datetime(2026, 4, 15, tzinfo=UTC))
    assert await retention.run_once(runtime) > 0
    (gone,) = await api.every("/v1/events?dead_letter=unknown_vm")
    assert gone["event_id"] == str(old.event_id)
    assert gone["dead_letter"] == {"kind": "unknown_vm", "reason": "it was unknown_vm"}
    assert gone["provider_id"] == 4711
    assert {gone[name] for name in ("creation_no", "source", "size", "digest", "operation", "status")} == {None}
    whole = await api.get(f"/v1/events/{old.event_id}")
    assert (whole["event"], whole["headers"], whole["body"]) == (gone, None, None)


async def test_an_event_is_found_by_its_id_alone_in_any_month(api: Api, runtime: Runtime) -> None:
    kept = scattered(30)
    await keep(runtime, *kept)
    for one in kept:
        found = await api.get(f"/v1/events/{one.event_id}")
        assert found["event"]["event_id"] == str(one.event_id)
        assert found["headers"] == {"content-type": "application/json"}
        assert found["body"] == {"encoding": "utf-8", "content": one.body.decode(), "redacted": False}


async def test_an_event_whose_id_was_made_later_than_its_time_is_found(api: Api, runtime: Runtime) -> None:
    midnight = datetime(2026, 3, 1, tzinfo=UTC)  # the id is of another month than the event
    late = said(0, received_at=midnight - timedelta(seconds=20), event_id=uuid7(midnight, b"12345678"))
    await keep(runtime, late)
    assert (await api.get(f"/v1/events/{late.event_id}"))["event"]["event_id"] == str(late.event_id)


@pytest.mark.parametrize(
    "path", ["x", "0198c0de-0000-4000-8000-000000000000", str(uuid7(NOON, b"nobodys!")), "f" * 12 + "7" + "f" * 19]
)
async def test_there_is_no_event_by_another_name(api: Api, path: str) -> None:
    answer = await api.request("GET", f"/v1/events/{path}")
    assert (answer.status, answer.json["type"]) == (404, "/problems/not-found")


async def test_a_body_that_is_not_text_comes_in_base64(api: Api, runtime: Runtime) -> None:
    one = event(0, body=b"\xff\x00\x85 no text")
    await keep(runtime, one)
    body = (await api.get(f"/v1/events/{one.event_id}"))["body"]
    assert (body["encoding"], body["redacted"]) == ("base64", False)
    assert base64.b64decode(body["content"]) == one.body


@pytest.mark.parametrize("around", [b"https://x/callbacks/%s", b'"\\n%s"', b"https%%3A%%2F%%2F%s_", b"\xff%s"])
async def test_no_callback_token_is_shown(api: Api, runtime: Runtime, around: bytes) -> None:
    token = mint(CreationRef(SUBMISSIONS[0], 3), b"a secret of thirty-two characters")
    told = {"resource": {"id": 1}, "operation": {"name": f"Post_{token}"}, "data": {"status": token.upper()}}
    readable = event(0, body=orjson.dumps(told), headers={"x-request-id": token})
    plain = event(1, body=around % token.encode())
    await keep(runtime, readable, plain)
    for one in (readable, plain):
        found = await api.get(f"/v1/events/{one.event_id}")
        shown = orjson.dumps([found, await api.every("/v1/events")])
        if found["body"]["encoding"] == "base64":
            shown += base64.b64decode(found["body"]["content"])
        assert found["body"]["redacted"] is True
        assert token[38:].encode() not in shown.lower()


def call(number: int, **more: Any) -> Call:
    at = NOON + timedelta(seconds=number // 3)
    known: dict[str, Any] = {
        "submission_id": SUBMISSIONS[number % 2],
        "call_id": uuid7(at, number.to_bytes(8, "big")),
        "operation": "create",
        "begun_at": at,
    }
    return Call(**known | more)


async def make(rt: Runtime, *group: Call, **end: Any) -> None:
    """Put calls on record, with an end where one is given."""
    async with begin(rt.engine) as conn:
        await calls.begin(conn, group)
        if end:
            ends = [
                CallEnd(submission_id=one.submission_id, call_id=one.call_id, ended_at=one.begun_at, **end)
                for one in group
            ]
            await calls.end(conn, ends)


def call_ids(found: Sequence[Any]) -> list[str]:
    return [str(one.call_id if isinstance(one, Call) else one["call_id"]) for one in found]


async def test_a_call_is_listed_with_what_came_of_it(api: Api, runtime: Runtime) -> None:
    token = mint(CreationRef(SUBMISSIONS[0], 3), b"a secret of thirty-two characters")
    one = call(0, creation_no=3, attempt=2)
    await make(runtime, one, outcome="unconfirmed", status_code=502, ms=17, error=f"broken at {token}")
    (shown,) = await api.every("/v1/calls")
    assert shown == {
        "call_id": str(one.call_id),
        "begun_at": "2026-03-02T12:00:00Z",
        "operation": "create",
        "submission_id": str(SUBMISSIONS[0]),
        "creation_no": 3,
        "vm_no": None,
        "provider_id": None,
        "attempt": 2,
        "outcome": "unconfirmed",
        "ms": 17,
        "status": 502,
        "error": f"broken at {token[:38]}…",
    }


async def test_calls_are_narrowed_and_those_without_an_end_are_found(api: Api, runtime: Runtime) -> None:
    died, ok, listed = call(0), call(1), call(9, submission_id=FLEET, operation="list")
    await make(runtime, died)
    await make(runtime, ok, outcome="ok", status_code=200, ms=5)
    await make(runtime, listed, outcome="ok", status_code=200, ms=5)
    (open_,) = await api.every("/v1/calls?outcome=none")
    assert (open_["call_id"], open_["outcome"], open_["ms"]) == (str(died.call_id), None, None)
    assert call_ids(await api.every("/v1/calls?outcome=ok")) == call_ids([listed, ok])
    (of_the_fleet,) = await api.every("/v1/calls?operation=list")
    assert of_the_fleet["submission_id"] is None
    assert call_ids(await api.every(f"/v1/calls?submission_id={SUBMISSIONS[1]}")) == call_ids([ok])
    assert call_ids(await api.every("/v1/calls?since=2026-03-02T12:00:01Z")) == call_ids([listed])
    assert len(await api.every("/v1/calls?until=2026-03-02T12:00:01Z")) == 2


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
async def test_all_pages_hold_each_call_once_and_newest_first_while_more_come_in(
    api: Api, runtime: Runtime, limit: int
) -> None:
    kept = [call(number) for number in range(30)]
    await make(runtime, *kept[::2], outcome="ok", ms=1)
    await make(runtime, *kept[1::2])
    seen: list[str] = []
    cursor = ""
    for number in range(1000, 2000):
        page = await api.get(f"/v1/calls?limit={limit}{cursor}")
        seen += call_ids(page["items"])
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
        await make(runtime, call(number))
    assert seen == call_ids(sorted(kept, key=lambda one: (one.begun_at, one.call_id), reverse=True))


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/events?limit=0&dead_letter=odd&source=dream&sort=up", {"limit", "dead_letter", "source", "sort"}),
        ("/v1/events?creation_no=1", {"body"}),
        ("/v1/events?since=2026-03-02&until=1772452800&cursor=x", {"since", "until", "cursor"}),
        ("/v1/events?since=2026-03-02T12:00:00", {"since"}),
        ("/v1/events?since=2026-03-02T12:00:00+01:00", {"since"}),  # the plus is a space
        ("/v1/events?since=2026-13-02T12:00:00Z&until=0001-01-01T00:00:00%2B14:00", {"since", "until"}),
        ("/v1/events?until=9999-12-31T23:59:59-14:00", {"until"}),
        ("/v1/events?since=2026-03-02T12:00:00Z&until=2026-03-02T12:00:00Z", {"body"}),
        (
            "/v1/calls?limit=1001&submission_id=x&cursor=1.2&dead_letter=any",
            {"limit", "submission_id", "cursor", "dead_letter"},
        ),
        ("/v1/calls?operation=%00&outcome=%00", {"operation", "outcome"}),
    ],
)
async def test_every_mistake_of_a_query_is_named(api: Api, path: str, fields: set[str]) -> None:
    answer = await api.request("GET", path)
    assert answer.status == 422
    assert {one["field"] for one in answer.json["errors"]} == fields


async def test_times_are_taken_in_any_zone_and_to_the_microsecond(api: Api, runtime: Runtime) -> None:
    one = said(0, received_at=NOON + timedelta(microseconds=5))
    await keep(runtime, one)
    for since, count in (
        ("2026-03-02T13:00:00.000005%2B01:00", 1),
        ("2026-03-02T13:00:00.000006%2B01:00", 0),
        ("2026-03-02t12:00:00.000005z", 1),
    ):
        assert len(await api.every(f"/v1/events?since={since}")) == count


# How Postgres finds them.

_MANY = """
INSERT INTO events (submission_id, received_at, event_id, creation_no, source, body, headers, peer, digest)
SELECT CAST('0198c0de-0000-7000-8000-00000000000' || n % 5 AS uuid), CAST(:noon AS timestamptz) - n % 90 * interval '1 day' - n * interval '1 ms',
       gen_random_uuid(), 1, 'callback', convert_to(repeat('x', 400), 'utf8'), '{}', 'x', '\\x00'
FROM generate_series(1, 20000) AS n
"""


async def plan(conn: AsyncConnection, query: ClauseElement) -> list[dict[str, Any]]:
    """The nodes of what Postgres did for a query."""
    compiled = query.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
    explained = await conn.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled}")
    return list(nodes(explained.scalar_one()[0]["Plan"]))


def nodes(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [node, *(one for child in node.get("Plans", ()) for one in nodes(child))]


def kinds(found: list[dict[str, Any]]) -> set[str]:
    return {one["Node Type"] for one in found}


def read(found: list[dict[str, Any]]) -> int:
    """How many rows were read from tables and indexes, those passed over too."""
    return sum(
        (one["Actual Rows"] + one.get("Rows Removed by Filter", 0)) * one["Actual Loops"]
        for one in found
        if one["Node Type"].endswith("Scan") and "Relation Name" in one
    )


@pytest.fixture
async def many(api: Api, runtime: Runtime) -> AsyncIterator[AsyncConnection]:
    async with begin(runtime.engine) as conn:
        await conn.execute(text(_MANY), {"noon": NOON})
        await conn.execute(text("ANALYZE events"))
        yield conn


async def test_the_newest_events_of_a_submission_come_from_the_primary_key_without_a_sort(
    many: AsyncConnection,
) -> None:
    found = await plan(many, event_keys.of_submission(SUBMISSIONS[0], [], 10))
    assert not {"Sort", "Seq Scan", "Incremental Sort"} & kinds(found)
    assert read(found) <= 10 + len(await partitions.known(many)) + 1


#: A second apart, as they come: some 1,200 blocks.
_IN_ORDER = """
INSERT INTO events (submission_id, received_at, event_id, creation_no, source, body, headers, peer, digest)
SELECT gen_random_uuid(), CAST(:noon AS timestamptz) + n * interval '1 s', gen_random_uuid(), 1, 'callback',
       convert_to(repeat('x', 400), 'utf8'), '{}', 'x', '\\x00'
FROM generate_series(1, 20000) AS n
"""
_BRINS = """
SELECT brin_summarize_new_values(indexes.oid), indexes.reloptions FROM pg_index, pg_class AS indexes, pg_class AS tables, pg_am
WHERE indexes.oid = indexrelid AND tables.oid = indrelid AND pg_am.oid = indexes.relam AND amname = 'brin' AND tables.relname = :name
"""


async def test_the_newest_events_of_the_fleet_are_found_by_their_time(many: AsyncConnection) -> None:
    month, received_at = Month.of(NOON), event_queries.events.c.received_at
    await many.execute(text(_IN_ORDER), {"noon": NOON})
    ((_, options),) = await many.execute(text(_BRINS), {"name": month.table})
    assert options == ["autosummarize=on", "pages_per_range=32"]
    await many.execute(text("ANALYZE events"))
    for kind in ("indexscan", "indexonlyscan"):  # so few entries of an index would be gone through
        await many.execute(text(f"SET LOCAL enable_{kind} = off"))
    found = await plan(many, event_keys.of_fleet([received_at >= NOON + timedelta(seconds=19_990)]).limit(50))
    assert "Seq Scan" not in {one["Node Type"] for one in found if one.get("Relation Name") == month.table}
    blocks = sum(one.get("Lossy Heap Blocks", 0) + one.get("Exact Heap Blocks", 0) for one in found)
    assert 0 < blocks <= 2 * 128, (
        "no more than the stretch of blocks that has the last seconds, and the one that is begun"
    )


async def test_an_id_is_looked_for_in_its_month_alone(many: AsyncConnection, runtime: Runtime) -> None:
    month, received_at = Month.of(NOON), event_queries.events.c.received_at
    near = [
        received_at >= NOON - timedelta(seconds=1),
        received_at < NOON + timedelta(seconds=1),
        event_queries.events.c.event_id == UUID(int=0),
    ]
    found = await plan(many, event_keys.of_fleet(near).limit(1))
    assert {one["Relation Name"] for one in found if "Relation Name" in one} == {month.table}
    assert "Seq Scan" not in kinds(found)


async def test_the_newest_calls_come_from_the_index_on_their_beginning(api: Api, runtime: Runtime) -> None:
    async with begin(runtime.engine) as conn:
        await conn.execute(
            text(
                "INSERT INTO calls (submission_id, call_id, operation, begun_at) SELECT gen_random_uuid(), "
                "gen_random_uuid(), 'create', CAST(:noon AS timestamptz) + n * interval '1 s' FROM generate_series(1, 10000) AS n"
            ),
            {"noon": NOON},
        )
        await conn.execute(
            text(
                "INSERT INTO call_ends (submission_id, call_id, outcome, ms, ended_at) "
                "SELECT submission_id, call_id, 'ok', 1, begun_at FROM calls"
            )
        )
        await conn.execute(text("ANALYZE calls, call_ends"))
        found = await plan(conn, call_queries.newest(call_queries.CallFilter(), None, 10))
    assert "calls_begun_idx" in {one.get("Index Name") for one in found}
    assert not {"Sort", "Seq Scan", "Hash Join"} & kinds(found)
    assert read(found) <= 30

"""Events of a VM are found by its id in their bodies, in whatever form a body holds it."""

import gzip
import hashlib
import json
import random
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as trying
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from stage import START

from service.core.event import Unreadable, parse
from service.queries import vm_events
from service.queries.event_keys import event_may_name
from service.queries.events import EventFilter
from service.storage.events import history_of
from service.storage.tables import events

CREATION = (UUID(int=1), 1)
#: The forms in which JSON can hold a number, or its digits as text.
FORMS: list[Callable[[int], str]] = [
    str,
    lambda one: f'"{one}"',
    lambda one: f'" 00{one} "',
    lambda one: f"{one}.0",
    lambda one: f"{one}e0",
    lambda one: f"{one / 10 ** (len(str(one)) - 1)!r}E+{len(str(one)) - 1}",
    lambda one: f"{one * 1000}e-3",
    lambda one: f"{one - 1}.99999999999999999999",
    lambda one: f"{one}.{'0' * 30}1",
    lambda one: '"' + "".join(f"\\u{ord(digit):04x}" for digit in str(one)) + '"',
    lambda one: f'"{str(one)[:-1]}\\u{ord(str(one)[-1]):04x}"',
    lambda one: f'"\\t\\u2003{one}\\n"',
    lambda one: f'"\u00a0{str(one)[:-1]}\\u{ord(str(one)[-1]):04x}"',
    lambda one: f'{{"id": {one}}}',
]
#: What stands between a name and its value.
GAPS = ("", " ", "\n\t ", "\r\n")
#: The names under which a callback may have it.
PLACES = ('{{"resource": {{"id":{}}}}}', '{{"data": {{"id":{}}}, "x": "{{"}}', '  {{"id":{}}}', '{{"resource":{}}}')
PACKED: list[Callable[[bytes], bytes]] = [bytes, gzip.compress, zlib.compress, lambda body: body + b" " * 20_000]


@given(
    st.integers(1, 10**9) | st.integers(1, 2**63 - 1),
    st.sampled_from(FORMS),
    st.sampled_from(GAPS),
    st.sampled_from(PLACES),
    st.sampled_from(PACKED),
    st.integers(1, 10**9),
)
@trying(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_event_that_names_a_vm_is_left_out(
    engine: AsyncEngine, one: int, form: Any, gap: str, place: str, pack: Any, other: int
) -> None:
    body = pack(place.format(gap + form(one)).encode())
    read = parse(body)
    async with engine.connect() as conn:
        event_id = await stored(conn, body)
        named = [] if isinstance(read, Unreadable) else [read.provider_id]
        for wanted in {one, other, *named}:
            assert await may_name(conn, event_id, wanted) or wanted not in named
            assert await events_of(conn, [other, wanted]) == [event_id] * bool({other, wanted} & {*named})
        await conn.rollback()


async def test_most_events_of_others_are_left_out_and_histories_go_by_their_path(engine: AsyncEngine) -> None:
    known = {
        "status": "ACTIVE",
        "name": "train-60319e486",
        "image": "3e4f2b1e-0000",
        "url": "http:\\/\\/1e5",
        "at": "2026-11-23T14:47:46.559102Z",
    }
    body = json.dumps({"resource": {"id": 507279}, "data": known, "cost": 1234.5678}).encode()
    async with engine.connect() as conn:
        event_id = await stored(conn, body)
        assert await may_name(conn, event_id, 507279)
        assert not await may_name(conn, event_id, 507280)
        history = await stored(conn, b"{}", source="history", peer=history_of(7))
        assert await may_name(conn, history, 7)
        assert not await may_name(conn, history, 8)
        assert await events_of(conn, [7]) == [history]
        await conn.rollback()


@pytest.mark.parametrize("seed", range(8))
async def test_pages_of_several_vms_have_each_event_once(engine: AsyncEngine, seed: int) -> None:
    rng = random.Random(seed)
    ids = rng.sample(range(1, 30), 5)  # digits of one are in those of others
    async with engine.connect() as conn:
        expected = []
        for _ in range(40):
            one, form, pack = rng.choice([*ids, 31]), rng.choice(FORMS), rng.choice(PACKED)
            body = pack(PLACES[0].format(form(one)).encode())
            event_id, read = await stored(conn, body), parse(body)
            if not isinstance(read, Unreadable) and read.provider_id in ids[:3]:
                expected.append(event_id)
        vms, found, before = [vm_events.VmIds(*CREATION, one) for one in ids[:3]], [], None
        limit = rng.choice([1, 2, 5])
        while some := await vm_events.page(conn, EventFilter(), vms, before=before, limit=limit):
            found += [one.event_id for one in some]
            before = some[-1].received_at, some[-1].submission_id, some[-1].event_id
        assert found == sorted(expected, reverse=True)
        await conn.rollback()


async def stored(conn: AsyncConnection, body: bytes, *, source: str = "callback", peer: str | None = None) -> UUID:
    event_id = uuid4()
    row = {
        "submission_id": CREATION[0], "received_at": START + timedelta(seconds=1), "event_id": event_id, "creation_no": CREATION[1],
        "source": source, "body": body, "headers": {}, "peer": peer, "digest": hashlib.sha256(body).digest(),
    }  # fmt: skip
    await conn.execute(events.insert().values(row))
    return event_id


async def may_name(conn: AsyncConnection, event_id: UUID, provider_id: int) -> bool:
    sql = text(f"""
        SELECT e.event_id FROM events e, (SELECT e.submission_id, 1 AS creation_no, CAST(:digits AS bytea), CAST(:history AS text)
                                          FROM events e WHERE e.event_id = :event_id) AS vm (submission_id, creation_no, digits, history)
        WHERE e.event_id = :event_id AND {event_may_name("e", "vm")}""")
    params = {"digits": str(provider_id).encode(), "history": history_of(provider_id), "event_id": event_id}
    return (await conn.execute(sql, params)).first() is not None


async def events_of(conn: AsyncConnection, provider_ids: list[int]) -> list[UUID]:
    vms = [vm_events.VmIds(*CREATION, one) for one in sorted({*provider_ids})]
    return [one.event_id for one in await vm_events.page(conn, EventFilter(), vms, before=None, limit=10)]

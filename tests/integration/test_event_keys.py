"""Events of a VM are found by its id in their bodies, in whatever form a body holds it."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given
from hypothesis import settings as trying
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import START

from service.core.event import Unreadable, parse
from service.queries.event_keys import may_name
from service.storage.events import history_of
from service.storage.tables import events

#: The forms in which JSON can hold a number, or its digits as text.
FORMS: list[Callable[[int], str]] = [
    str,
    lambda one: f'"{one}"',
    lambda one: f'" 00{one} "',
    lambda one: f"{one}.0",
    lambda one: f"{one}e0",
    lambda one: f"{one / 10 ** (len(str(one)) - 1)!r}E+{len(str(one)) - 1}",
    lambda one: f"{one * 1000}e-3",
    lambda one: '"' + "".join(f"\\u{ord(digit):04x}" for digit in str(one)) + '"',
]
#: The names under which a callback may have it.
PLACES = ('{{"resource": {{"id": {}}}}}', '{{"data": {{"id": {}}}, "x": "{{"}}', '  {{"id": {}}}', '{{"resource": {}}}')
PACKED: list[Callable[[bytes], bytes]] = [bytes, gzip.compress, zlib.compress]


@given(
    st.integers(1, 10**9),
    st.sampled_from(FORMS),
    st.sampled_from(PLACES),
    st.sampled_from(PACKED),
    st.integers(1, 10**9),
)
@trying(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_event_that_names_a_vm_is_left_out(
    engine: AsyncEngine, one: int, form: Any, place: str, pack: Any, other: int
) -> None:
    body = pack(place.format(form(one)).encode())
    read = parse(body)
    async with engine.connect() as conn:
        found = await may_be(conn, body, [one, other])
        assert found or isinstance(read, Unreadable) or read.provider_id not in {one, other}
        await conn.rollback()


async def test_most_events_of_others_are_left_out_and_histories_go_by_their_path(engine: AsyncEngine) -> None:
    body = json.dumps({"resource": {"id": 507279}, "data": {"status": "ACTIVE", "name": "train-60319e486"}}).encode()
    async with engine.connect() as conn:
        assert await may_be(conn, body, [507279])
        assert not await may_be(conn, body.replace(b"60319e486", b"n"), [507280])
        assert await may_be(conn, b"{}", [7], source="history", peer=history_of(7))
        assert not await may_be(conn, b"{}", [7], source="history", peer=history_of(8))
        await conn.rollback()


async def may_be(
    conn: Any,
    body: bytes,
    ids: list[int],
    *,
    source: str = "callback",
    peer: str | None = None,
    _count: list[int] = [],  # noqa: B006  numbers the rows
) -> bool:
    _count.append(1)
    event_id = UUID(int=len(_count))
    row = {
        "submission_id": UUID(int=1), "received_at": START + timedelta(seconds=1), "event_id": event_id, "creation_no": 1,
        "source": source, "body": body, "headers": {}, "peer": peer, "digest": hashlib.sha256(body).digest(),
    }  # fmt: skip
    await conn.execute(events.insert().values(row))
    wanted = select(events.c.event_id).where(events.c.event_id == event_id, may_name(ids))
    return (await conn.execute(wanted)).first() is not None

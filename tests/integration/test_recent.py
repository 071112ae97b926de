"""The newest events of the fleet are the newest, whatever the gaps and bursts between them, and few are read to find them."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.queries import events, recent
from service.queries.event_keys import Key
from service.queries.events import EventFilter
from service.storage.engine import begin

NOW = datetime.now(UTC).replace(microsecond=0)
GAPS = [
    timedelta(0),
    timedelta(microseconds=1),
    timedelta(seconds=1),
    timedelta(minutes=3),
    timedelta(hours=7),
    timedelta(days=9),
]
_INSERT = """
INSERT INTO events (submission_id, received_at, event_id, creation_no, source, body, headers, peer, digest)
SELECT submission_id, at, gen_random_uuid(), 1, 'callback', '{}', '{}', 'x', '\\x00'
FROM unnest(CAST(:submissions AS uuid[]), CAST(:times AS timestamptz[])) AS one (submission_id, at)
"""


def lived(rng: random.Random) -> list[datetime]:
    """The times of events, each after a gap of its own; some lie in the future, as after a clock was set back."""
    at, times = NOW + timedelta(seconds=rng.choice([-1, 60])), []
    for _ in range(rng.randrange(150)):
        times.append(at)
        at -= rng.choice(GAPS)
    return [at for at in times if at > NOW - timedelta(days=150)]


async def paged(conn: Any, which: EventFilter, limit: int) -> list[Key]:
    found: list[Key] = []
    while True:
        part = await events.page(conn, which, before=found[-1] if found else None, limit=limit)
        found += [(one.received_at, one.submission_id, one.event_id) for one in part]
        if len(part) < limit:
            return found


@pytest.mark.parametrize("seed", range(12))
async def test_pages_of_the_newest_events_are_all_events_in_order(
    engine: AsyncEngine, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(recent, "_MANY", rng.choice([0, 5, 20_000]))
    times = lived(rng)
    rng.shuffle(times)  # spooled ones come late
    ids = [f"00000000-0000-7000-8000-{rng.randrange(5):012}" for _ in times]
    # A stretch of ten seconds may begin at the very moment of an event.
    moments = [None, datetime(1, 1, 2, tzinfo=UTC), *(at + timedelta(seconds=10) for at in times[:2])]
    since, until = rng.choice(moments), rng.choice(moments)
    if since and until and since > until:
        since, until = until, since
    async with begin(engine) as conn:
        await conn.execute(text(_INSERT), {"submissions": ids, "times": times})
        if rng.random() < 0.5:
            await conn.execute(text("ANALYZE events"))
        rows = await conn.execute(
            text("SELECT received_at, submission_id, event_id FROM events ORDER BY 1 DESC, 2 DESC, 3 DESC")
        )
        wanted = [tuple(row) for row in rows if (not since or row[0] >= since) and (not until or row[0] < until)]
        assert await paged(conn, EventFilter(since=since, until=until), rng.choice([3, 20, 200])) == wanted


async def test_a_burst_before_a_long_silence_is_not_read_whole(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "_MANY", 100)
    burst = NOW - timedelta(days=40)
    times = [burst + timedelta(seconds=number) for number in range(5000)]
    async with begin(engine) as conn:
        await conn.execute(
            text(_INSERT), {"submissions": ["00000000-0000-7000-8000-000000000000"] * 5000, "times": times}
        )
        await conn.execute(text("ANALYZE events"))
        asked: list[Any] = []
        event.listen(engine.sync_engine, "after_cursor_execute", lambda *given: asked.append(given))
        found = await events.page(conn, EventFilter(), before=None, limit=50)
    assert [one.received_at for one in found] == times[:-51:-1]
    assert len(asked) < 60

"""The daemon behind a real pgbouncer in transaction mode: it works, and where it would not it says how to make it."""

from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import count

import pytest
from asyncpg import Connection
from clock import NOON
from pooler import pgbouncer, wants_pgbouncer
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage
from stored_events import event

from service.audit import export
from service.audit.export_tables import Selection
from service.errors import ConfigError
from service.storage import migrate
from service.storage.engine import create_engine
from service.storage.event_writer import EventWriter
from service.storage.pooler import refuse_mixed_statements

pytestmark = wants_pgbouncer


async def test_everything_works_in_transaction_mode_without_kept_statements(
    bare_database_url: str, monkeypatch: pytest.MonkeyPatch
):
    # The driver counts its names in each process: those of two daemons are the same.
    numbers: defaultdict[object, count] = defaultdict(lambda: count(1))
    monkeypatch.setattr(
        Connection, "_get_unique_id", lambda self, kind: f"__asyncpg_{kind}_{next(numbers[id(self)])}__"
    )
    with pgbouncer(bare_database_url) as pooled:
        url = f"{pooled}?statement_cache_size=0"
        await refuse_mixed_statements(url)
        engines = [create_engine(url), create_engine(url)]
        try:
            for engine in (*engines, *engines):
                await migrate.upgrade(engine)
            stages = [Stage(engine) for engine in engines]
            await stages[0].submit(count=3)
            for stage in stages:
                await stage.live(60)
            assert [vm.state for vm in await stages[1].vms()] == ["ACTIVE"] * 3
            writer = EventWriter(engines[0].url)
            for number in range(3):
                await writer.store([event(number, received_at=NOON)], within=10)
            await writer.close()
            for engine in (*engines, *engines):
                assert [len(await _exported(engine, table)) for table in ("vms", "transitions")] == [3, 9]
        finally:
            for engine in engines:
                await engine.dispose()


async def _exported(engine: AsyncEngine, table: str) -> list[bytes]:
    return [line async for page in export.pages(engine, table, Selection(), after=None) for line in page]


async def test_a_pooler_that_mixes_up_statements_is_refused_with_what_to_add_to_the_url(bare_database_url: str):
    with pgbouncer(bare_database_url) as url:
        for _ in range(2):
            with pytest.raises(
                ConfigError, match=r"ROLLCALL_DATABASE_URL: leads to a pooler .* statement_cache_size=0"
            ):
                await refuse_mixed_statements(url)


@pytest.mark.parametrize("reached", [nullcontext, partial(pgbouncer, mode="session")])
async def test_postgres_itself_and_a_pooler_in_session_mode_are_not_refused(bare_database_url: str, reached: Callable):
    with reached(bare_database_url) as url:
        await refuse_mixed_statements(url)

"""Plays many seeds, each on a database of its own in an embedded Postgres that lives as long as the run."""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from service.lab.explorer.jobs import JOBS, Job
from service.lab.explorer.play import DAEMONS, Engines, Outcome, play
from service.lab.explorer.scenario import Scenario, scenario
from service.storage import migrate
from service.storage.database_url import parse
from service.storage.embedded import EmbeddedPostgres
from service.storage.engine import create_engine

_TEMPLATE, _SEED = "explorer_template", "explorer_seed"
_LONG = 600.0
#: The order of commits is explored, not the disk: a seed's database is dropped after it.
_SETTINGS = ("fsync = off", "synchronous_commit = off", "full_page_writes = off", "autovacuum = off")


async def explore(
    seeds: Iterable[int], *, jobs: Mapping[str, Job] = JOBS, scenario_of: Callable[[int], Scenario] = scenario
) -> AsyncIterator[Outcome]:
    """Play seeds one after another, each with the scenario that `scenario_of` gives it, and yield its outcome."""
    with server() as url:
        engines = _engines(url)
        async with _administered(url) as admin:
            for seed in seeds:
                async with _fresh_database(admin):
                    try:
                        yield await play(scenario_of(seed), engines, jobs=jobs)
                    finally:
                        await engines.dispose()


@contextmanager
def server() -> Iterator[str]:
    """A Postgres for as long as the block lasts. Yields its URL."""
    with tempfile.TemporaryDirectory() as folder:
        embedded = EmbeddedPostgres(Path(folder) / "postgres")
        try:
            # Not in a thread: nothing else runs in this loop yet, and a cancellation must not leave a server behind.
            embedded.start()
            yield embedded.url
        finally:
            embedded.stop("immediate")


@asynccontextmanager
async def _administered(url: str) -> AsyncIterator[AsyncConnection]:
    admin = create_async_engine(parse(url).url, isolation_level="AUTOCOMMIT", pool_size=1)
    try:
        async with admin.connect() as conn:
            if (
                await conn.execute(text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": _TEMPLATE})
            ).first() is None:
                await _make_template(conn, url)
            yield conn
    finally:
        await admin.dispose()


async def _make_template(conn: AsyncConnection, url: str) -> None:
    for setting in _SETTINGS:
        await conn.execute(text(f"ALTER SYSTEM SET {setting}"))
    await conn.execute(text("SELECT pg_reload_conf()"))
    await conn.execute(text(f"CREATE DATABASE {_TEMPLATE}"))
    template = _engine(url, _TEMPLATE)
    await migrate.upgrade(template)
    await template.dispose()


def _engines(url: str) -> Engines:
    """Engines for all seeds, since each compiles its statements once."""
    # One connection each: tasks of one run use it in the order in which they ask for it, so a seed always plays the
    # same. Those of a frozen daemon wait for as long as it takes to play what happens meanwhile.
    made = [_engine(url, _SEED) for _ in range(2 + DAEMONS)]
    return Engines(world=made[0], api=made[1], daemons=made[2:])


def _engine(url: str, database: str) -> AsyncEngine:
    return create_engine(url.replace("/rollcall?", f"/{database}?"), pool_size=1, pre_ping=False, pool_timeout=_LONG)


@asynccontextmanager
async def _fresh_database(admin: AsyncConnection) -> AsyncIterator[None]:
    await admin.execute(text(f"CREATE DATABASE {_SEED} TEMPLATE {_TEMPLATE} STRATEGY file_copy"))
    try:
        yield
    finally:
        await admin.execute(text(f"DROP DATABASE {_SEED} WITH (FORCE)"))

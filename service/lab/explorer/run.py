"""Plays many seeds, each on a database of its own in an embedded Postgres that lives as long as the run."""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from service.lab.explorer.jobs import JOBS, Job
from service.lab.explorer.play import DAEMONS, Engines, Outcome, play
from service.lab.explorer.scenario import Scenario, scenario
from service.storage import migrate
from service.storage.database_url import parse
from service.storage.embedded import EmbeddedPostgres
from service.storage.engine import create_engine

_TEMPLATE = "explorer_template"
_LONG = 600.0


async def explore(
    seeds: Iterable[int], *, jobs: Mapping[str, Job] = JOBS, scenario_of: Callable[[int], Scenario] = scenario
) -> AsyncIterator[Outcome]:
    """Play seeds one after another, each with the scenario that `scenario_of` gives it, and yield its outcome."""
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres")
        try:
            # Not in a thread: nothing else runs in this loop yet, and a cancellation must not leave a server behind.
            server.start()
            async with _administered(server.url) as admin:
                for seed in seeds:
                    async with _fresh(admin, server.url, seed) as engines:
                        yield await play(scenario_of(seed), engines, jobs=jobs)
        finally:
            server.stop("immediate")


@asynccontextmanager
async def _administered(url: str) -> AsyncIterator[AsyncEngine]:
    admin = create_async_engine(parse(url).url, isolation_level="AUTOCOMMIT", pool_size=1)
    async with admin.connect() as conn:
        await conn.execute(text(f"CREATE DATABASE {_TEMPLATE}"))
        # The order of commits is explored, not the disk: a seed's database is dropped after it.
        await conn.execute(text("ALTER SYSTEM SET fsync = off"))
        await conn.execute(text("ALTER SYSTEM SET synchronous_commit = off"))
        await conn.execute(text("SELECT pg_reload_conf()"))
    template = create_engine(url.replace("/rollcall?", f"/{_TEMPLATE}?"), pool_size=1)
    await migrate.upgrade(template)
    await template.dispose()
    try:
        yield admin
    finally:
        await admin.dispose()


@asynccontextmanager
async def _fresh(admin: AsyncEngine, url: str, seed: int) -> AsyncIterator[Engines]:
    name = f"seed_{seed}"
    async with admin.connect() as conn:
        await conn.execute(text(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY file_copy"))
    # One connection each: tasks of one run use it in the order in which they ask for it, so a seed always plays the
    # same. Those of a frozen daemon wait for as long as it takes to play what happens meanwhile.
    own = url.replace("/rollcall?", f"/{name}?")
    made = [create_engine(own, pool_size=1, pre_ping=False, pool_timeout=_LONG) for _ in range(2 + DAEMONS)]
    try:
        yield Engines(world=made[0], api=made[1], daemons=made[2:])
    finally:
        for engine in made:
            await engine.dispose()
        async with admin.connect() as conn:
            await conn.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))

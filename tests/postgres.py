"""Postgres for tests: one embedded server a session, a template that the migrations built, and a copy for each test.

Nothing here needs an event loop or minds one that runs: statements go out from a thread of their own.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Self

import asyncpg

from service.storage import migrate
from service.storage.embedded import EmbeddedPostgres
from service.storage.engine import create_engine

_TEMPLATE = "template_of_tests"


@contextmanager
def embedded_postgres() -> Iterator[EmbeddedPostgres]:
    """A running server of its own, gone with its folder at the end."""
    folder = Path(tempfile.mkdtemp(prefix="rollcall-"))
    server = EmbeddedPostgres(folder / "pg")
    try:
        server.start()
        yield server
    finally:
        server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


class Databases:
    """The databases of one server: a template with every table, and copies of it."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._maintenance = server.url
        self._numbers = count(1)

    @classmethod
    def on(cls, server: EmbeddedPostgres) -> Self:
        """Build the template on `server`."""
        made = cls(server)
        # Tests kill processes, not machines: nothing here has to survive a power cut. Tests that stop a server use another.
        made._execute("ALTER SYSTEM SET fsync = off")
        made._execute("SELECT pg_reload_conf()")
        made._execute(f"CREATE DATABASE {_TEMPLATE}")
        in_a_thread(migrated(made._url(_TEMPLATE)))
        return made

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """The URL of a database of its own, at the head of the migrations and empty; dropped at the end."""
        with self._made(_TEMPLATE) as url:
            yield url

    @contextmanager
    def bare(self) -> Iterator[str]:
        """The URL of a database without any table; dropped at the end."""
        with self._made("template0") as url:
            yield url

    @contextmanager
    def _made(self, template: str) -> Iterator[str]:
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self._url(name)
        finally:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _url(self, name: str) -> str:
        return self._maintenance.replace("/rollcall?", f"/{name}?")

    def _execute(self, statement: str) -> None:
        in_a_thread(executed(self._maintenance, statement))


async def migrated(url: str) -> None:
    """Bring a database to the head of the migrations."""
    engine = create_engine(url)
    await migrate.upgrade(engine)
    await engine.dispose()


async def executed(url: str, statement: str) -> None:
    """Run one statement outside any transaction."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def in_a_thread(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end in a loop of its own, whether or not one runs here."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()

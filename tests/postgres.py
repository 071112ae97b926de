"""Postgres for tests: one embedded server a session, a template that the migrations built, and a copy for each test.

A copy is used again if all that a test did was to write rows: a new one costs ten times as much as emptying one.

Nothing here needs an event loop or minds one that runs: statements go out from a thread of their own.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Self, TypeVar

import asyncpg

from service.storage import migrate
from service.storage.embedded import EmbeddedPostgres
from service.storage.engine import create_engine
from service.storage.partitions import Month, make_partitions

Result = TypeVar("Result")

_TEMPLATE = "template_of_tests"
#: When the clocks of tests begin (`clock.NOON`, `stage.START`), and those of processes.
STARTS = (datetime(2026, 3, 2, 12, tzinfo=UTC), datetime(2026, 8, 17, 9, tzinfo=UTC), datetime.now(UTC))
#: Months before the first of them that tests of the record's reading need. A month between them is missing.
MONTHS_BEFORE = (1, 3)
#: Tests kill processes, not machines: nothing here has to survive a power cut. Tests that stop a server use another.
_SETTINGS = ("fsync = off", "synchronous_commit = off", "full_page_writes = off", "autovacuum = off")

#: Everything about a database but the rows of its tables, and whether they were analyzed. A row of a catalog that is
#: written has another place (`ctid`) or writer (`xmin`); those of pg_class are also written when a table is emptied.
_SHAPE = """
SELECT string_agg(part, ' ' ORDER BY part) FROM (
  SELECT 'class ' || sum(hashtextextended(row(oid, relname, relnamespace, relowner, relam, reltablespace, relpersistence,
    relkind, relchecks, relhasrules, relhastriggers, relrowsecurity, relforcerowsecurity, relreplident, relispartition,
    relacl, reloptions)::text, 0)) AS part FROM pg_class WHERE relkind <> 't'
  UNION ALL SELECT 'database ' || row(datallowconn, datconnlimit, datacl)::text FROM pg_database
    WHERE datname = current_database()
  UNION ALL SELECT 'setting ' || row(setrole, setconfig)::text FROM pg_db_role_setting
    WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  UNION ALL SELECT 'analyzed ' || count(*) FROM pg_statistic WHERE starelid >= 16384
  {written})
"""
_WRITTEN = " UNION ALL SELECT '{0} ' || count(*) || ' ' || sum(hashtextextended(row(ctid, xmin)::text, 0)) FROM {0}"
_CATALOGS = (
    *("pg_attrdef", "pg_attribute", "pg_cast", "pg_collation", "pg_constraint", "pg_default_acl", "pg_enum"),
    *("pg_event_trigger", "pg_extension", "pg_index", "pg_inherits", "pg_namespace", "pg_operator", "pg_policy"),
    *("pg_proc", "pg_publication", "pg_rewrite", "pg_sequence", "pg_statistic_ext", "pg_trigger", "pg_type"),
)
#: The tables that have or had rows, and whether it is better to truncate them: to delete few rows is much faster, but
#: takes no number back.
_FILLED = """
SELECT oid::regclass::text, pg_relation_size(oid) > 1000000
  OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attidentity <> '')
FROM pg_class WHERE relkind = 'r' AND oid >= 16384 AND pg_relation_size(oid) > 0
"""
_OTHERS = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


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
        self._kept: tuple[str, ...] = ()  # tables that the migrations themselves fill
        self._shape_of = self._shape = ""
        self._empty: list[str] = []

    @classmethod
    def on(cls, server: EmbeddedPostgres) -> Self:
        """Build the template on `server`."""
        made = cls(server)
        for setting in _SETTINGS:
            made._execute(f"ALTER SYSTEM SET {setting}")
        made._execute("SELECT pg_reload_conf()")
        made._execute(f"CREATE DATABASE {_TEMPLATE}")
        in_a_thread(migrated(made._url(_TEMPLATE)))
        in_a_thread(_with_partitions(made._url(_TEMPLATE)))
        made._empty.append(made._copy(_TEMPLATE))
        in_a_thread(made._look(made._empty[0]))
        return made

    @property
    def server_url(self) -> str:
        """The URL of the server's own database."""
        return self._maintenance

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """The URL of a database of its own, at the head of the migrations and empty."""
        name = self._empty.pop() if self._empty else self._copy(_TEMPLATE)
        try:
            yield self._url(name)
        finally:
            if in_a_thread(self._emptied(name)):
                self._empty.append(name)
            else:
                self._drop(name)

    @contextmanager
    def bare(self) -> Iterator[str]:
        """The URL of a database without any table; dropped at the end."""
        name = self._copy("template0")
        try:
            yield self._url(name)
        finally:
            self._drop(name)

    def _copy(self, template: str) -> str:
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def _drop(self, name: str) -> None:
        self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def _look(self, name: str) -> None:
        """Learn from a new copy what every copy is like."""
        async with connected(self._url(name)) as connection:
            self._kept = tuple(name for name, _ in await connection.fetch(_FILLED))
            written = "".join(_WRITTEN.format(table) for table in (*_CATALOGS, *self._kept))
            self._shape_of = _SHAPE.format(written=written)
            self._shape = await connection.fetchval(self._shape_of)

    async def _emptied(self, name: str) -> bool:
        """Empty a copy, whoever is still connected. False if something but its rows was changed."""
        try:
            async with connected(self._url(name)) as connection:
                await connection.execute(_OTHERS)
                if await connection.fetchval(self._shape_of) != self._shape:
                    return False
                filled = [row for row in await connection.fetch(_FILLED) if row[0] not in self._kept]
                # The record's tables are append-only: their triggers refuse this to everybody else.
                statements = ["SET session_replication_role = replica"]
                statements += [f"DELETE FROM {name}" for name, truncate in filled if not truncate]
                if truncated := [name for name, truncate in filled if truncate]:
                    statements.append(f"TRUNCATE {', '.join(truncated)} RESTART IDENTITY CASCADE")
                await connection.execute("; ".join(statements))
                return True
        except (OSError, asyncpg.PostgresError):
            return False

    def _url(self, name: str) -> str:
        return self._maintenance.replace("/rollcall?", f"/{name}?")

    def _execute(self, statement: str) -> None:
        in_a_thread(executed(self._maintenance, statement))


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def migrated(url: str) -> None:
    """Bring a database to the head of the migrations."""
    engine = create_engine(url)
    await migrate.upgrade(engine)
    await engine.dispose()


async def _with_partitions(url: str) -> None:
    """Make the partitions of the months that most tests are in: a copy that a test changed is not used again."""
    engine = create_engine(url)
    async with engine.begin() as conn:
        for start in STARTS:
            await make_partitions(conn, now=start)
        for back in MONTHS_BEFORE:
            await make_partitions(conn, now=Month.of(STARTS[0]).back(back).first, months=1)
    await engine.dispose()


async def executed(url: str, statement: str) -> None:
    """Run one statement outside any transaction."""
    async with connected(url) as connection:
        await connection.execute(statement)


async def fetched(url: str, query: str) -> Any:
    """The one value that a query gives."""
    async with connected(url) as connection:
        return await connection.fetchval(query)


def in_a_thread(work: Coroutine[Any, Any, Result]) -> Result:
    """Run `work` to its end in a loop of its own, whether or not one runs here."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()

"""What every measurement stands on: one Postgres, a fresh database each time, counters, and what machine this is."""

import contextlib
import json
import os
import platform
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import asyncpg

from service.storage import migrate, partitions
from service.storage.embedded import EmbeddedPostgres
from service.storage.engine import begin, create_engine

#: Where figures go; bench/run.py says another place for those that are not worth keeping.
RESULTS = Path(os.environ.get("BENCH_RESULTS", Path(__file__).parent / "results"))
TICKS = os.sysconf("SC_CLK_TCK")
LIBRARIES = (
    *("aiohttp", "uvloop", "asyncpg", "sqlalchemy", "orjson"),
    *("fastapi", "uvicorn", "httptools", "procrastinate", "psycopg", "pgqueuer"),
)


def numbers(text: str) -> list[int]:
    """The type of an argument: numbers, separated by commas."""
    return [int(one) for one in text.split(",")]


@dataclass(frozen=True)
class Counters:
    """Counts of Postgres and of processors; the difference of two says what happened between."""

    wal_bytes: int
    commits: int
    postgres_seconds: float

    def since(self, before: "Counters") -> "Counters":
        return Counters(
            self.wal_bytes - before.wal_bytes,
            self.commits - before.commits,
            self.postgres_seconds - before.postgres_seconds,
        )


class Ground:
    """A Postgres of its own, as `rollcall serve` starts it, but warm. Durability is left as it comes: on."""

    def __init__(self, server: EmbeddedPostgres, folder: Path) -> None:
        self._server = server
        self.folder = folder  #: gone with the server
        self._numbers = 0
        self.database = ""

    async def warm(self) -> None:
        """Bring the server to where one is that has run for a while: it uses its WAL files again.

        One that was just made has to make each file, 16 MB of zeros, and whoever commits waits for the disk meanwhile.
        """
        await self.set("min_wal_size", "1GB")
        await self._execute("CREATE TABLE filler (filling bytea STORAGE plain)")
        for _ in range(12):
            filling = "decode(repeat(md5(random()::text), 60), 'hex')"
            await self._execute(f"INSERT INTO filler SELECT {filling} FROM generate_series(1, 100000)")
        await self._execute("DROP TABLE filler")
        await self._execute("CHECKPOINT")

    async def fresh(self) -> str:
        """The URL of a new database with every table and no row, and the partitions that the daemon makes."""
        self._numbers += 1
        self.database = f"bench_{self._numbers}"
        await self._execute(f"CREATE DATABASE {self.database}")
        url = self.url
        engine = create_engine(url)
        await migrate.upgrade(engine)
        async with begin(engine) as conn:
            await partitions.make_partitions(conn, now=datetime.now(UTC))
        await engine.dispose()
        await self.checkpoint()
        return url

    async def set(self, name: str, value: str) -> None:
        """Change a setting of the server."""
        await self._execute(f"ALTER SYSTEM SET {name} = '{value}'")
        await self._execute("SELECT pg_reload_conf()")

    async def checkpoint(self) -> None:
        """Write what is to be written, so that nobody who is measured next pays for it."""
        await self._execute("CHECKPOINT")

    async def stamp_commits(self) -> None:
        """Have Postgres remember when each transaction was committed. That takes a restart."""
        await self._execute("ALTER SYSTEM SET track_commit_timestamp = on")
        self._server.stop()
        self._server.start()

    def crash(self) -> None:
        """Stop the server as a power cut would, and start it again: what was not durable is gone."""
        self._server.stop("immediate")
        self._server.start()

    async def drop(self) -> None:
        await self._execute(f"DROP DATABASE {self.database} WITH (FORCE)")

    @property
    def url(self) -> str:
        return self._server.url.replace("/rollcall?", f"/{self.database}?")

    async def count(self, table: str) -> int:
        return await number(self.url, f"SELECT count(*) FROM {table}")

    async def counters(self) -> Counters:
        connection = await asyncpg.connect(self._server.url)
        try:
            wal, commits = await connection.fetchrow(
                "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint, xact_commit "
                "FROM pg_stat_database WHERE datname = $1",
                self.database,
            )
            postmaster = (await connection.fetchval("SELECT pg_read_file('postmaster.pid')")).split()[0]
        finally:
            await connection.close()
        return Counters(wal, commits, _seconds_of_family(int(postmaster)))

    async def settings(self) -> dict[str, str]:
        """The settings that a reader needs in order to judge the figures."""
        names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method")
        sizes = ("shared_buffers", "min_wal_size", "max_wal_size", "checkpoint_timeout")
        connection = await asyncpg.connect(self._server.url)
        try:
            return {name: await connection.fetchval(f"SHOW {name}") for name in names + sizes}
        finally:
            await connection.close()

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self._server.url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@contextlib.contextmanager
def ground(kept: Path | None = None) -> Iterator[Ground]:
    """The server, removed at the end unless its folder is one to keep."""
    # SIGTERM ends a bench as Ctrl-C does, so that what was started is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = kept or Path(tempfile.mkdtemp(prefix="rollcall-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder / "pg")
    try:
        server.start()
        yield Ground(server, folder)
    finally:
        server.stop("fast" if kept else "immediate")
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


async def number(url: str, query: str) -> int:
    """The one number that a query answers; 0 for NULL."""
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(query) or 0)
    finally:
        await connection.close()


def cpu_seconds(pid: int) -> float:
    """Processor time of one process so far."""
    user, system = _stat(pid)[11:13]
    return (int(user) + int(system)) / TICKS


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def write(name: str, result: dict[str, object]) -> None:
    """Keep a bench's figures in bench/results/."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def machine() -> dict[str, object]:
    """When and where, which a reader needs to know of any figure."""
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "model": models[0] if models else platform.processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "versions": {name: _version(name) for name in LIBRARIES},
    }


def _version(name: str) -> str | None:
    with contextlib.suppress(Exception):
        return version(name)
    return None


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _seconds_of_family(pid: int) -> float:
    """Of a process, of its children, and of those that have ended."""
    fields = _stat(pid)
    total = sum(map(int, fields[11:15])) / TICKS
    for task in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if int(_stat(int(task.name))[1]) == pid:
                total += cpu_seconds(int(task.name))
    return total

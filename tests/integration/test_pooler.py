"""The daemon behind a real pgbouncer in transaction mode: it works, and where it would not it says how to make it."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from itertools import count
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from asyncpg import Connection
from clock import NOON
from stage import Stage
from stored_events import event

from service.errors import ConfigError
from service.storage import migrate
from service.storage.engine import create_engine
from service.storage.event_writer import EventWriter
from service.storage.pooler import refuse_mixed_statements

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(
    PGBOUNCER is None,
    reason="pgbouncer is not installed; to run these: apt-get install --no-install-recommends pgbouncer",
)
CONFIG = """
[databases]
* = host={socket} port=5432 user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 3
"""


@contextmanager
def pgbouncer(database_url: str, mode: str = "transaction") -> Iterator[str]:
    """The URL of the database through a pgbouncer. It runs as who owns the server's data, as its socket demands."""
    parts = urlsplit(database_url)
    (data,) = parse_qs(parts.query)["host"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="rollcall-pgbouncer-"))
    folder.chmod(0o755)
    # Its path may lead through folders that only root may enter, so it gets the folder itself.
    descriptor = os.open(data, os.O_RDONLY)
    (folder / "ini").write_text(CONFIG.format(socket=f"/proc/self/fd/{descriptor}", port=port, mode=mode))
    owner = Path(data).stat()
    other = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(PGBOUNCER), str(folder / "ini")], stdout=log, stderr=log, pass_fds=[descriptor], **other
        )
    os.close(descriptor)
    try:
        until_listening(process, port, folder / "log")
        yield f"postgresql://rollcall@127.0.0.1:{port}{parts.path}"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    patience = time.monotonic() + 30
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < patience, log.read_text()
        time.sleep(0.02)


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
        finally:
            for engine in engines:
                await engine.dispose()


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

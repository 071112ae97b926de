"""A real pgbouncer in front of the Postgres of tests."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from service.lab.demo.stage import free_ports

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
wants_pgbouncer = pytest.mark.skipif(
    PGBOUNCER is None,
    reason="pgbouncer is not installed; to run these: apt-get install --no-install-recommends pgbouncer",
)
CONFIG = """
[databases]
* = host={socket} port=5432 user=postgres connect_query='{first}'
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 3
"""


@contextmanager
def pgbouncer(database_url: str, mode: str = "transaction", *, first: str = "SELECT 1") -> Iterator[str]:
    """The URL of the database through a pgbouncer, whose connections each run `first`. It runs as who owns the server's data, as its socket demands."""
    parts = urlsplit(database_url)
    (data,) = parse_qs(parts.query)["host"]
    (port,) = free_ports(1)
    folder = Path(tempfile.mkdtemp(prefix="rollcall-pgbouncer-"))
    folder.chmod(0o755)
    # Its path may lead through folders that only root may enter, so it gets the folder itself.
    descriptor = os.open(data, os.O_RDONLY)
    (folder / "ini").write_text(CONFIG.format(socket=f"/proc/self/fd/{descriptor}", port=port, mode=mode, first=first))
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

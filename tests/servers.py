"""Postgres servers of the distribution, which know TLS and replication; that of the wheel has no TLS."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from service.lab.demo.stage import free_ports

FOUND = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
wants_a_server = pytest.mark.skipif(
    not FOUND, reason="no Postgres is installed; to run these: apt-get install --no-install-recommends postgresql"
)
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}
_QUICK = {"fsync": "off", "shared_buffers": "16MB", "max_connections": "30", "dynamic_shared_memory_type": "posix"}


class Server:
    """A server on a port of 127.0.0.1, in a folder of its own. `socket_url` leads to its database `postgres`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self._bin = FOUND[-1].parent
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket_url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.folder}&port={self.port}"

    def initialise(self) -> None:
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "--auth=trust", "--no-sync")

    def base_backup(self, primary: "Server") -> None:
        """Become a standby of `primary`."""
        self._run(
            "pg_basebackup", "-D", str(self.data), "-h", str(primary.folder), "-p", str(primary.port), "-U", "postgres",
            "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
        )  # fmt: skip

    def give(self, *paths: Path) -> None:
        """Make the user that the server runs as the owner of files."""
        if os.geteuid() == 0:
            for path in paths:
                os.chown(path, _account().pw_uid, _account().pw_gid)

    def start(self, settings: Mapping[str, str] | None = None) -> None:
        given = {**_QUICK, "listen_addresses": "127.0.0.1", "port": str(self.port), **(settings or {})}
        words = [word for name, value in given.items() for word in ("-c", f"{name}={value}")]
        command = [str(self._bin / "postgres"), "-D", str(self.data), "-k", str(self.folder), *words]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=_ENVIRONMENT, cwd="/", **_as_user())
        patience = time.monotonic() + 60
        while not self._is_ready():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < patience, (self.folder / "log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate() if self._process.poll() is None else None
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            self._process.kill()
            self._process.wait()

    def _is_ready(self) -> bool:
        with suppress(FileNotFoundError, IndexError):
            return (self.data / "postmaster.pid").read_text().splitlines()[7].strip() in {"ready", "standby"}
        return False

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *arguments], capture_output=True, text=True, check=False, cwd="/",
            env=_ENVIRONMENT, **_as_user(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@contextmanager
def a_server() -> Iterator[Server]:
    """A server that is not initialised yet; stopped at the end."""
    folder = Path(tempfile.mkdtemp(prefix="rollcall-server-"))
    server = Server(folder)
    server.give(folder)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _account() -> pwd.struct_passwd:
    return pwd.getpwnam("daemon")


def _as_user() -> dict[str, object]:
    if os.geteuid() != 0:
        return {}
    return {"user": _account().pw_uid, "group": _account().pw_gid, "extra_groups": []}

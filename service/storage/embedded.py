"""The embedded Postgres: initialised, started and stopped in a folder of its own.

It listens on a Unix socket in that folder (mode 0700), with `peer` authentication: only our own user and root can connect.
Nothing outside the folder is changed.
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

import psutil

from service.errors import ConfigError, FieldError, StorageUnavailable
from service.files import sync_folder
from service.storage.postgres_programs import Programs, account_for

#: Settings of a new server. Durability stays at its defaults (fsync, synchronous_commit). The rest fits a machine that
#: also runs the daemon.
_INITIAL: Final = ("shared_buffers=256MB", "max_wal_size=2GB", "max_connections=100", "checkpoint_timeout=10min")
#: Settings at each start, which no file can override. `.` is the data folder.
_FIXED: Final = ("listen_addresses=", "unix_socket_directories=.", "unix_socket_permissions=0700", "port=5432")
#: This locale is built into Postgres: it need not be installed, and no upgrade of libc breaks an index. The rest of the
#: locale is that of the programs' environment, C.
_LOCALE: Final = ("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")

_START_SECONDS: Final = 600.0  # recovery after a crash may take minutes
_STOP_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.02
_SAME_START_SECONDS: Final = 5.0
_SIGNALS: Final = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
#: The longest path of a socket's folder: what fits a socket address on every system, less `/.s.PGSQL.5432`.
_LONGEST: Final = 103 - 15
_PLAIN: Final = re.compile(r"[\w./-]+", re.ASCII)  # needs no quoting in a URL, nor in a list of hosts


def is_made(folder: Path) -> bool:
    """Whether `folder` holds a server's data."""
    return (folder / "PG_VERSION").is_file()


class EmbeddedPostgres:
    """A Postgres server in `folder`, shared by all processes that called `start`: the last one to call `stop` ends it.

    A process that is killed counts as stopped.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        if not str(self._folder).isprintable():
            raise ConfigError(
                [FieldError("ROLLCALL_DATA_DIR", "has characters that Postgres does not allow in a path")]
            )
        self._programs = Programs(account_for(self._folder))
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._membership: int | None = None  # a descriptor of the folder, with a shared lock
        self._link: Path | None = None

    @property
    def url(self) -> str:
        """A URL for the database `rollcall` over the Unix socket. It holds no password. Valid until `stop`."""
        folder = self._folder if _fits(self._folder) else self._linked()
        return f"postgresql://postgres@/rollcall?port=5432&host={quote(str(folder))}"

    def start(self) -> None:
        """Initialise the data if there is none, start the server, and wait until it accepts connections.

        Raises `StorageUnavailable` with the output of Postgres.
        """
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            with self._exclusive():
                self._initialise()
                self._join()
                self._ensure_running()
        except subprocess.CalledProcessError as error:
            raise _not_started(str(error.stderr or error)) from error
        except (OSError, psutil.Error) as error:
            raise _not_started(str(error)) from error

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Leave the server. If nobody else uses it, stop it and wait; `immediate` does so without a checkpoint, like a crash."""
        if not is_made(self._folder):
            return
        with self._exclusive():
            self._join()
            if self._is_last() and (postmaster := self._postmaster()):
                self._end(postmaster, mode)
            self._leave()

    def is_running(self) -> bool:
        """Whether a server runs in the folder."""
        return self._postmaster() is not None

    def _initialise(self) -> None:
        """Initialise the data elsewhere and move it into place, so that a kill leaves no half of it."""
        if is_made(self._folder):
            return
        new = self._folder.with_name(f"{self._folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        self._programs.give(new)
        settings = [f"--set={one}" for one in _INITIAL]
        with self._reachable(new) as (path, descriptors):
            self._programs.run(
                "initdb", f"--pgdata={path}", "--username=postgres", "--auth=peer", *_LOCALE, *settings, keep_open=descriptors
            )  # fmt: skip
            self._programs.run(
                "postgres", "--single", "-D", path, "-c", "exit_on_error=on", "postgres",
                give="CREATE DATABASE rollcall\n", keep_open=descriptors,
            )  # fmt: skip
        new.rename(self._folder)
        sync_folder(self._folder.parent)

    def _ensure_running(self) -> None:
        postmaster = self._postmaster()
        if postmaster is not None and self._status() == "stopping":
            postmaster.wait(_STOP_SECONDS)
            postmaster = None
        if postmaster is None:
            self._launch()
        self._await_ready()

    def _launch(self) -> None:
        name = self._programs.account.name
        (self._folder / "pg_hba.conf").write_text("local all all peer map=rollcall\n")
        (self._folder / "pg_ident.conf").write_text(f'rollcall "{name}" postgres\nrollcall root postgres\n')
        # Postgres takes a stale postmaster.pid for a running server if any process has its number, unless that process is
        # its grandparent. It still checks itself whether a process uses the old server's shared memory.
        environment = {"PG_GRANDPARENT_PID": str(self._pid() or 0)}
        settings = [word for one in _FIXED for word in ("-c", one)]
        log = self._folder / "log"
        with self._reachable(self._folder) as (path, descriptors), log.open("ab") as to:
            self._programs.give(log)
            self._log_start = to.tell()
            self._child = self._programs.launch(
                "postgres", "-D", path, *settings, log=to.fileno(), environment=environment, keep_open=descriptors
            )  # fmt: skip

    def _await_ready(self) -> None:
        patience = time.monotonic() + _START_SECONDS
        while self._postmaster() is None or self._status() != "ready":
            ended = self._child.poll() is not None if self._child else self._postmaster() is None
            if ended or time.monotonic() > patience:
                raise _not_started(self._last_words())
            time.sleep(_LOOK_SECONDS)

    def _end(self, postmaster: psutil.Process, mode: Literal["fast", "immediate"]) -> None:
        programs = self._programs.running_from(postmaster)
        for how in (mode, "immediate"):
            postmaster.send_signal(_SIGNALS[how])
            with suppress(psutil.TimeoutExpired):
                postmaster.wait(_STOP_SECONDS)
                break
        if self._child is not None:
            self._child.wait()
        self._programs.forget_copy(programs)

    # Who runs

    def _postmaster(self) -> psutil.Process | None:
        """The server's process: called postgres and working in our folder, since a stale number may be another process's."""
        pid = self._pid()
        if pid is None:
            return None
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                self._reap(pid)
            elif process.name() == "postgres" and self._works_here(process):
                return process
        except (psutil.Error, FileNotFoundError):
            pass
        return None

    def _works_here(self, process: psutil.Process) -> bool:
        try:
            return self._folder.samefile(process.cwd())
        except psutil.AccessDenied:  # not even root may read it in a container without SYS_PTRACE
            lines = self._pid_file()
            return len(lines) > 2 and abs(process.create_time() - int(lines[2])) < _SAME_START_SECONDS

    def _reap(self, pid: int) -> None:
        if self._child is not None and self._child.pid == pid:
            self._child.poll()
            return
        # As process 1 of a container we inherit servers that an earlier process started.
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)

    def _pid(self) -> int | None:
        lines = self._pid_file()
        return int(lines[0]) if lines and lines[0].isdecimal() and int(lines[0]) > 0 else None

    def _status(self) -> str:
        """`starting`, `ready` or `stopping`; empty if unknown yet."""
        lines = self._pid_file()
        return lines[7].strip() if len(lines) > 7 else ""

    def _pid_file(self) -> list[str]:
        try:
            return (self._folder / "postmaster.pid").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    # Who uses it

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Prevent other processes from starting or stopping the server meanwhile."""
        path = self._folder.with_name(f"{self._folder.name}.lock")
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._programs.give(path)
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _join(self) -> None:
        if self._membership is None:
            self._membership = os.open(self._folder, os.O_RDONLY)
        fcntl.flock(self._membership, fcntl.LOCK_SH)

    def _is_last(self) -> bool:
        if self._membership is None:
            return False
        try:
            fcntl.flock(self._membership, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _leave(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.returncode = 0  # it outlives us, which Popen would warn of
        self._child = None
        if self._membership is not None:
            os.close(self._membership)
            self._membership = None
        if self._link is not None:
            shutil.rmtree(self._link.parent, ignore_errors=True)
            self._link = None

    # Paths

    @contextmanager
    def _reachable(self, folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
        """A path that Postgres can open, and the descriptors that it must inherit for that.

        As another user, it may not be able to enter the folders above, so it gets the folder as a descriptor.
        """
        if os.geteuid() != 0 or not Path("/proc/self/fd").is_dir():
            yield str(folder), ()
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            yield f"/proc/self/fd/{descriptor}", (descriptor,)
        finally:
            os.close(descriptor)

    def _linked(self) -> Path:
        """A short path to the folder, for clients: a link in a private folder."""
        if self._link is None:
            self._link = Path(tempfile.mkdtemp(prefix="rollcall-")) / "pg"
            self._link.symlink_to(self._folder)
        if not _fits(self._link):
            raise ConfigError(
                [FieldError("ROLLCALL_DATA_DIR", f"is too long a path for a socket, and so is {self._link}")]
            )
        return self._link

    def _last_words(self) -> str:
        with (self._folder / "log").open("rb") as log:
            log.seek(self._log_start)
            return log.read()[-2000:].decode(errors="replace").strip()


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder)) <= _LONGEST and _PLAIN.fullmatch(str(folder)) is not None


def _not_started(why: str) -> StorageUnavailable:
    return StorageUnavailable(f"the embedded Postgres did not start: {why.strip()}")

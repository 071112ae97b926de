"""Real processes for acceptance tests: simulator and daemons, started by their commands, ended by their ids.

Nothing waits for a time to pass: `until` looks again and again, and has a limit only so that a failure ends.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg

import service
from service.client.errors import ApiError
from service.client.exchange import NO_RETRIES
from service.client.http import ApiClient
from service.client.sync import Rollcall
from service.lab.demo.ground_truth import differences
from service.lab.demo.stage import free_ports

Value = TypeVar("Value")

LIMIT = 90.0
KEY = "the-api-key-of-acceptance"
SECRET = "the callback secret of acceptance tests"
TOKEN = "the-api-token-of-acceptance"
FORM = {"Content-Type": "application/json"}

#: What takes the provider minutes takes the simulator seconds, and so the daemons wait seconds and not minutes.
HASTE = {
    "POLL_SECONDS": "0.1",
    "OVERDUE_SECONDS": "2",
    "AGAIN_SECONDS": "0.5",
    "RESYNC_SECONDS": "5",
    "NEWBORN_SECONDS": "3",
    "LOOKUP_WINDOW_SECONDS": "4",
    "LOOKUP_FIRST_SECONDS": "0.5",
    "RETRY_FIRST_SECONDS": "0.2",
    "RETRY_CAP_SECONDS": "1",
    "CREATE_TIMEOUT": "4",
    "CALL_TIMEOUT": "3",
    "STOP_SECONDS": "10",
    "CALLS_PER_MINUTE": "3000",
}
#: Half a minute from the create to the address: at speed 20 a second and a half.
QUICK = {"callback": [0.1, 1], "creating": [2, 5], "build": [5, 15], "address": [2, 8], "deleting": [2, 5]}
BODY = {
    "name": "fleet",
    "environment_name": "default-CANADA-1",
    "flavor_name": "n3-A100x1",
    "image_name": "Ubuntu Server 22.04 LTS R535 CUDA 12.2",
    "key_name": "example-key",
    "assign_floating_ip": True,
}
#: What no daemon's log may hold, whatever was done to it: each is a case that nobody foresaw.
_BLUNDERS = ("Traceback", '"outcome": "failed"', '"outcome": "unexpected"', "never retrieved", "Warning:")


def until(look: Callable[[], Value], what: str, *, within: float = LIMIT) -> Value:
    """What `look` finds, as soon as it finds something."""
    patience = time.monotonic() + within
    while not (found := look()):
        assert time.monotonic() < patience, f"not within {within:g} s: {what}"
        time.sleep(0.05)
    return found


def until_none(look: Callable[[], list[str]], *, within: float = LIMIT) -> None:
    """Wait until `look` has nothing to complain of; fails with its complaints."""
    patience = time.monotonic() + within
    while wrong := look():
        assert time.monotonic() < patience, "\n".join(["it remains:", *wrong[:20]])
        time.sleep(0.1)


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process: ours without settings of Rollcall, and `settings`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ROLLCALL_")}
    inherited["PYTHONPATH"] = str(Path(service.__file__).parent.parent)
    return inherited | {f"ROLLCALL_{name}": value for name, value in settings.items()}


def rollcall(
    folder: Path, *arguments: str, settings: Mapping[str, str], within: float = LIMIT
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "service.cli.main", *arguments],
        cwd=folder,
        env=environment(settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=within,
    )


class Process:
    """A command that runs until it is ended. Each start goes on with the same log."""

    def __init__(self, folder: Path, name: str, *arguments: str, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.name = name
        self.arguments = arguments
        self.settings = dict(settings or {})
        self.log_file = folder / f"{name}.log"
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int:
        assert self._popen is not None
        return self._popen.pid

    def children(self) -> list[int]:
        """The processes that it has started itself, and that have not ended."""
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii")
        return [int(pid) for pid in listed.split() if is_alive(int(pid))]

    def launch(self) -> None:
        """Start it, whether or not it comes up."""
        assert not self.running
        with self.log_file.open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "service.cli.main", *self.arguments],
                cwd=self.folder,  # where no .env is
                env=environment(self.settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def tell(self, number: signal.Signals) -> None:
        assert self._popen is not None
        self._popen.send_signal(number)

    def wait(self, within: float = LIMIT) -> int:
        """Its exit code, once it has ended."""
        assert self._popen is not None
        return self._popen.wait(within)

    def stop(self) -> int:
        """End it as a supervisor does; its exit code."""
        self.tell(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()

    def until_up(self, is_up: Callable[[], bool]) -> None:
        def look() -> bool:
            assert self.running, f"{self.name} ended:\n{self.log[-3000:]}"
            return is_up()

        until(look, f"{self.name} is up")


class Simulator(Process):
    """A cloud. `query` is answered by what it knows for certain."""

    def __init__(self, folder: Path, cloud: Mapping[str, Any], speed: float) -> None:
        config, self._port_file = folder / "cloud.json", folder / "cloud.port"
        full = {"timing": QUICK, "rate_limit": 3000, **cloud}
        config.write_text(json.dumps(full), encoding="utf-8")
        files = ("--config", str(config), "--port-file", str(self._port_file))
        super().__init__(folder, "simulator", "simulate", "--listen", "127.0.0.1:0", "--speed", str(speed), *files)
        self.site = ""

    def start(self) -> None:
        self.launch()
        self.until_up(self._port_file.exists)
        self.site = f"http://127.0.0.1:{self._port_file.read_text(encoding='utf-8')}"

    def query(self, what: str, body: object = None) -> Any:
        method = "GET" if body is None else "POST"
        response = ApiClient(f"{self.site}/_sim").send(method, f"/{what}", body, FORM)
        assert response.status == 200, (what, response)
        return response.value

    def vms(self) -> list[dict[str, Any]]:
        return self.query("vms")["vms"]

    def alive(self) -> list[dict[str, Any]]:
        return [vm for vm in self.vms() if vm["ended"] is None]

    def calls(self) -> list[dict[str, Any]]:
        return self.query("calls")["calls"]

    def creates(self) -> list[dict[str, Any]]:
        """The create calls that reached it."""
        return [
            call for call in self.calls() if call["method"] == "POST" and call["path"] == "/v1/core/virtual-machines"
        ]

    def acknowledged(self) -> Counter[str]:
        """The bodies of the callbacks that were answered with 2xx."""
        return Counter(one["body"] for one in self.query("deliveries")["deliveries"] if one["fate"] == "delivered")


class Serve(Process):
    """A daemon. `api` is asked as its operators do."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, str]) -> None:
        callbacks, api = (f"127.0.0.1:{port}" for port in free_ports(2))
        own = {"DATA_DIR": str(folder / name), "CALLBACK_LISTEN": callbacks, "API_LISTEN": api}
        super().__init__(folder, name, "serve", settings={**own, **settings})
        self.api = Rollcall(f"http://{api}", TOKEN, retries=NO_RETRIES)
        self.callbacks = f"http://{callbacks}"

    def start(self) -> None:
        self.launch()
        self.until_up(self.is_alive)

    def is_alive(self) -> bool:
        try:
            return ApiClient(self.api.url).send("GET", "/livez").status == 200
        except ApiError:
            return False

    def readiness(self) -> dict[str, Any] | None:
        """What `/readyz` says; None where nobody answers."""
        try:
            return self.api.send("GET", "/readyz").value
        except ApiError:
            return None

    def submit(self, count: int, **changes: Any) -> str:
        """The id of a new submission."""
        made = self.api.submit({**BODY, "count": count, **changes})
        return str(made["submission_id"])

    def submission(self, submission_id: str) -> dict[str, Any]:
        return self.api.submission(submission_id)

    def vms(self, **query: object) -> list[dict[str, Any]]:
        return list(self.api.vms(**query))

    def until_state(self, submission_id: str, state: str, *, within: float = LIMIT) -> dict[str, Any]:
        """The submission when it is not open any more; that has to be `state`."""

        def look() -> dict[str, Any] | None:
            try:
                seen = self.submission(submission_id)
            except ApiError:  # it is being restarted, or its database is
                return None
            return None if seen["state"] == "open" else seen

        seen = until(look, f"the end of submission {submission_id}\n{self.log[-2000:]}", within=within)
        assert seen["state"] == state, seen
        return seen


class Stage:
    """A simulator and daemons on one database."""

    def __init__(self, simulator: Simulator, daemons: list[Serve], database_url: str) -> None:
        self.simulator = simulator
        self.daemons = daemons
        self.database_url = database_url

    @property
    def daemon(self) -> Serve:
        return self.daemons[0]

    def wrong(self) -> list[str]:
        """Where the record differs from the truth, and which acknowledged callbacks it does not have."""
        return [*differences(self.daemon.vms(), self.simulator.vms()), *self.lost()]

    def lost(self) -> list[str]:
        heard = self.simulator.acknowledged()
        return [f"acknowledged and not in the record: {body[:200]}" for body in (heard - self.kept())]

    def kept(self) -> Counter[str]:
        """The bodies of the callbacks that are in the record."""
        found = rows(self.database_url, "SELECT body FROM events WHERE source = 'callback'")
        return Counter(row["body"].decode(errors="replace") for row in found)

    def until_true(self) -> None:
        """Wait until the record equals the truth and holds every acknowledged callback."""
        until_none(self.wrong)

    def made_once(self, count: int) -> None:
        """Exactly so many VMs are alive, no two of them under one record."""
        assert len(self.simulator.alive()) == count
        assert len({vm["provider_id"] for vm in self.daemon.vms() if not vm["ended_at"]} - {None}) == count


@contextmanager
def staged(
    folder: Path,
    database_url: str,
    *,
    cloud: Mapping[str, Any] | None = None,
    speed: float = 20,
    daemons: int = 1,
    **settings: str,
) -> Iterator[Stage]:
    """A stage for as long as the block lasts; settings are named without their prefix. Its logs hold no blunder."""
    with ExitStack() as stack:
        simulator = Simulator(folder, {"api_keys": [KEY], **(cloud or {})}, speed)
        stack.callback(simulator.kill)
        simulator.start()
        common = {
            **HASTE,
            "DATABASE_URL": database_url,
            "INFRAHUB_URL": f"{simulator.site}/v1",
            "INFRAHUB_API_KEY": KEY,
            "CALLBACK_SECRETS": SECRET,
            "API_TOKENS": f"tests={TOKEN}",
            **settings,
        }
        made = [Serve(folder, f"daemon-{number}", common) for number in range(1, daemons + 1)]
        for one in made:
            stack.callback(one.kill)
            one.start()
        yield Stage(simulator, made, database_url)
        unforeseen = [f"{one.name}: {line}" for one in [simulator, *made] for line in blunders(one.log)]
        assert not unforeseen, "\n".join(unforeseen)


def blunders(log: str) -> list[str]:
    """The lines of a log that tell of something that nobody foresaw."""
    return [line[:2000] for line in log.splitlines() if any(sign in line for sign in _BLUNDERS)]


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended, whoever has to be told."""
    try:
        about = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False
    return about.rpartition(")")[2].split()[0] not in {"Z", "X"}


def post(url: str, body: bytes) -> int:
    """Send a callback, as the provider does; the status of the answer. Raises OSError where there is none."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request("POST", parts.path, body, FORM)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def rows(database_url: str, statement: str) -> list[asyncpg.Record]:
    """What a statement finds."""

    async def fetch() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(database_url)
        try:
            return await connection.fetch(statement)
        finally:
            await connection.close()

    return asyncio.run(fetch())

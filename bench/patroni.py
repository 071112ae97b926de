"""Three Postgres nodes that Patroni keeps, one etcd, and what can happen to a node: killed, frozen, cut off, switched over.

All on loopback. A node is reached, and reaches etcd, only through TCP proxies of ours: to cut a node off they pass nothing on and
close nothing, which is what a lost network looks like from both sides.
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from tcp_proxy import Proxies

from service.lab.demo.stage import free_ports

NODES = 3
#: Patroni's times. It recommends a ttl of 30; the daemon's part of a failover does not depend on it, and shorter rounds are more rounds.
TIMES = {"ttl": 10, "loop_wait": 2, "retry_timeout": 3}
ADVICE = "this bench needs Patroni, etcd and Postgres: apt-get install --no-install-recommends patroni etcd-server python3-etcd python3-psycopg2 postgresql"
_PATIENCE = 90.0


def required() -> Path:
    """The folder of Postgres's programs. Exits with what to install if something is missing."""
    bins = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not bins or not shutil.which("patroni") or not shutil.which("etcd"):
        raise SystemExit(ADVICE)
    return bins[-1].parent


def versions() -> dict[str, str]:
    def said(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].split()[-1]

    postgres = subprocess.run([str(required() / "postgres"), "--version"], capture_output=True, text=True, check=True)
    return {
        "patroni": said("patroni", "--version"),
        "etcd": said("etcd", "--version"),
        "postgres": postgres.stdout.split()[2],
    }


class Node:
    """A Patroni and its Postgres, and the proxies around them."""

    def __init__(self, folder: Path, number: int, etcd: int, proxies: Proxies) -> None:
        self.name, self.folder = f"node{number}", folder / f"node{number}"
        self.folder.mkdir()
        self.direct, self._rest = free_ports(2)
        self._proxies = proxies
        self._clients, self._standbys, self._api, self._etcd = (
            proxies.add([port]) for port in (self.direct, self.direct, self._rest, etcd)
        )
        self.port = self._clients.port
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, bin_dir: Path, *, synchronous: bool) -> None:
        trusted = [f"{kind} {database} all {address} trust" for kind, address in (("host", "127.0.0.1/32"), ("local", ""))
                   for database in ("all", "replication")]  # fmt: skip
        parameters = {
            "max_connections": 80,
            "shared_buffers": "64MB",
            "wal_keep_size": "256MB",
            "log_line_prefix": "%m [%p] ",
            "unix_socket_directories": str(self.folder),
        }
        config = {
            "scope": "rollcall",
            "name": self.name,
            "restapi": {"listen": f"127.0.0.1:{self._rest}", "connect_address": f"127.0.0.1:{self._api.port}"},
            # Version 2 of etcd's protocol: with version 3 a Patroni of this age writes the leader's key without comparing it, so that
            # a primary that thaws deposes its successor.
            "etcd": {"hosts": f"127.0.0.1:{self._etcd.port}", "use_proxies": True},
            "bootstrap": {
                "dcs": {
                    **TIMES,
                    "primary_start_timeout": 0,
                    "synchronous_mode": synchronous,
                    "postgresql": {"use_pg_rewind": True, "use_slots": True, "parameters": parameters},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, {"auth": "trust"}],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self.direct}",
                "connect_address": f"127.0.0.1:{self._standbys.port}",
                "data_dir": str(self.folder / "data"),
                "bin_dir": str(bin_dir),
                "pgpass": str(self.folder / "pgpass"),
                "pg_hba": trusted,
                "authentication": {
                    "superuser": {"username": "postgres"},
                    "replication": {"username": "replicator"},
                },
            },
        }
        (self.folder / "patroni.json").write_text(json.dumps(config))

    @property
    def url(self) -> str:
        """The database on this node, past the proxies."""
        return f"postgresql://postgres@127.0.0.1:{self.direct}/rollcall"

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["patroni", str(self.folder / "patroni.json")], stdout=log, stderr=log, cwd="/", **_as_user()
            )

    def kill(self) -> None:
        """End it as a power cut does: Patroni, Postgres and all of its processes."""
        self._send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def freeze(self) -> None:
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    def cut_off(self) -> None:
        """Nothing reaches it, and it reaches etcd no more."""
        self.isolate()
        self._proxies.tell(self._clients.cut)

    def isolate(self) -> None:
        """Its standbys and etcd are out of reach, while its clients reach it."""
        for one in (self._standbys, self._api, self._etcd):
            self._proxies.tell(one.cut)

    def reconnect(self) -> None:
        for one in (self._clients, self._standbys, self._api, self._etcd):
            self._proxies.tell(one.mend)

    def ask(self, path: str, body: object = None) -> dict[str, object]:
        """What its Patroni answers; {} if it does not."""
        content = None if body is None else json.dumps(body).encode()
        request = Request(f"http://127.0.0.1:{self._rest}/{path}", content, {"Content-Type": "application/json"})
        with contextlib.suppress(OSError), urlopen(request, timeout=20) as answer:
            said = answer.read()
            return json.loads(said) if said.startswith(b"{") else {"said": said.decode()}
        return {}

    def _send(self, number: signal.Signals) -> None:
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _pids(self) -> list[int]:
        """Patroni first, so that it starts nothing again; Postgres is not its child if it was restarted."""
        found = [self._process.pid] if self._process and self._process.poll() is None else []
        with contextlib.suppress(OSError, IndexError, ValueError):
            found.append(int((self.folder / "data" / "postmaster.pid").read_text().split()[0]))
        for pid in found:
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return list(dict.fromkeys(found))


class Cluster:
    """Three nodes and one etcd. `url` names all of them, by their proxies."""

    def __init__(self, folder: Path, proxies: Proxies, *, synchronous: bool) -> None:
        folder.chmod(0o755)
        self._folder = folder / "cluster"
        self._folder.mkdir()
        bin_dir, (etcd, peers) = required(), free_ports(2)
        self.nodes = [Node(self._folder, number, etcd, proxies) for number in range(1, NODES + 1)]
        for node in self.nodes:
            node.configure(bin_dir, synchronous=synchronous)
        _give(self._folder)
        self._synchronous = synchronous
        urls = [f"http://127.0.0.1:{port}" for port in (etcd, peers)]
        with (self._folder / "etcd.log").open("ab") as log:
            self._etcd = subprocess.Popen(
                ["etcd", "--name", "one", "--data-dir", str(self._folder / "etcd"), "--listen-client-urls", urls[0],
                 "--advertise-client-urls", urls[0], "--listen-peer-urls", urls[1], "--initial-advertise-peer-urls", urls[1],
                 "--initial-cluster", f"one={urls[1]}", "--logger", "zap", "--enable-v2"],
                stdout=log, stderr=log, cwd="/", **_as_user(),
            )  # fmt: skip

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"postgresql://postgres@{hosts}/rollcall?target_session_attrs=read-write"

    def start(self) -> None:
        self.nodes[0].start()
        self.until(lambda: self.leader() is self.nodes[0], "the first node leads")
        for node in self.nodes[1:]:
            node.start()
        self.until_whole()

    def stop(self) -> None:
        for node in self.nodes:
            node.thaw()
            node.kill()
        self._etcd.kill()
        self._etcd.wait()

    def members(self) -> list[dict[str, object]]:
        for node in self.nodes:
            if found := node.ask("cluster").get("members"):
                return list(found)
        return []

    def leader(self) -> Node | None:
        leads = {one["name"] for one in self.members() if one["role"] == "leader" and one["state"] == "running"}
        return next((node for node in self.nodes if node.name in leads), None)

    def standbys(self) -> list[Node]:
        leader = self.leader()
        return [node for node in self.nodes if node is not leader]

    def is_whole(self) -> bool:
        """One leads, the others stream from it, and one of them is synchronous if that is wanted."""
        members = self.members()
        roles = sorted(str(one["role"]) for one in members)
        wanted = ["leader", "replica", "sync_standby" if self._synchronous else "replica"]
        well = all(one["state"] in {"running", "streaming"} and one.get("lag", 0) == 0 for one in members)
        return roles == wanted and well and len({one["timeline"] for one in members}) == 1

    def until_whole(self) -> None:
        self.until(self.is_whole, "leader and standbys are there")

    def switch_over(self) -> None:
        """Have another node lead, by Patroni's own order to do so."""
        leader = self.leader()
        assert leader is not None
        leader.ask("switchover", {"leader": leader.name})

    def until(self, look: Callable[[], object], what: str) -> None:
        patience = time.monotonic() + _PATIENCE
        while not look():
            assert time.monotonic() < patience, f"not within {_PATIENCE:g} s: {what}: {self.members()}"
            time.sleep(0.1)


@contextlib.contextmanager
def cluster(folder: Path, proxies: Proxies, *, synchronous: bool) -> Iterator[Cluster]:
    made = Cluster(folder, proxies, synchronous=synchronous)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def _as_user() -> dict[str, object]:
    """Postgres does not run as root. In a session of its own: where processes are stopped, the end of a shell would hang up on all."""
    own = {"start_new_session": True}
    if os.geteuid() != 0:
        return own
    account = pwd.getpwnam("postgres")
    return {**own, "user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _give(folder: Path) -> None:
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        for path in (folder, *folder.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid)

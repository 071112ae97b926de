"""NATS servers with JetStream for tests: one node, or a cluster of three. Started by their binary, ended by their ids."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import nats
from nats.js import api
from processes import until

from service.lab.demo.stage import free_ports

USER, PASSWORD = "the-user-of-tests", "the-nats-password-of-tests"
BINARY = Path(sys.executable).with_name("nats-server")
_CONFIG = """
server_name: {name}
listen: "127.0.0.1:{port}"
max_payload: {max_payload}
authorization {{ user: {user}, password: "{password}" }}
jetstream {{ store_dir: "{store}", sync_interval: always }}
"""
_CLUSTER = """
cluster {{ name: tests, listen: "127.0.0.1:{route}", routes: [{routes}] }}
"""


class NatsServer:
    """A node. Each start goes on with the same data."""

    def __init__(
        self, folder: Path, name: str, port: int, *, cluster: str = "", tls: str = "", max_payload: int = 2**20
    ) -> None:
        self.name, self.port, self.store = name, port, folder / name
        self._log = folder / f"{name}.log"
        self._config = folder / f"{name}.conf"
        about = {"name": name, "port": port, "store": self.store, "user": USER, "password": PASSWORD}
        self._config.write_text(_CONFIG.format(**about, max_payload=max_payload) + cluster + tls, encoding="utf-8")
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def launch(self) -> None:
        with self._log.open("ab") as log:
            self._popen = subprocess.Popen(
                [BINARY, "--config", self._config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self) -> None:
        self.launch()
        until(self._listens, f"{self._config.stem} listens", within=20)

    def freeze(self) -> None:
        """Let it hang: it keeps its connections, and answers nothing."""
        assert self._popen is not None
        self._popen.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self._popen.pid}/task")
        until(lambda: all(_is_stopped(task) for task in tasks.iterdir()), "it is frozen")

    def thaw(self) -> None:
        assert self._popen is not None
        self._popen.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power cut does, also if it is frozen."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()

    def _listens(self) -> bool:
        assert self._popen is not None
        assert self._popen.poll() is None, self.log[-2000:]
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


def waiting(servers: Sequence[NatsServer], stream: str = "ROLLCALL") -> int:
    """How many messages wait in the stream."""
    info = asyncio.run(_info(servers, stream))
    return (info.state.subjects or {}).get(f"{stream}.events", 0)


def leader_of(servers: Sequence[NatsServer], stream: str = "ROLLCALL") -> NatsServer:
    """The one that leads the replicas of the stream."""

    info = asyncio.run(_info(servers, stream))
    return next(one for one in servers if info.cluster and one.name == info.cluster.leader)


async def _info(servers: Sequence[NatsServer], stream: str) -> api.StreamInfo:
    client = await nats.connect([f"nats://127.0.0.1:{one.port}" for one in servers], user=USER, password=PASSWORD)
    try:
        return await client.jetstream().stream_info(stream, subjects_filter=f"{stream}.>")
    finally:
        await client.close()


def _is_stopped(task: Path) -> bool:
    return (task / "stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "T"


def spool_url(servers: Sequence[NatsServer], stream: str = "ROLLCALL", query: str = "") -> str:
    """The setting SPOOL_URL for these servers."""
    return f"nats://{USER}:{PASSWORD}@{','.join(f'127.0.0.1:{one.port}' for one in servers)}/{stream}{query}"


@contextmanager
def nats_server(folder: Path, **options: Any) -> Iterator[NatsServer]:
    """One node, for as long as the block lasts."""
    server = NatsServer(folder, "alone", free_ports(1)[0], **options)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def nats_cluster(folder: Path, nodes: int = 3) -> Iterator[list[NatsServer]]:
    """A cluster, for as long as the block lasts."""
    ports = free_ports(2 * nodes)
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports[nodes:])
    with ExitStack() as stack:
        servers = []
        for number, (port, route) in enumerate(zip(ports[:nodes], ports[nodes:], strict=True), 1):
            server = NatsServer(folder, f"node-{number}", port, cluster=_CLUSTER.format(route=route, routes=routes))
            stack.callback(server.kill)
            server.launch()
            servers.append(server)
        for server in servers:
            until(server._listens, "the cluster listens", within=20)
        yield servers

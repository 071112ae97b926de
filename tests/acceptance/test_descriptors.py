"""A daemon that may have few open files, and strangers who take as many connections as they can get."""

import os
import resource
import signal
import socket
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from processes import HASTE, KEY, SECRET, TOKEN, Serve, until
from stored_events import REF

from service.core.token import mint
from service.storage.embedded import EmbeddedPostgres

_DESCRIPTORS = 512
_FLOOD = 700


def test_a_flood_on_the_operator_listener_takes_neither_callbacks_nor_the_restart_of_postgres(tmp_path: Path) -> None:
    settings = {
        "INFRAHUB_URL": "http://127.0.0.1:9/v1",
        "INFRAHUB_API_KEY": KEY,
        "API_TOKENS": f"tests={TOKEN}",
        "CALLBACK_SECRETS": SECRET,
    }
    daemon = Serve(tmp_path, "daemon", {**HASTE, **settings})
    postgres = tmp_path / "daemon" / "postgres"
    try:
        daemon.launch()
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))
        daemon.until_up(daemon.is_alive)
        with ExitStack() as flood:
            for _ in range(_FLOOD):
                flood.enter_context(_connected(daemon.api.url))
            assert [_post(daemon, number) for number in range(40)] == [200] * 40
            postmaster = int((postgres / "postmaster.pid").read_text().split()[0])
            os.kill(postmaster, signal.SIGKILL)
            until(lambda: "the embedded Postgres is not running; starting it" in daemon.log, "its end is noticed")
            # Callbacks that come meanwhile are kept in the spool.
            assert [_post(daemon, number) for number in range(40, 80)] == [200] * 40
            until(lambda: "rollcall_spool_bytes 0.0" in _metrics(daemon), "the spool is drained")
            assert int((postgres / "postmaster.pid").read_text().split()[0]) != postmaster
        assert daemon.stop() == 0
        assert "Errno 24" not in daemon.log
    finally:
        daemon.kill()
        EmbeddedPostgres(postgres).stop("immediate")


def _connected(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=30)


def _post(daemon: Serve, number: int) -> int:
    address = urlsplit(daemon.callbacks)
    with closing(HTTPConnection(address.hostname or "", address.port, timeout=30)) as connection:
        body = b'{"resource": {"id": %d}}' % number
        connection.request("POST", f"/callbacks/{mint(REF, SECRET.encode())}", body)
        return connection.getresponse().status


def _metrics(daemon: Serve) -> str:
    address = urlsplit(daemon.api.url)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=30)
    with closing(connection), suppress(OSError):  # the flood may have taken its place
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        return connection.getresponse().read().decode()
    return ""

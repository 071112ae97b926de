"""A daemon that is told to stop in the middle of a submission, and started again."""

import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

from processes import HASTE, KEY, TOKEN, Serve, Stage, staged, until

from service.storage.embedded import EmbeddedPostgres

_CALLBACK = b'{"resource": {"id": 99, "name": "half"}, "operation": {"name": "createInstance", "status": "ACTIVE"}}'


def test_a_daemon_that_is_stopped_and_started_in_the_middle_loses_nothing(
    tmp_path: Path, bare_database_url: str
) -> None:
    slow = {"timing": {"answer": [4, 8], "creating": [5, 20], "build": [20, 60], "address": [2, 15]}}
    with staged(tmp_path, bare_database_url, cloud=slow, CREATE_CONCURRENCY="1") as stage:
        submission = stage.daemon.submit(100)
        for creates in (1, 3):
            # An answer is on its way: the create was received and has not been answered yet.
            until(lambda wanted=creates: len(stage.simulator.creates()) >= wanted, "a create call")
            assert stage.daemon.stop() == 0
            assert stage.daemon.log.splitlines()[-1].find('"event": "stopping"') >= 0
            assert len(stage.simulator.creates()) < 5
            stage.daemon.start()
        stage.daemon.until_state(submission, "ready")
        stage.until_true()
        stage.made_once(100)
        # Nothing was cut off: no create was sent a second time, and none was left unanswered.
        assert [call["status"] for call in stage.simulator.creates()] == [200] * 5


def test_a_callback_that_has_begun_when_the_daemon_stops_is_answered_and_kept(
    tmp_path: Path, bare_database_url: str
) -> None:
    with staged(tmp_path, bare_database_url) as stage:
        submission = stage.daemon.submit(2)
        stage.daemon.until_state(submission, "ready")
        begun = [_begin(stage, number) for number in range(20)]
        until(lambda: _heard(stage, begun), "the listener has the first half of each")
        stage.daemon.tell(signal.SIGTERM)
        until(lambda: _refused(stage), "nothing new is taken")
        answers = [_finish(one, number) for number, one in enumerate(begun)]
        assert [answer.split(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 200 OK"] * 20
        assert stage.daemon.wait() == 0
        assert {_body(number).decode() for number in range(20)} <= set(stage.kept())
        stage.daemon.start()
        stage.until_true()


def _body(number: int) -> bytes:
    return _CALLBACK.replace(b"half", b"half-%d" % number)


def _begin(stage: Stage, number: int) -> socket.socket:
    """A callback whose first half is sent."""
    url, body = urlsplit(stage.simulator.vms()[0]["callback_url"]), _body(number)
    one = socket.create_connection((url.hostname, url.port), timeout=30)
    one.sendall(f"POST {url.path} HTTP/1.1\r\nHost: there\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:50])
    return one


def _finish(one: socket.socket, number: int) -> bytes:
    with one:
        one.sendall(_body(number)[50:])
        return one.recv(4096)


def _heard(stage: Stage, begun: list[socket.socket]) -> bool:
    """Whether what was sent on each connection has been taken in: a later request on a new one is answered."""
    url = urlsplit(stage.daemon.callbacks)
    with socket.create_connection((url.hostname, url.port), timeout=30) as probe:
        probe.sendall(b"GET /livez HTTP/1.1\r\nHost: there\r\n\r\n")
        return probe.recv(4096).startswith(b"HTTP/1.1 200") and len(begun) > 0


def _refused(stage: Stage) -> bool:
    url = urlsplit(stage.daemon.callbacks)
    try:
        socket.create_connection((url.hostname, url.port), timeout=30).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_second_daemon_in_the_same_folder_does_not_stop_the_first_ones_postgres(tmp_path: Path) -> None:
    first = _alone(tmp_path)
    second = Serve(tmp_path, "daemon", {**first.settings, "API_TOKENS": f"other={TOKEN}"})
    try:
        first.start()
        running = (tmp_path / "daemon" / "postgres" / "postmaster.pid").read_text()
        second.launch()
        assert second.wait() != 0  # its addresses are taken
        assert first.vms() == []
        assert (tmp_path / "daemon" / "postgres" / "postmaster.pid").read_text() == running
        assert first.stop() == 0
        assert not (tmp_path / "daemon" / "postgres" / "postmaster.pid").exists()
    finally:
        _end_all(tmp_path, first, second)


def test_a_daemon_whose_terminal_is_closed_stops_in_order(tmp_path: Path) -> None:
    daemon = _alone(tmp_path)
    try:
        daemon.start()
        daemon.tell(signal.SIGHUP)
        assert daemon.wait() == 0
        assert '"event": "stopping"' in daemon.log
        assert not (tmp_path / "daemon" / "postgres" / "postmaster.pid").exists()
    finally:
        _end_all(tmp_path, daemon)


def _alone(folder: Path) -> Serve:
    """A daemon with an embedded Postgres, and a provider that nobody reaches."""
    settings = {"INFRAHUB_URL": "http://127.0.0.1:9/v1", "INFRAHUB_API_KEY": KEY, "API_TOKENS": f"tests={TOKEN}"}
    return Serve(folder, "daemon", {**HASTE, **settings})


def _end_all(folder: Path, *daemons: Serve) -> None:
    for one in daemons:
        one.kill()
    EmbeddedPostgres(folder / "daemon" / "postgres").stop("immediate")

"""Several processes that hear callbacks on one port: they share the work, and what one of them loses is its life only."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from crashing import Scene, scene
from ledger import complaints
from numbered import record, spooled
from postgres import embedded_postgres
from processes import TOKEN, Serve, is_alive, until

_ESTABLISHED = "01"
_SHARED = ("DATABASE_URL", "INFRAHUB_URL", "INFRAHUB_API_KEY", "CALLBACK_SECRETS", "API_TOKENS")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with (
        embedded_postgres() as server,
        scene(tmp_path_factory.mktemp("processes"), server, seed=2, PROCESSES="2") as made,
    ):
        yield made


def test_connections_are_spread_and_a_killed_receiver_is_started_again_and_nothing_is_lost(two: Scene) -> None:
    first = two.daemon.children()
    assert len(first) == 2
    with two.load() as load:
        load.until_more(200)
        assert all(_connections(pid, two.port) for pid in first)
        os.kill(first[0], signal.SIGKILL)
        load.until_more(200)  # the other one goes on
        until(lambda: len(two.daemon.children()) == 2, "another is started")
        until(lambda: two.daemon.log.count("hearing callbacks") == 3, "it listens")
        load.until_more(200)
    assert two.compared(load) == []
    assert first[0] not in two.daemon.children()
    assert first[1] in two.daemon.children()
    until(lambda: _readiness(two) == {"ready": True, "issues": {}}, "all is well")


def test_the_daemon_says_how_all_of_its_receivers_do(two: Scene) -> None:
    with two.load() as load:
        load.until_more(100)
        two.server.stop("immediate")
        load.until_more(100)
        names = until(lambda: _spooling(two), "it says that callbacks wait")
        two.server.start()
    assert names <= {"spool (receiver 1)", "spool (receiver 2)"}
    assert two.compared(load) == []
    until(lambda: _readiness(two) == {"ready": True, "issues": {}}, "all is well")
    # One receiver was killed by then, with what it had counted in its last second: the sum never counts down.
    counted = until(lambda: _kept(two.daemon) >= load.acknowledged and _kept(two.daemon), "both have reported")
    assert counted <= two.tally.ledger.tries.total()


def test_told_to_stop_it_leaves_nothing_running_and_loses_nothing(two: Scene) -> None:
    with two.load() as load:
        load.until_more(100)
        children = two.daemon.children()
        assert two.daemon.stop() == 0
        assert not any(map(is_alive, children))
        two.daemon.start()
    assert two.compared(load) == []


def test_receivers_end_with_a_daemon_that_is_killed_and_what_they_spooled_is_recorded_by_a_single_one(
    two: Scene,
) -> None:
    with two.load() as load:
        two.spool(load)
        load.until_more(50)
        children = two.daemon.children()
        two.daemon.kill()
        until(lambda: not any(map(is_alive, children)), "its receivers have ended")
        assert len({path.parent for path in spooled(two.data_dir)}) == 2
        two.server.start()
        two.daemon.settings["PROCESSES"] = "1"
        two.daemon.start()
        assert two.daemon.children() == []
        load.until_more(50)
    # Two processes drain their spools each by itself: who was heard by both may be moved in another order. Lost, or heard
    # twice, is nobody.
    assert [one for one in two.compared(load) if not one.startswith("moved otherwise")] == []
    assert not [one for one in complaints(two.tally.ledger, record(two.server.url)) if one.startswith("lost")]


def test_another_daemon_on_the_same_port_is_refused(two: Scene, tmp_path: Path) -> None:
    assert two.daemon.stop() == 0
    two.daemon.settings["PROCESSES"] = "2"
    two.daemon.start()
    second = Serve(
        tmp_path, "second", {**two.daemon.settings, "DATA_DIR": str(tmp_path / "second"), "STOP_SECONDS": "1"}
    )
    second.launch()
    assert second.wait() != 0
    assert "address already in use" in second.log.lower()
    assert "Traceback" not in second.log


@pytest.mark.parametrize("part", ["receiver", "worker"])
def test_a_process_of_one_part_says_how_it_does_and_serves_nothing_of_the_fleet(
    two: Scene, tmp_path: Path, part: str
) -> None:
    alone = Serve(tmp_path, part, {name: two.daemon.settings[name] for name in _SHARED})
    alone.arguments = ("serve", "--only", part)
    try:
        alone.start()
        assert alone.readiness() == {"ready": True, "issues": {}}
        assert "rollcall_callbacks_total" in _asked(alone, "/metrics")
        assert _asked(alone, "/v1/vms").startswith("404 ")
        assert alone.stop() == 0
    finally:
        alone.kill()


def _connections(pid: int, port: int) -> int:
    """How many connections to this port a process has."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found = re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink()))
            sockets |= {found[1]} if found else set()
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    here = f":{port:04X}"
    return sum(row[1].endswith(here) and row[3] == _ESTABLISHED and row[9] in sockets for row in rows)


def _readiness(two: Scene) -> dict[str, object] | None:
    return two.daemon.readiness()


def _spooling(two: Scene) -> set[str]:
    seen = two.daemon.readiness()
    return {name for name in seen["issues"] if name.startswith("spool")} if seen else set()


def _kept(daemon: Serve) -> float:
    """How many callbacks the daemon says that it has kept."""
    found = re.search(r'^rollcall_callbacks_total{answer="stored"} (\S+)$', _asked(daemon, "/metrics"), re.MULTILINE)
    return float(found[1]) if found else 0.0


def _asked(daemon: Serve, path: str) -> str:
    """The status and the text of an answer."""
    api = urlsplit(daemon.api.url)
    connection = HTTPConnection(api.hostname or "", api.port, timeout=30)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        return f"{answer.status} {answer.read().decode()}"
    finally:
        connection.close()

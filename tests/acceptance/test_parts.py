"""Daemons that run one part each, and daemons that want the same port."""

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from crashing import Scene, scene
from postgres import embedded_postgres
from processes import TOKEN, Serve, rollcall

_SHARED = ("DATABASE_URL", "INFRAHUB_URL", "INFRAHUB_API_KEY", "CALLBACK_SECRETS", "API_TOKENS")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with (
        embedded_postgres() as server,
        scene(tmp_path_factory.mktemp("processes"), server, seed=2) as made,
    ):
        yield made


def test_another_daemon_on_the_same_port_is_refused(one: Scene, tmp_path: Path) -> None:
    second = Serve(
        tmp_path, "second", {**one.daemon.settings, "DATA_DIR": str(tmp_path / "second"), "STOP_SECONDS": "1"}
    )
    second.launch()
    assert second.wait() != 0
    assert "address already in use" in second.log.lower()
    assert "Traceback" not in second.log


@pytest.mark.parametrize("part", ["receiver", "worker"])
def test_a_process_of_one_part_says_how_it_does_and_serves_nothing_of_the_fleet(
    one: Scene, tmp_path: Path, part: str
) -> None:
    alone = Serve(tmp_path, part, {name: one.daemon.settings[name] for name in _SHARED})
    alone.arguments = ("serve", "--only", part)
    try:
        alone.start()
        assert alone.readiness() == {"ready": True, "issues": {}}
        assert "rollcall_callbacks_total" in _asked(alone, "/metrics")
        assert _asked(alone, "/v1/vms").startswith("404 ")
        assert alone.stop() == 0
    finally:
        alone.kill()


def test_a_daemon_that_differs_in_what_all_must_share_does_not_start_and_check_says_why(
    one: Scene, tmp_path: Path
) -> None:
    other = {name: one.daemon.settings[name] for name in _SHARED} | {
        "CALLBACK_SECRETS": "another secret of thirty-two characters",
        "API_LISTEN": one.daemon.settings["API_LISTEN"],
    }
    done = rollcall(tmp_path, "serve", settings=other)
    assert done.returncode == 2
    (said,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert said.startswith("ROLLCALL_CALLBACK_SECRETS does not hold the secret ")
    assert "another secret" not in done.stdout + done.stderr
    checked = json.loads(rollcall(tmp_path, "check", "--json", settings=other).stdout)
    found = {finding["what"]: (finding["state"], finding["found"]) for finding in checked}
    assert found["shared settings"][0] == "failed"
    assert found["shared settings"][1].startswith(said.partition(", which signed")[0])
    assert "daemon" in found  # ready or not: its cloud has faults


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

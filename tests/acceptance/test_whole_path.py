"""From asked for to ready by the commands alone, with the daemon's own Postgres and without any fault."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import HASTE, Serve, Simulator, Stage, blunders, rollcall, rows, until

from service.client import Rollcall
from service.lab.demo.ground_truth import differences, shortcomings
from service.storage.embedded import EmbeddedPostgres

PIPELINE = Path(__file__).parents[2] / "examples" / "pipeline.py"


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="rollcall-"))
    yield made
    if (made / "daemon" / "postgres" / "postmaster.pid").exists():
        EmbeddedPostgres(made / "daemon" / "postgres").stop("immediate")
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def simulator(folder: Path) -> Iterator[Simulator]:
    made = Simulator(folder, {}, speed=20)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def daemon(folder: Path, simulator: Simulator) -> Iterator[Serve]:
    # Neither a database nor a secret is given: the daemon makes what it needs.
    made = Serve(
        folder, "daemon", {**HASTE, "INFRAHUB_URL": f"{simulator.site}/v1", "INFRAHUB_API_KEY": "a-key-of-somebody"}
    )
    made.start()
    yield made
    made.kill()


def test_a_fleet_goes_from_asked_for_to_ready_by_the_commands_alone(
    folder: Path, simulator: Simulator, daemon: Serve
) -> None:
    def run(*arguments: str) -> str:
        done = rollcall(folder, *arguments, settings=daemon.settings)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    spec = ("--flavor", "n3-A100x1", "--environment", "default-CANADA-1", "--key", "example-key", "--contract", "41")
    image = ("--image", "Ubuntu Server 22.04 LTS R535 CUDA 12.2", "--floating-ip")
    asked = ("submit", "--name", "train", "--count", "25", *spec, *image, "--wait", "--json")
    ended = json.loads(run(*asked))
    records = json.loads(run("vms", "--json"))
    one = records[0]
    story = run("vm", str(one["provider_id"]))
    fleet = json.loads(run("fleet", "--json"))

    assert (ended["state"], ended["count"], ended["counts"], ended["ready"]) == ("ready", 25, {"ACTIVE": 25}, 25)
    assert differences(records, simulator.vms()) == []
    assert shortcomings(records, count=25, on_contract=25) == []
    assert "CREATING" in story
    assert "ACTIVE" in story
    assert one["floating_ip"] in story
    assert fleet["fleet"]["by_state"] == {"ACTIVE": 25}
    assert "train" in run("submissions")

    url = EmbeddedPostgres(folder / "daemon" / "postgres").url
    every_state_is_on_record(simulator, url)
    every_call_is_on_record(simulator, url)
    assert Stage(simulator, [daemon], url).lost() == []

    the_pipeline_of_the_readme_rents_vms_and_gives_them_back(folder, daemon)

    assert daemon.stop() == 0
    assert blunders(daemon.log) == []
    assert not (folder / "daemon" / "postgres" / "postmaster.pid").exists()


def the_pipeline_of_the_readme_rents_vms_and_gives_them_back(folder: Path, daemon: Serve) -> None:
    token = (folder / "daemon" / "api-token").read_text().strip()
    env = {"ROLLCALL_API_URL": daemon.api.url, "ROLLCALL_API_TOKEN": token, "RUN_ID": "nightly-1-1"}
    command = [sys.executable, str(PIPELINE)]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert all(re.fullmatch(r"\S+\.[12] [0-9.]+", line) for line in done.stdout.splitlines())
    client = Rollcall(daemon.api.url, token)
    (nightly,) = [one for one in client.submissions() if one["name"] == "nightly"]
    assert nightly["cancelled_at"] is not None
    until(
        lambda: {one["state"] for one in client.vms(submission_id=nightly["submission_id"])} == {"DELETED"},
        "the VMs are given back",
    )


def every_state_is_on_record(simulator: Simulator, url: str) -> None:
    recorded: dict[int, list[str]] = {}
    for row in rows(
        url,
        "SELECT provider_id, to_state, evidence_id FROM transitions JOIN vms USING (submission_id, vm_no)"
        " WHERE verdict = 'moved' ORDER BY provider_id, transitions.seq",
    ):
        assert row["evidence_id"] is not None
        recorded.setdefault(row["provider_id"], []).append(row["to_state"])
    assert recorded == {vm["id"]: [step["status"] for step in vm["history"]] for vm in simulator.vms()}


def every_call_is_on_record(simulator: Simulator, url: str) -> None:
    found = rows(url, "SELECT outcome, ms FROM calls LEFT JOIN call_ends USING (submission_id, call_id)")
    assert len(found) >= len(simulator.calls()) > 0
    assert Counter(row["outcome"] for row in found if row["ms"] is None or row["outcome"] != "ok") == Counter()

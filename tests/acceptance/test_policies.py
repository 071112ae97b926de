"""What a fleet's owner chooses, with whole processes: alternatives, a lifetime, keeping the count, and importing VMs."""

import json
from pathlib import Path
from typing import Any

from processes import BODY, FORM, KEY, TOKEN, Stage, rollcall, rows, staged, until

from service.client.http import ApiClient

_FLAVORS = [
    {"name": "n3-A100x1", "gpu": "A100-80G-PCIe", "gpu_count": 1, "stock": 0},
    {"name": "n3-H100x1", "gpu": "H100-80G-PCIe", "gpu_count": 1, "region": "NORWAY-1", "stock": 30},
]
_ENVIRONMENTS = [{"name": "default-CANADA-1", "region": "CANADA-1"}, {"name": "there", "region": "NORWAY-1"}]


def test_out_of_stock_the_fleet_comes_up_on_the_second_flavor_and_its_lifetime_ends_it(
    tmp_path: Path, bare_database_url: str
) -> None:
    with staged(tmp_path, bare_database_url, cloud={"flavors": _FLAVORS, "environments": _ENVIRONMENTS}) as stage:
        alternatives = [{"flavor_name": "n3-H100x1", "environment_name": "there"}]
        submission = stage.daemon.submit(25, policy={"alternatives": alternatives, "lifetime": "5m"})
        stage.daemon.until_state(submission, "ready")
        assert {(vm["flavor"], vm["environment"], vm["alternative"]) for vm in stage.daemon.vms()} == {
            ("n3-H100x1", "there", 1)
        }
        stage.made_once(25)
        shorter = stage.daemon.api.change_submission(submission, {"lifetime": 10})
        assert shorter["expires_at"] is not None
        until(lambda: stage.simulator.alive() == [], "its lifetime is over")
        stage.until_true()
        assert {vm["deletion_reason"] for vm in stage.daemon.vms()} == {"its lifetime of 10s is over"}


def _ready(stage: Stage) -> list[dict[str, Any]]:
    return [vm for vm in stage.daemon.vms() if vm["member"] and vm["ready"]]


def test_maintain_replaces_ten_vanished_of_forty_and_stops_on_a_crash_loop(
    tmp_path: Path, bare_database_url: str
) -> None:
    with staged(tmp_path, bare_database_url) as stage:
        policy = {"maintain": {"enabled": True, "grace_seconds": 1, "stop_after": 5}}
        submission = stage.daemon.submit(40, policy=policy)
        stage.daemon.until_state(submission, "ready")
        stage.simulator.query("vanish", {"count": 10})
        until(lambda: len(_ready(stage)) == 40 and len(stage.daemon.vms()) == 50, "ten are replaced")
        stage.made_once(40)
        for vm in _ready(stage):
            if vm["replaces"] is not None:
                stage.simulator.query(f"vms/{vm['provider_id']}/vanish", {"silent": True})

        def stopped() -> bool:
            return stage.daemon.submission(submission)["maintain_stopped_at"] is not None

        until(stopped, "it stops")
        until(lambda: "crash loop" in ((stage.daemon.readiness() or {}).get("issues") or {}), "and says so")
        stage.until_true()
        assert len(stage.daemon.vms()) < 60


def _foreign(stage: Stage, count: int) -> None:
    """VMs that somebody else makes at the provider."""
    body = {**BODY, "name": f"theirs-{count}", "count": count, "callback_url": None, "assign_floating_ip": False}
    headers = {**FORM, "api_key": KEY}
    reply = ApiClient(f"{stage.simulator.site}/v1").send("POST", "/core/virtual-machines", body, headers)
    assert reply.status == 200, reply


def test_25_vms_of_others_are_imported_and_a_stop_and_a_delete_by_others_are_in_the_audit(
    tmp_path: Path, bare_database_url: str
) -> None:
    with staged(tmp_path, bare_database_url) as stage:
        _foreign(stage, 20)
        _foreign(stage, 5)
        until(lambda: {vm["status"] for vm in stage.simulator.alive()} == {"ACTIVE"}, "they run")
        settings = {**stage.daemon.settings, "API_URL": stage.daemon.api.url, "API_TOKEN": TOKEN}

        def command(*arguments: str) -> Any:
            done = rollcall(tmp_path, *arguments, "--json", settings=settings)
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        assert len(command("import", "--name-pattern", "theirs-*", "--dry-run")["vms"]) == 25
        assert stage.daemon.vms() == []
        assert {one["callback"] for one in command("import", "--name-pattern", "theirs-*")["vms"]} == {"attached"}
        stopped, deleted, released = (vm["provider_id"] for vm in stage.daemon.vms()[:3])
        command("release", str(released))
        for action, id_ in (("stop", stopped), ("delete", deleted), ("stop", released)):
            stage.simulator.query(f"vms/{id_}/{action}", {})
        ends = {"SHUTOFF", "DELETED", "RELEASED", "ACTIVE"}
        until(lambda: {vm["state"] for vm in stage.daemon.vms()} == ends, "what others did is on record")
        stage.until_true()
        told = [one["text"] for one in stage.daemon.api.vm_timeline(stopped)]
        assert any(text.startswith("moved STOPPING -> SHUTOFF on a ") for text in told)
        assert stage.daemon.api.vm(stopped)["reason"] == ("stopped by somebody else: Rollcall did not request it")
        sealed = "SELECT 1 FROM seals HAVING sum(rows) >= (SELECT count(*) FROM transitions)"
        until(lambda: rows(bare_database_url, sealed), "it is sealed")
        assert command("audit", "verify")["findings"] == []
        assert len(stage.simulator.creates()) == 2  # those of others

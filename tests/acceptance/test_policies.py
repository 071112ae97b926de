"""What a fleet's owner chooses, with whole processes: alternatives, a lifetime, and keeping the count."""

from pathlib import Path
from typing import Any

from processes import Stage, staged, until

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
        shorter = stage.daemon.api.request("PATCH", "v1", "submissions", submission, body={"lifetime": 10}).value
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

"""Daemons that die without a word, in the middle of everything, again and again."""

import json
import random
import time
from pathlib import Path

from processes import Stage, rollcall, rows, staged, until

from service.storage.embedded import EmbeddedPostgres

_VMS = 200
_KILLS = 30
_POSTGRES_STOPS = {10, 20}
_CLOUD = {
    "seed": 3,
    "timing": {
        "answer": [10, 50],
        "callback": [0.1, 5],
        "creating": [10, 40],
        "build": [40, 200],
        "address": [5, 40],
        "deleting": [5, 20],
    },
    "faults": {
        "partial": 0.3,
        # The work is done, and the answer never comes, or says that it was not.
        "create": {"lost": 0.2, "error_after": 0.2, "error_before": 0.1},
        "read": {"error_before": 0.05, "cut": 0.05},
        "callbacks": {"lost": 0.1, "repeated": 0.1, "reordered": 0.1, "reorder_wait": 20},
        "list_lag": [0, 15],
    },
}
_UNHEARD = (
    "SELECT call_id FROM calls LEFT JOIN call_ends USING (submission_id, call_id)"
    " WHERE operation = 'create' AND outcome IS NULL"
)


def test_thirty_kills_and_two_crashes_of_postgres_leave_each_vm_made_exactly_once(
    tmp_path: Path, own_postgres: EmbeddedPostgres
) -> None:
    rng, published = random.Random(30), tmp_path / "published"
    patience = {
        "CREATE_TIMEOUT": "3",
        "LEASE_MARGIN_SECONDS": "0.5",
        "LOOKUP_WINDOW_SECONDS": "2",
        "CREATE_CONCURRENCY": "1",
        "SEAL_INTERVAL_SECONDS": "0.3",
        "SEAL_PUBLISH_DIR": str(published),
    }
    with staged(tmp_path, own_postgres.url, cloud=_CLOUD, speed=20, daemons=2, **patience) as stage:
        submission = stage.daemon.submit(_VMS, policy={"on_orphan": "delete"})
        for number in range(1, _KILLS + 1):
            victim = rng.choice(stage.daemons)
            _some_moment(stage, rng)
            victim.kill()
            if number in _POSTGRES_STOPS:
                own_postgres.stop("immediate")
                own_postgres.start()
            victim.launch()
        for one in stage.daemons:
            one.until_up(lambda one=one: one.readiness() is not None)
        stage.daemon.until_state(submission, "ready")
        stage.until_true()
        stage.made_once(_VMS)
        assert len(stage.simulator.vms()) == _VMS
        orphans = list(stage.daemon.api.orphans())
        assert {one["state"] for one in orphans} <= {"adopted"}, orphans
        assert {vm["state"] for vm in stage.daemon.vms()} == {"ACTIVE"}
        assert stage.simulator.query("stats")["calls_limited"] == 0
        sealed = "SELECT sum(rows) FROM seals HAVING sum(rows) > 1000"
        until(lambda: rows(stage.database_url, sealed), "the record is sealed")  # the last one killed had the lease
        # Whoever was sealing when it was killed: everything is in the log once, and nothing looks like an edit.
        verified = rollcall(
            tmp_path, "audit", "verify", "--published", str(published), "--json", settings=stage.daemon.settings
        )
        report = json.loads(verified.stdout)
        assert (verified.returncode, report["findings"]) == (0, [])
        assert report["checkpoints"] > 1
        assert report["rows"] > 1000
        # There were creates whose daemon did not live to hear the answer: what the test is about.
        assert rows(stage.database_url, _UNHEARD)


def _some_moment(stage: Stage, rng: random.Random) -> None:
    """Any moment: now and then the one in which a call arrives at the provider, and else whichever comes."""
    sent, patience = len(stage.simulator.creates()), time.monotonic() + rng.uniform(0, 2.5)
    at_a_call = rng.random() < 0.6
    while time.monotonic() < patience and not (at_a_call and len(stage.simulator.creates()) > sent):
        time.sleep(0.02)

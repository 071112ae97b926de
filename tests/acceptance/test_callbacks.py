"""Callbacks that do not come, come late, often, in another order, or say what is not so."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from postgres import Databases
from processes import Stage, post, rows, staged, until

from service.core.token import CreationRef, mint

_FAULTS: dict[str, dict[str, Any]] = {
    "all lost": {"lost": 1},
    "half lost": {"lost": 0.5},
    "late": {"delayed": 0.6, "delay": [20, 60]},
    "repeated": {"repeated": 1, "repeats": [2, 5]},
    "reordered": {"reordered": 0.6, "reorder_wait": 20},
    "status null": {"nulled": 1},
    "garbage": {"garbage": 0.5},
    "of strangers": {"unmatched": 0.5},
    "everything": {
        "lost": 0.2,
        "repeated": 0.3,
        "delayed": 0.2,
        "delay": [10, 40],
        "reordered": 0.3,
        "reorder_wait": 20,
        "nulled": 0.1,
        "garbage": 0.1,
        "unmatched": 0.1,
    },
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[Stage]:
    with databases.bare() as url, staged(tmp_path_factory.mktemp("callbacks"), url) as made:
        yield made


@pytest.mark.parametrize("fault", _FAULTS)
def test_whatever_becomes_of_callbacks_the_record_ends_at_the_truth(stage: Stage, fault: str) -> None:
    stage.simulator.query("faults", {"callbacks": _FAULTS[fault]})
    submission = stage.daemon.submit(10)
    stage.daemon.until_state(submission, "ready")
    until(lambda: _nothing_under_way(stage), "every callback was sent")
    stage.until_true()
    stage.made_once(10 * len(list(stage.daemon.api.submissions())))
    assert {vm["state"] for vm in stage.daemon.vms(submission_id=submission)} == {"ACTIVE"}


def _nothing_under_way(stage: Stage) -> bool:
    fates = stage.simulator.query("stats")["deliveries_by_fate"]
    return not fates.get("waiting") and not fates.get("sent")


def test_forged_callbacks_are_not_found_and_leave_nothing_behind(stage: Stage) -> None:
    stage.simulator.query("faults", {})
    submission = stage.daemon.submit(1)
    stage.daemon.until_state(submission, "ready")
    (vm,) = stage.daemon.vms(submission_id=submission)
    genuine = until(lambda: [one for one in stage.simulator.vms() if one["id"] == vm["provider_id"]], "it")[0][
        "callback_url"
    ]
    site, token = genuine.rsplit("/", 1)
    lie = json.dumps({"resource": {"id": vm["provider_id"]}, "operation": {"name": "deleteVM", "status": "SUCCESS"}})
    other_creation = token[:32] + "000063" + token[38:]
    another_secret = mint(CreationRef(UUID(submission), 1), b"another secret of thirty-two chars")
    forged = [token[:-1], token + "0", token[:-1] + ("0" if token[-1] != "0" else "1"), other_creation, "f" * 70]
    before = sum(stage.kept().values())
    answers = [post(f"{site}/{one}", lie.encode()) for one in [*forged, another_secret, "", "..%2f" + token]]
    assert answers == [404] * len(answers)
    assert sum(stage.kept().values()) == before
    assert stage.daemon.api.vm(vm["ref"])["state"] == "ACTIVE"


def test_lies_on_a_genuine_url_do_not_leave_a_wrong_state_behind(stage: Stage) -> None:
    stage.simulator.query("faults", {})
    submission = stage.daemon.submit(2)
    stage.daemon.until_state(submission, "ready")
    for vm in [one for one in stage.simulator.vms() if _is_of(stage, one, submission)]:
        for status in ("DELETED", "ERROR", "SHUTOFF", "CREATING", "UPSIDE DOWN", "HIBERNATED", "DELETING"):
            lie = {
                "resource": {"id": vm["id"]},
                "operation": {"name": "x", "status": status},
                "data": {"status": status},
            }
            assert post(vm["callback_url"], json.dumps(lie).encode()) == 200
    until(lambda: _waiting(stage) == 0, "all events are applied")
    stage.until_true()
    assert {vm["state"] for vm in stage.daemon.vms(submission_id=submission)} == {"ACTIVE"}


def test_what_tells_us_nothing_is_answered_kept_and_counted(stage: Stage) -> None:
    stage.simulator.query("faults", {})
    submission = stage.daemon.submit(1)
    stage.daemon.until_state(submission, "ready")
    url = next(one for one in stage.simulator.vms() if _is_of(stage, one, submission))["callback_url"]
    before = stage.daemon.api.fleet()["fleet"]["dead_letters"]
    unknown_vm = b'{"resource": {"id": 7}, "operation": {"name": "createInstance", "status": "ACTIVE"}}'
    garbage = [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"resource": null}', b"0" * 100_000, b"[" * 50_000]
    assert [post(url, body) for body in [unknown_vm, *garbage]] == [200] * 9
    assert post(url, b" " * 300_000) == 413

    def counted() -> bool:
        now = stage.daemon.api.fleet()["fleet"]["dead_letters"]
        return (
            now["unknown_vm"] == before.get("unknown_vm", 0) + 1
            and now["unreadable"] == before.get("unreadable", 0) + 8
        )

    until(counted, "they are counted")
    kept = rows(stage.database_url, "SELECT body FROM events")
    assert {unknown_vm, *garbage} <= {row["body"] for row in kept}
    stage.until_true()


def _is_of(stage: Stage, vm: dict[str, Any], submission: str) -> bool:
    return submission.replace("-", "") in vm["callback_url"]


def _waiting(stage: Stage) -> int:
    return stage.daemon.api.fleet()["fleet"]["events_waiting"]

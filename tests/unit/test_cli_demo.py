"""The demo: strict about every difference between the record and the ground truth, and on one screen."""

import re
from contextlib import nullcontext
from typing import Any

import pytest
from typer.testing import CliRunner

from service.cli import demo
from service.cli.demo_view import lines, most_eventful, summary
from service.cli.exits import Exit
from service.cli.main import app
from service.lab.demo.ground_truth import differences, shortcomings
from service.lab.demo.play import ROOM, ROOM_LATER, VMS, Snapshot, play


def record(**changes: Any) -> dict[str, Any]:
    return {
        "ref": "S.1",
        "provider_id": 7,
        "state": "ACTIVE",
        "fixed_ip": "10.0.0.1",
        "floating_ip": "203.0.113.1",
        "contract_id": 41,
        "assignment": "assigned",
        "flavor": "n3-A100x1",
        "member": True,
        "ready": True,
        "replaces": None,
        "replaced_by": None,
        **changes,
    }


def real(**changes: Any) -> dict[str, Any]:
    return {
        "id": 7,
        "status": "ACTIVE",
        "fixed_ip": "10.0.0.1",
        "floating_ip": "203.0.113.1",
        "contract_id": 41,
        "flavor": "n3-A100x1",
        "ended": None,
        **changes,
    }


def test_a_record_that_says_what_is_true_has_no_differences() -> None:
    gone = real(id=8, ended="deleted", status="DELETED")
    forgotten = record(ref="S.2", provider_id=8, state="DELETED")
    never_made = record(ref="S.3", provider_id=None, state="REFUSED")
    assert differences([record(), forgotten, never_made], [real(), gone]) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "BUILD"},
        {"fixed_ip": None},
        {"floating_ip": "203.0.113.2"},
        {"contract_id": None},
        {"flavor": "n3-H100x1"},
        {"state": "DELETED"},
    ],
)
def test_every_fact_that_differs_is_named(changes: dict[str, Any]) -> None:
    (text,) = differences([record(**changes)], [real()])
    assert text.startswith("S.1: ")


def test_a_vm_without_a_record_and_one_with_two_are_differences() -> None:
    assert differences([], [real()]) == ["VM 7 is ACTIVE, and 0 records are bound to it"]
    assert differences([record(), record(ref="S.2")], [real()]) == ["VM 7 is ACTIVE, and 2 records are bound to it"]


@pytest.mark.parametrize("truth", [[], [real(ended="vanished")]])
def test_a_record_of_a_vm_that_is_gone_is_a_difference(truth: list[dict[str, Any]]) -> None:
    assert differences([record()], truth) == ["S.1 claims VM 7 to be ACTIVE, and it is gone"]


def test_a_fleet_that_is_not_as_expected_falls_short() -> None:
    fleet = [record(), record(ready=False), record(contract_id=None), record(member=False)]
    assert shortcomings(fleet, count=3, on_contract=3) == [
        "ready: 2, should be 3",
        "on contract: 2, should be 3",
        "on demand: 1, should be 0",
    ]
    assert shortcomings([record(), record(contract_id=None)], count=2, on_contract=1) == []


def test_the_most_eventful_vm_is_chosen() -> None:
    plain, on_demand, replaced = record(), record(ref="S.2", contract_id=None), record(ref="S.3", replaces=2)
    assert most_eventful([plain, on_demand, replaced])["ref"] == "S.3"
    assert most_eventful([plain, on_demand])["ref"] == "S.2"
    assert most_eventful([record(member=False, ref="S.4"), plain])["ref"] == "S.1"


STATS = {"deliveries_by_fate": {"sent": 3}, "callbacks_by_fault": {"lost": 1}, "calls": 5}


def snapshot(**changes: Any) -> Snapshot:
    known = {
        "seconds": 3.4,
        "submission": {"state": "open", "ready": 1, "count": 2, "on_contract": 1, "counts": {"ACTIVE": 1, "BUILD": 1}},
        "records": [
            record(),
            record(ref="S.2", assignment="on_demand"),
            record(ref="S.3", member=False, replaces=2),
        ],
        "stats": STATS,
        "room": ROOM,
    }
    return Snapshot(**{**known, **changes})


def test_a_snapshot_shows_how_far_the_fleet_is() -> None:
    assert dict(lines(snapshot())) == {
        "waiting for": "58 VMs to become ACTIVE",
        "seconds": "3",
        "ready": "1 of 2",
        "states": "1 ACTIVE, 1 BUILD",
        "contract": "room for 45; 1 assigned, 1 on demand",
        "replacing": "1",
        "callbacks": "3 sent",
        "faults": "1 lost",
        "provider calls": "5",
    }


def test_it_says_that_the_contract_is_full_and_for_how_long_vms_try() -> None:
    fleet = [record() for _ in range(ROOM_LATER)] + [record(contract_id=None) for _ in range(VMS - ROOM_LATER)]
    open_ = {"state": "open", "on_contract": ROOM_LATER}
    full = snapshot(records=fleet, submission=open_)
    assert full.waiting_for == "5 VMs that find the contract full; they try for 24 s"
    assert (
        snapshot(records=fleet, submission={**open_, "on_contract": 50}).waiting_for == "5 VMs to get on the contract"
    )
    ended = snapshot(submission={"state": "ready"}, differences=["x"])
    assert ended.waiting_for == "the record to match the provider"


class FakeStage:
    """A daemon and a simulator that answer as a fleet grows up, one step for each snapshot."""

    def __init__(self, *, right: bool) -> None:
        self.daemon = self
        self.changes: list[str] = []
        self._right = right
        self._steps = iter([("open", 0), ("open", ROOM), ("open", ROOM_LATER)])
        self._state, self._on_contract = "ready", ROOM_LATER

    def submit(self, body: Any) -> dict[str, Any]:
        assert body["count"] == VMS
        return {"submission_id": "S"}

    def submission(self, _id: str) -> dict[str, Any]:
        self._state, self._on_contract = next(self._steps, ("ready", ROOM_LATER))
        return {"state": self._state, "on_contract": self._on_contract}

    def vms(self) -> list[dict[str, Any]]:
        return [
            record(ref=f"S.{n}", provider_id=n, contract_id=41 if n <= self._on_contract else None)
            for n in range(1, VMS + 1)
        ]

    def simulate(self, method: str, path: str, body: object = None) -> Any:
        if method == "POST":
            self.changes.append(f"{path} {body}")
        vms = [real(id=n, contract_id=41 if n <= ROOM_LATER else None) for n in range(1, VMS + 1)]
        return {"vms": vms if self._right else vms[:-1]} if path == "vms" else STATS


def test_the_play_grows_the_contract_once_and_ends_when_record_and_provider_match() -> None:
    stage, paused = FakeStage(right=True), []
    played = list(play(stage, lambda: 1.0, pause=paused.append))
    assert [one.room for one in played] == [ROOM, ROOM, ROOM_LATER, ROOM_LATER]
    assert [one.differences for one in played] == [None, None, None, []]
    assert stage.changes == ["contracts/41 {'resource_count': 55}"]
    assert len(paused) == 3


def test_a_record_that_never_matches_ends_with_the_time_and_its_differences() -> None:
    seconds = iter(range(0, 1000, 5))
    *_, last = play(FakeStage(right=False), lambda: float(next(seconds)), pause=lambda _: None)
    assert last.differences == ["S.60 claims VM 60 to be ACTIVE, and it is gone"]


def ending(capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    demo._verdict(snapshot(**changes))
    return capsys.readouterr().out


def test_the_verdict_stands_alone_on_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    fleet = [record() for _ in range(VMS)]
    assert ending(capsys, records=fleet, differences=[]) == "OK: all 60 VMs match the provider\n"
    wrong = ending(capsys, records=fleet, differences=["x"] * 30)
    assert wrong == "FAILED: 30 differences between the record and the provider\n"


@pytest.mark.parametrize(("right", "code"), [(True, 0), (False, Exit.FAILED)])
def test_the_exit_code_is_0_only_if_record_and_ground_truth_match(
    monkeypatch: pytest.MonkeyPatch, right: bool, code: int
) -> None:
    last = snapshot(differences=[] if right else ["x"])
    monkeypatch.setattr(demo, "open_stage", lambda *_args, **_more: nullcontext())
    monkeypatch.setattr(demo, "_run", lambda *_: last)
    ended = CliRunner().invoke(app, ["demo"])
    assert ended.exit_code == code
    assert ended.stdout.splitlines()[-1].startswith("OK: " if right else "FAILED: ")


def test_the_summary_and_the_progress_fit_a_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    evidence = {
        "moves": dict.fromkeys(("event", "observation", "answer", "decision"), 1_000_000),  # a line that must be folded
        "events": {"callback": {"count": 7, "repeated": 1}},
    }
    fleet = {"seconds_to_ready": {"p50": 9.0, "p90": 12.0, "p99": 20.0}}
    summary(snapshot(differences=[]), fleet, evidence, [{"vm_id": 1, "body": "x", "faults": ["lost"]}])
    printed = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert len(printed) <= 20
    assert max(map(len, printed)) <= 80
    assert "1000000 decided" in " ".join(" ".join(printed).split())
    assert len(lines(snapshot())) <= 20

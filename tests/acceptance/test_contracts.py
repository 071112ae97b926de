"""VMs that should be on a contract and are not: seen, dealt with by the policy, to its end."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from processes import Stage, rows, staged, until

_CONTRACT = 41
_HURRY = {"first_wait_seconds": 0.3, "max_wait_seconds": 1, "attempts": 1000, "deadline_seconds": 600}


def _cloud(room: int) -> dict[str, Any]:
    line = {"resource_name": "A100-80G-PCIe", "resource_count": room}
    return {"contracts": [{"id": _CONTRACT, "discounts": [line]}]}


def _members(stage: Stage) -> list[dict[str, Any]]:
    return [vm for vm in stage.daemon.vms() if vm["member"]]


def _off_contract(stage: Stage) -> int:
    return stage.daemon.api.fleet()["fleet"]["off_contract"]


#: Room for 36 of 60, and for 4 more whenever that is used up.
_FLEET, _FIRST, _MORE = 60, 36, 4
_GROWING = {**_cloud(room=_FIRST), "partial_assignment": True}


def _grow(stage: Stage, submission: str) -> None:
    for room in range(_FIRST + _MORE, _FLEET + 1, _MORE):
        stage.simulator.query(f"contracts/{_CONTRACT}", {"resource_count": room})
        until(lambda room=room: stage.daemon.submission(submission)["on_contract"] == room, f"{room} are on it")


def _counts(stage: Stage, *, on_contract: bool = False) -> list[int]:
    """How many VMs there were after each change, by the truth, from the largest create on. One in DELETING is none."""
    changes = Counter[float]()
    for vm in stage.simulator.vms():
        begun = [one["at"] for one in vm["contract_history"] if one["contract_id"] is not None]
        if on_contract and not begun:
            continue
        changes[begun[0] if on_contract else vm["created_at"]] += 1
        for one in vm["history"]:
            if one["status"] in {"DELETING", "DELETED"}:
                changes[one["at"]] -= 1
                break
    return list(itertools.accumulate(changes[at] for at in sorted(changes)))


def test_of_sixty_vms_those_off_their_contract_are_replaced_as_it_grows_and_the_count_never_falls(
    tmp_path: Path, bare_database_url: str
) -> None:
    with staged(tmp_path, bare_database_url, cloud=_GROWING) as stage:
        retry = {"means": "replace", **_HURRY, "max_replacing": 3}
        submission = stage.daemon.submit(_FLEET, contract_id=_CONTRACT, policy={"retry": retry})
        until(lambda: _off_contract(stage) == _FLEET - _FIRST, "24 are off it")
        until(lambda: stage.daemon.submission(submission)["on_contract"] == _FIRST, "the others are on it")
        seen = stage.daemon.submission(submission)
        assert (seen["state"], seen["on_contract"], seen["on_demand"]) == ("open", _FIRST, _FLEET - _FIRST)
        _grow(stage, submission)
        ended = stage.daemon.until_state(submission, "ready")
        assert (ended["on_contract"], ended["on_demand"]) == (_FLEET, 0)
        until(lambda: len(stage.simulator.alive()) == _FLEET, "the old ones are gone")
        stage.until_true()
        stage.made_once(_FLEET)
        counts, on_it = _counts(stage), _counts(stage, on_contract=True)
        assert min(counts[counts.index(_FLEET) :]) == _FLEET < max(counts) <= _FLEET + 3
        assert (on_it[-1], min(on_it[on_it.index(_FIRST) :])) == (_FLEET, _FIRST)
        gone = [vm for vm in stage.daemon.vms() if not vm["member"]]
        assert {vm["state"] for vm in gone if vm["provider_id"]} == {"DELETED"}
        assert all(vm["on_demand_seconds"] > 0 for vm in gone if vm["replaced_by"])
        assert len([vm for vm in gone if vm["replaced_by"]]) == _FLEET - _FIRST
        assert _off_contract(stage) == 0
        steps = {(row["step"], row["outcome"]) for row in rows(bare_database_url, "SELECT * FROM assignments")}
        assert {("replace", "sent"), ("wait", "waiting")} <= steps


def test_of_sixty_vms_those_off_their_contract_are_reassigned_as_it_grows_where_the_provider_offers_it(
    tmp_path: Path, bare_database_url: str
) -> None:
    path = "/_sim/virtual-machines/{vm_id}/contract"
    # Half of the answers are lost after the work was done: only a refresh tells whether it was.
    cloud = {**_GROWING, "faults": {"change": {"lost": 0.5}}}
    with staged(tmp_path, bare_database_url, cloud=cloud, REASSIGN_PATH=path) as stage:
        retry = {"means": "reassign", **_HURRY}
        submission = stage.daemon.submit(_FLEET, contract_id=_CONTRACT, policy={"retry": retry})
        until(lambda: _off_contract(stage) == _FLEET - _FIRST, "24 are off it")
        until(lambda: stage.daemon.submission(submission)["on_contract"] == _FIRST, "the others are on it")
        assert stage.daemon.submission(submission)["state"] == "open"
        before = {vm["id"] for vm in stage.simulator.alive()}
        _grow(stage, submission)
        ended = stage.daemon.until_state(submission, "ready")
        assert (ended["on_contract"], ended["on_demand"]) == (_FLEET, 0)
        stage.until_true()
        stage.made_once(_FLEET)
        assert {vm["id"] for vm in stage.simulator.vms()} == before
        on_it = _counts(stage, on_contract=True)
        assert (on_it[-1], min(on_it[on_it.index(_FIRST) :])) == (_FLEET, _FIRST)


@pytest.mark.parametrize("means", ["replace", "reassign"])
def test_a_contract_that_stays_full_is_given_up_and_the_vms_are_kept(
    tmp_path: Path, bare_database_url: str, means: str
) -> None:
    route = {"REASSIGN_PATH": "/_sim/virtual-machines/{vm_id}/contract"} if means == "reassign" else {}
    with staged(tmp_path, bare_database_url, cloud=_cloud(room=0), **route) as stage:
        retry = {**_HURRY, "means": means, "deadline_seconds": 3, "then": "keep"}
        submission = stage.daemon.submit(2, contract_id=_CONTRACT, policy={"retry": retry})
        ended = stage.daemon.until_state(submission, "ready")
        assert (ended["on_contract"], ended["on_demand"]) == (0, 2)
        assert any("off contract 41" in reason for reason in ended["reasons"])
        stage.until_true()
        stage.made_once(2)
        assert {(vm["assignment"], vm["ready"]) for vm in _members(stage)} == {("given_up", True)}
        assert _off_contract(stage) == 2


def test_a_contract_that_stays_full_is_given_up_and_the_vms_are_deleted(tmp_path: Path, bare_database_url: str) -> None:
    with staged(tmp_path, bare_database_url, cloud=_cloud(room=0)) as stage:
        retry = {**_HURRY, "deadline_seconds": 3, "then": "delete"}
        submission = stage.daemon.submit(2, contract_id=_CONTRACT, policy={"retry": retry})
        ended = stage.daemon.until_state(submission, "failed")
        assert any("off contract 41" in reason for reason in ended["reasons"])
        until(lambda: stage.simulator.alive() == [], "they are gone")
        stage.until_true()
        assert {vm["state"] for vm in _members(stage)} == {"DELETED"}


def test_a_contract_that_ends_is_given_up_whatever_attempts_are_left(tmp_path: Path, bare_database_url: str) -> None:
    with staged(tmp_path, bare_database_url, cloud=_cloud(room=0)) as stage:
        submission = stage.daemon.submit(1, contract_id=_CONTRACT, policy={"retry": _HURRY})
        until(lambda: _off_contract(stage) == 1, "it is off its contract")
        stage.simulator.query(f"contracts/{_CONTRACT}", {"end_date": "2021-01-01T00:00:00"})
        ended = stage.daemon.until_state(submission, "ready")
        assert any("the contract is ended" in reason for reason in ended["reasons"])
        stage.until_true()


@pytest.mark.parametrize(("policy", "state", "alive"), [("keep", "ready", 2), ("fail", "failed", 0)])
def test_a_submission_may_choose_not_to_retry(
    tmp_path: Path, bare_database_url: str, policy: str, state: str, alive: int
) -> None:
    with staged(tmp_path, bare_database_url, cloud=_cloud(room=0)) as stage:
        submission = stage.daemon.submit(2, contract_id=_CONTRACT, policy={"on_contract_error": policy})
        stage.daemon.until_state(submission, state)
        until(lambda: len(stage.simulator.alive()) == alive, f"{alive} are left")
        stage.until_true()
        assert len(stage.simulator.creates()) == 1

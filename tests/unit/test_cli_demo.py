"""The demo's judgement: strict about every difference between the record and the truth."""

from typing import Any

import pytest

from service.cli.demo_show import Glance, worth_telling
from service.lab.demo.ground_truth import differences, shortcomings


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


def test_the_vm_with_the_most_to_tell_is_chosen() -> None:
    plain, on_demand, replaced = record(), record(ref="S.2", contract_id=None), record(ref="S.3", replaces=2)
    assert worth_telling([plain, on_demand, replaced])["ref"] == "S.3"
    assert worth_telling([plain, on_demand])["ref"] == "S.2"
    assert worth_telling([record(member=False, ref="S.4"), plain])["ref"] == "S.1"


def test_a_glance_tells_how_far_it_is() -> None:
    glance = Glance(
        seconds=3.4,
        submission={"ready": 1, "count": 2, "counts": {"ACTIVE": 1, "BUILD": 1}},
        records=[record(), record(ref="S.2", assignment="on_demand"), record(ref="S.3", member=False, replaces=2)],
        stats={"deliveries_by_fate": {"sent": 3}, "callbacks_by_fault": {"lost": 1}, "calls": 5},
        act="act one",
    )
    assert dict(glance.lines()) == {
        "act": "act one",
        "seconds": "3",
        "ready": "1 of 2",
        "states": "1 ACTIVE, 1 BUILD",
        "contract": "1 assigned, 1 on demand",
        "replacements under way": "1",
        "callbacks": "3 sent",
        "done to callbacks": "1 lost",
        "calls to the provider": "5",
    }

"""From a request to its plan: how it is cut, named and recorded, and what the record could not hold."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.contract import Assignment
from service.core.planning import batched, plan, unstorable_fields
from service.core.submission import validate_submission

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
ID = UUID("0198c0de-0000-7000-8000-00000000beef")
BODY = {
    "name": "vm",
    "environment_name": "test1",
    "flavor_name": "n3-A100x1",
    "image_name": "Ubuntu",
    "key_name": "example-key",
    "count": 1,
}


def planned(**changes):
    return plan(validate_submission({**BODY, **changes}), ID, NOON)


@given(count=st.integers(1, 500))
def test_every_vm_is_in_exactly_one_creation_of_at_most_twenty(count: int) -> None:
    made = planned(count=count)
    assert [vm_no for one in made.creations for vm_no in one.vm_nos] == list(range(1, count + 1))
    assert all(1 <= len(one.vm_nos) <= 20 for one in made.creations)
    assert [vm.vm_no for vm in made.vms()] == list(range(1, count + 1))
    assert len({one.name for one in made.creations}) == len(made.creations) == -(-count // 20)
    assert all(len(f"{one.name}-20") <= 50 for one in made.creations)


def test_a_vm_is_recorded_as_asked_for() -> None:
    (vm,) = planned(assign_floating_ip=True, contract_id=41).vms()
    assert (vm.wants_address, vm.contract_id, vm.assignment) == (True, 41, Assignment.WANTED)
    assert (vm.flavor, vm.environment) == ("n3-A100x1", "test1")
    assert vm.created_at == vm.state_since == NOON


@pytest.mark.parametrize("desired_state", [None, False])
def test_without_a_contract_or_an_address_none_is_waited_for(desired_state: bool | None) -> None:
    (vm,) = planned(assign_floating_ip=desired_state).vms()
    assert (vm.wants_address, vm.contract_id, vm.assignment) == (False, None, Assignment.NONE)


def test_the_deadline_is_counted_from_the_asking() -> None:
    assert planned(policy={"deadline_seconds": 90}).deadline_at == NOON + timedelta(seconds=90)


def test_what_the_record_cannot_hold_is_named_with_its_place() -> None:
    request = validate_submission({
        **BODY,
        "contract_id": 2**31,
        "user_data": "a\0b",
        "labels": ["fine", "a\0b"],
        "profile": {"name": "a\0b"},
    })  # fmt: skip
    assert {mistake.field for mistake in unstorable_fields(request)} == {
        "contract_id",
        "labels.1",
        "profile.name",
        "user_data",
    }


def test_an_ordinary_request_fits() -> None:
    assert unstorable_fields(validate_submission({**BODY, "contract_id": 41, "labels": ["a"], "count": 60})) == []


@given(st.lists(st.integers(), max_size=30), st.integers(1, 7))
def test_sets_hold_everything_in_order(items: list[int], size: int) -> None:
    sets = list(batched(items, size))
    assert [item for one in sets for item in one] == items
    assert all(1 <= len(one) <= size for one in sets)

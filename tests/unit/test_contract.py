"""Contracts: what room one has, and the next step for a VM that is not on it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.contract import Retrying, Room, Shortfall, Step, decide, room_for
from service.core.lifecycle import ALLOWED, Operation, VmState
from service.core.observation import Contract, Discount
from service.core.submission import ContractRetry

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
A100 = "A100-80G-PCIe"


def contract(*lines, **changes):
    return Contract(contract_id=41, discounts=tuple(lines), **changes)


def line(remaining, model=A100, count=64):
    return Discount(resource_name=model, resource_count=count, remaining_count=remaining)


def room(found, model=A100, gpus=1):
    return room_for(found, gpu_model=model, gpu_count=gpus, now=NOON)


@pytest.mark.parametrize(
    ("found", "model", "gpus", "expected"),
    [
        (None, A100, 1, Room(0, Shortfall.MISSING)),
        (contract(line(8), end_date=NOON), A100, 1, Room(0, Shortfall.ENDED)),
        (contract(line(8), end_date=NOON - timedelta(days=1)), A100, 1, Room(0, Shortfall.ENDED)),
        (contract(line(8), end_date=NOON + timedelta(seconds=1)), A100, 1, Room(8)),
        (contract(line(8), status="expired"), A100, 1, Room(0, Shortfall.ENDED)),
        (contract(line(8), status="Terminated"), A100, 1, Room(0, Shortfall.ENDED)),
        (contract(line(8), status="active"), A100, 1, Room(8)),
        (contract(line(8), status="a word nobody knows"), A100, 1, Room(8)),
        (contract(line(8, "H100-80G-PCIe")), A100, 1, Room(0, Shortfall.MISMATCHED)),
        (contract(line(8, None)), A100, 1, Room(0, Shortfall.MISMATCHED)),
        (contract(line(8, A100.lower())), A100, 1, Room(8)),
        (contract(line(8, "H100-80G-PCIe"), line(3)), A100, 1, Room(3)),
        (contract(line(3), line(4)), A100, 1, Room(7)),
        (contract(line(0)), A100, 1, Room(0, Shortfall.INSUFFICIENT)),
        (contract(line(-3)), A100, 1, Room(0, Shortfall.INSUFFICIENT)),
        (contract(line(7)), A100, 4, Room(1)),
        (contract(line(3)), A100, 4, Room(0, Shortfall.INSUFFICIENT)),
        (contract(line(7)), A100, None, Room(7)),
        (contract(line(7)), A100, 0, Room(7)),
        (contract(line(None)), A100, 1, Room(None)),
        (contract(line(None), line(2)), A100, 1, Room(2)),
        (contract(), A100, 1, Room(None)),
        (contract(line(7)), None, 1, Room(None)),
        (contract(line(7)), "", 1, Room(None)),
    ],
)
def test_the_room_of_a_contract(found, model, gpus, expected):
    assert room(found, model, gpus) == expected


@given(st.lists(st.none() | st.integers(-5, 100), max_size=4), st.none() | st.integers(0, 8))
def test_there_is_never_more_room_than_gpus_are_left(left, gpus):
    found = room(contract(*map(line, left)), gpus=gpus)
    if found.vms is not None:
        assert found.vms * max(gpus or 1, 1) <= max(0, sum(one for one in left if one is not None))
        assert (found.vms == 0) == (found.shortfall is not None)


def test_only_want_of_room_is_worth_waiting_for():
    assert {one for one in Shortfall if not one.permanent} == {Shortfall.INSUFFICIENT, Shortfall.NOT_BEGUN}


# The steps, in the order in which the rules apply.

VM = Retrying(
    state=VmState.ACTIVE, attempts=2, since=NOON - timedelta(minutes=5), active_at=NOON - timedelta(minutes=4)
)
ROOM = Room(5)
POLICY = ContractRetry(attempts=20, deadline_seconds=3600, replace_grace_seconds=600)


def step(vm=VM, found=ROOM, policy=POLICY, *, can_reassign=False, **changes):
    return decide(replace(vm, **changes), found, policy, can_reassign=can_reassign, now=NOON).step


@pytest.mark.parametrize("shortfall", [one for one in Shortfall if one.permanent])
@pytest.mark.parametrize("can_reassign", [True, False])
def test_what_can_never_work_is_given_up_at_once(shortfall, can_reassign):
    assert step(found=Room(0, shortfall), can_reassign=can_reassign, attempts=0) is Step.GIVE_UP


@pytest.mark.parametrize("found", [Room(5), Room(None), Room(0, Shortfall.INSUFFICIENT)])
def test_what_has_run_out_is_given_up_whether_or_not_there_is_room(found):
    assert step(found=found, attempts=19) is not Step.GIVE_UP
    assert step(found=found, attempts=20) is Step.GIVE_UP
    assert step(found=found, since=NOON - timedelta(seconds=3599)) is not Step.GIVE_UP
    assert step(found=found, since=NOON - timedelta(seconds=3600)) is Step.GIVE_UP


@pytest.mark.parametrize("can_reassign", [True, False])
def test_want_of_room_is_waited_for(can_reassign):
    assert step(found=Room(0, Shortfall.INSUFFICIENT), can_reassign=can_reassign) is Step.WAIT


@pytest.mark.parametrize("found", [Room(5), Room(None)])
@pytest.mark.parametrize(
    ("means", "can_reassign", "expected"),
    [
        ("auto", True, Step.REASSIGN),
        ("auto", False, Step.REPLACE),
        ("reassign", True, Step.REASSIGN),
        ("reassign", False, Step.GIVE_UP),
        ("replace", True, Step.REPLACE),
        ("replace", False, Step.REPLACE),
    ],
)
def test_with_room_known_or_not_the_means_of_the_policy_are_used(found, means, can_reassign, expected):
    policy = POLICY.model_copy(update={"means": means})
    assert step(found=found, policy=policy, can_reassign=can_reassign) is expected


@pytest.mark.parametrize("state", list(VmState))
def test_a_vm_is_reassigned_only_in_a_state_that_allows_it(state):
    expected = Step.REASSIGN if Operation.ASSIGN in ALLOWED[state] else Step.WAIT
    assert step(state=state, can_reassign=True) is expected


def test_a_vm_that_has_been_active_for_longer_than_the_grace_is_never_replaced():
    assert step(active_at=NOON - timedelta(seconds=600)) is Step.REPLACE
    assert step(active_at=NOON - timedelta(seconds=601)) is Step.GIVE_UP
    assert step(active_at=None) is Step.REPLACE
    assert step(active_at=NOON - timedelta(days=1), can_reassign=True) is Step.REASSIGN


@given(
    st.sampled_from(VmState),
    st.integers(0, 30),
    st.sampled_from([Room(None), Room(3), *(Room(0, one) for one in Shortfall)]),
    st.sampled_from(["auto", "reassign", "replace"]),
    st.booleans(),
)
def test_every_decision_says_why(state, attempts, found, means, can_reassign):
    vm = replace(VM, state=state, attempts=attempts)
    policy = POLICY.model_copy(update={"means": means})
    assert decide(vm, found, policy, can_reassign=can_reassign, now=NOON).reason

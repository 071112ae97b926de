"""When the provider is asked next, and whom its answers concern."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.contract import Assignment
from service.core.lifecycle import ENDED, TRANSIENT, VmState
from service.core.refresh import (
    RefreshInputs,
    RefreshPolicy,
    adopt,
    is_ready,
    learned_overdue,
    next_refresh,
    worth_a_list,
)

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
PACE = RefreshPolicy(overdue=120, again=10, resync=600)
S = VmState


def wait(state, *, ready=False, assignment=Assignment.NONE, tries=0, refresh_now=False, refresh_policy=PACE):
    standing = RefreshInputs(state=state, ready=ready, assignment=assignment, tries=tries)
    due = next_refresh(standing, now=NOON, refresh_policy=refresh_policy, refresh_now=refresh_now)
    return None if due is None else (due - NOON).total_seconds()


@pytest.mark.parametrize("refresh_now", [True, False])
@pytest.mark.parametrize("state", sorted(ENDED | {S.REQUESTED}))
def test_what_has_ended_or_was_not_sent_is_not_read(state, refresh_now):
    assert wait(state, refresh_now=refresh_now) is None


@pytest.mark.parametrize("state", sorted(set(VmState) - ENDED - {S.REQUESTED}))
def test_a_question_is_asked_at_once_and_then_less_and_less_often(state):
    assert [wait(state, refresh_now=True, tries=tries) for tries in (0, 1, 2, 3, 4, 9, 10_000)] == [
        0,
        20,
        40,
        80,
        120,
        120,
        120,
    ]


@pytest.mark.parametrize("state", sorted(TRANSIENT))
def test_a_passing_state_is_read_when_it_is_overdue(state):
    assert [wait(state, tries=tries) for tries in (0, 1, 2, 5)] == [120, 20, 40, 120]


def test_a_vm_that_is_active_and_not_ready_is_read_soon():
    assert wait(S.ACTIVE) == 10
    assert wait(S.ACTIVE, assignment=Assignment.WANTED, tries=2) == 40


@pytest.mark.parametrize(
    ("state", "ready", "assignment"),
    [
        (S.ACTIVE, True, Assignment.NONE),
        (S.ACTIVE, False, Assignment.RETRYING),
        (S.SHUTOFF, False, Assignment.NONE),
        (S.HIBERNATED, False, Assignment.NONE),
        (S.ERROR, False, Assignment.NONE),
    ],
)
def test_what_rests_is_read_with_the_slow_sweep(state, ready, assignment):
    assert wait(state, ready=ready, assignment=assignment, tries=3) == 600


def test_a_lost_vm_is_read_ever_more_rarely_and_at_least_once_a_day():
    waits = [wait(S.LOST, tries=tries) for tries in (0, 1, 2, 3, 9, 10_000)]
    assert waits == [600, 1200, 2400, 4800, 86_400, 86_400]


@given(
    st.sampled_from(sorted(set(VmState) - ENDED - {S.REQUESTED})),
    st.booleans(),
    st.sampled_from(Assignment),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_nothing_that_lives_is_without_a_next_reading(state, ready, assignment, tries, refresh_now):
    # river #1258 (field-notes.md section 1): 5,133 jobs stuck for up to 91 days.
    seconds = wait(state, ready=ready, assignment=assignment, tries=tries, refresh_now=refresh_now)
    assert seconds is not None
    assert 0 <= seconds <= (86_400 if state is S.LOST else PACE.resync)


def test_impatience_beyond_being_overdue_does_not_end_in_haste():
    assert wait(S.BUILD, refresh_now=True, tries=5, refresh_policy=RefreshPolicy(overdue=1, again=10, resync=600)) == 10


@pytest.mark.parametrize(
    ("due", "fleet", "listed"),
    [(0, 0, False), (1, 1, False), (2, 1, True), (2, 100, True), (2, 101, False), (2, 200, False), (3, 200, True), (50, 5000, False), (51, 5000, True)],
)  # fmt: skip
def test_a_list_is_read_where_it_costs_fewer_calls(due, fleet, listed):
    assert worth_a_list(due, fleet, page_size=100) is listed


@pytest.mark.parametrize("assignment", list(Assignment))
@pytest.mark.parametrize("address", [None, "203.0.113.9"])
@pytest.mark.parametrize("wants", [True, False])
@pytest.mark.parametrize("state", list(VmState))
def test_ready_means_active_reachable_as_asked_and_settled(state, wants, address, assignment):
    settled = assignment not in {Assignment.WANTED, Assignment.RETRYING}
    expected = state is S.ACTIVE and settled and (not wants or address is not None)
    assert is_ready(state, wants_address=wants, address=address, assignment=assignment) is expected


def test_found_vms_are_bound_in_order_and_only_once():
    found = adopt([3, 1, 2], [20, 10, 20], window_over=False)
    assert found.bind == {1: 10, 2: 20}
    assert found.extra == ()
    assert not found.complete


def test_as_many_as_were_asked_for_settle_it_and_more_are_extra():
    assert adopt([1], [10], window_over=False).complete
    found = adopt([1], [12, 10, 11], window_over=False)
    assert (found.bind, found.extra, found.complete) == ({1: 10}, (11, 12), True)


def test_fewer_settle_it_only_when_the_quiet_time_is_over():
    # skypilot #4431 (field-notes.md section 1): the list lags behind creates.
    assert not adopt([1, 2], [10], window_over=False).complete
    assert adopt([1, 2], [10], window_over=True).complete
    assert not adopt([1], [], window_over=False).complete
    assert adopt([1], [], window_over=True).complete


@given(st.lists(st.integers(1, 50), unique=True, max_size=20), st.lists(st.integers(1, 40), max_size=30), st.booleans())
def test_every_vm_found_is_either_bound_or_extra(open_vms, found, window_over):
    outcome = adopt(open_vms, found, window_over=window_over)
    assert sorted([*outcome.bind.values(), *outcome.extra]) == sorted(set(found))
    assert set(outcome.bind) <= set(open_vms)
    assert len(outcome.bind) == min(len(open_vms), len(set(found)))


def test_a_newborn_vm_is_overdue_when_its_like_would_have_been_active():
    # karpenter #2920 (field-notes.md section 1): a fixed deadline raced a slow boot.
    refresh_policy = RefreshPolicy(overdue=120, again=10, resync=600, learned={("n3-A100x1", "CANADA-1"): 45.0})

    def patience(state, region):
        vm = RefreshInputs(state=state, ready=False, assignment=Assignment.NONE, flavor="n3-A100x1", region=region)
        return (next_refresh(vm, now=NOON, refresh_policy=refresh_policy, refresh_now=False) - NOON).total_seconds()

    assert patience(S.BUILD, "CANADA-1") == 45
    assert patience(S.BUILD, "NORWAY-1") == 120
    assert patience(S.STOPPING, "CANADA-1") == 120


@given(st.floats(0, 1e6))
def test_what_was_learned_is_neither_jumpy_nor_endless(p95):
    assert PACE.again <= learned_overdue(p95, PACE) <= PACE.resync

"""A VM's record under evidence of every kind: what may move it, what may not, and what it is at the end."""

import dataclasses
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from service.core.contract import Assignment
from service.core.event import Callback, parse
from service.core.evidence import apply_absence, apply_callback, apply_observation, end, with_readiness
from service.core.lifecycle import ENDED, EXPECTED, EvidenceKind, VerdictKind, VmState
from service.core.observation import Observation
from service.core.refresh import RefreshPolicy
from service.core.submission import Policy
from service.core.vm import Change, Provenance, Vm, replacement_for, request_deletion

S = VmState
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
PACE = RefreshPolicy(overdue=120, again=10, resync=600)
NEWBORN = timedelta(seconds=60)
ID = 507279
SUBMISSION = UUID("0198c0de-0000-7000-8000-00000000beef")

OWN = {S.REQUESTED, S.REFUSED, S.CANCELLED, S.LOST}
FAMILIES = ("createVM", "createInstance", "InstanceCreationSuccess")


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def record(**changes: Any) -> Vm:
    """A VM of which the provider was asked at noon and that it accepted then."""
    fields = {
        "submission_id": SUBMISSION,
        "vm_no": 1,
        "creation_no": 1,
        "provider_id": ID,
        "state": S.CREATING,
        "state_since": NOON,
        "seq": 1,
        "flavor": "n3-A100x1",
        "environment": "test1",
        "created_at": NOON,
        "bound_at": NOON,
        "next_refresh_at": at(120),
    }
    return Vm(**(fields | changes))


def by(kind: EvidenceKind, seconds: float, now: float | None = None) -> Provenance:
    return Provenance(kind=kind, at=at(seconds), now=at(seconds if now is None else now))


def told(vm: Vm, status: str | None, seconds: float, *, now: float | None = None, **data: Any) -> Change:
    """What a callback does that says `status`."""
    body = {"resource": {"id": ID}, "operation": {"name": "createVM"}, "data": {"status": status, **data}}
    callback = parse(json.dumps(body).encode())
    assert isinstance(callback, Callback)
    return apply_callback(vm, callback, by(EvidenceKind.EVENT, seconds, now), PACE)


def shown(
    vm: Vm, status: str | None, seconds: float, *, now: float | None = None, policy: Policy | None = None,
    refused: str = "", kind: EvidenceKind = EvidenceKind.OBSERVATION, **fields: Any,
) -> Change:  # fmt: skip
    """What a reading does that shows `status`."""
    seen = Observation(provider_id=ID, status=status, **fields)
    return apply_observation(vm, seen, by(kind, seconds, now), PACE, policy or Policy(), refused_contract=refused)


def missed(vm: Vm, seconds: float, *, now: float | None = None) -> Change:
    return apply_absence(vm, by(EvidenceKind.OBSERVATION, seconds, now), PACE, newborn_for=NEWBORN)


# The property: whatever becomes of a VM's true callbacks, one reading at the end makes the record true.


@dataclass(frozen=True)
class Happening:
    """One thing that reaches us: heard or read at `seconds`, and applied at `now`."""

    now: float
    seconds: float
    body: bytes | None = None  # a callback; a reading otherwise
    truth: VmState | None = None  # what a reading showed
    visible: bool = False  # whether a deleted VM can still be read


@dataclass(frozen=True)
class Life:
    """What really became of a VM: (second, state), and everything that reached us of it, as it was applied."""

    truth: tuple[tuple[float, VmState], ...]
    happenings: tuple[Happening, ...]

    def at(self, seconds: float) -> VmState:
        return [state for since, state in self.truth if since <= seconds][-1]


@st.composite
def true_histories(draw: st.DrawFn) -> tuple[tuple[float, VmState], ...]:
    """A way along EXPECTED, as the provider goes it."""
    way, since = [(0.0, S.CREATING)], 0.0
    for _ in range(draw(st.integers(0, 8))):
        following = sorted(EXPECTED[way[-1][1]] - OWN)
        if not following:
            break
        since += draw(st.floats(0.1, 200))
        way.append((since, draw(st.sampled_from(following))))
    return tuple(way)


def said(state: VmState, draw: st.DrawFn) -> bytes:
    """A callback that says where the VM is, in one of the shapes that were seen."""
    status = draw(st.sampled_from([state.value, state.value.lower()]))
    shape = draw(st.sampled_from(["both", "data", "operation", "null", "nothing"]))
    operation = {"name": draw(st.sampled_from(FAMILIES)), "status": status if shape in {"both", "operation"} else None}
    content: dict[str, Any] = {"resource": {"id": draw(st.sampled_from([ID, str(ID)]))}, "operation": operation}
    if shape in {"both", "data"}:
        content["data"] = {"status": status, "floating_ip": draw(st.sampled_from(["", "203.0.113.9"]))}
    if shape == "null":
        content["data"] = {"status": None}
    return json.dumps(content).encode()


NOISE = (
    b'{"resource": {"id": 507279}, "operation": {"name": "deleteVM", "status": "SUCCESS"}}',  # forged
    b'{"resource": {"id": 507279}, "operation": {"name": "deleteInstances", "status": "DELETING"}}',  # forged
    b'{"resource": {"id": 507279}, "data": {"status": "SHELVED_OFFLOADED"}}',  # a word nobody knows
    b'{"resource": {"id": 507279}, "operation": {"name": "AttachVolumeToInstanceFailed", "status": "DELETED"}}',
    b'{"resource": {"id": 507279}, "operation": {"name": "AttachFloatingIPToInstanceSuccess", "status": "ATTACHED"}}',
    b'{"resource": {"id": 507279}}',
)


@st.composite
def lives(draw: st.DrawFn) -> Life:
    life = Life(draw(true_histories()), ())
    delays = st.floats(0.01, 400)
    happenings = []
    for since, state in life.truth:
        for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3]))):  # lost, heard, repeated
            heard = since + draw(delays)
            happenings.append(Happening(heard + draw(delays), heard, said(state, draw)))
    for body in draw(st.lists(st.sampled_from(NOISE), max_size=3)):
        heard = draw(st.floats(0.1, 1500))
        happenings.append(Happening(heard + draw(delays), heard, body))
    for _ in range(draw(st.integers(0, 4))):
        began = draw(st.floats(0.1, 1500))
        ended = began + draw(delays)
        answered = draw(st.floats(began, ended))
        visible = draw(st.booleans())
        happenings.append(Happening(ended, began, truth=life.at(answered), visible=visible))
    return dataclasses.replace(life, happenings=tuple(sorted(happenings, key=lambda one: one.now)))


def apply(vm: Vm, one: Happening) -> Change:
    if one.body is not None:
        callback = parse(one.body)
        assert isinstance(callback, Callback)
        return apply_callback(vm, callback, by(EvidenceKind.EVENT, one.seconds, one.now), PACE)
    if one.truth is S.DELETED and not one.visible:
        return missed(vm, one.seconds, now=one.now)
    assert one.truth is not None
    return shown(vm, one.truth.value, one.seconds, now=one.now)


def check_step(before: Vm, change: Change, one: Happening) -> None:
    after, row = change.vm, change.transition
    if row is None:
        assert after.state is before.state
        assert after.seq == before.seq
    else:
        assert (row.seq, row.from_state, row.to_state) == (before.seq + 1, before.state, after.state)
        assert (row.verdict is VerdictKind.MOVED) == (row.from_state is not row.to_state)
        assert after.seq == row.seq
    if one.body is not None and after.state is not before.state:
        assert after.state in EXPECTED[before.state]
        assert after.state not in ENDED
    assert (after.next_refresh_at is None) == (after.ended_at is not None) == (after.state in ENDED)
    assert after.next_refresh_at is None or after.next_refresh_at <= at(
        one.now + (86_400 if after.state is S.LOST else PACE.resync)
    )
    assert before.observed_at is None or (after.observed_at is not None and after.observed_at >= before.observed_at)
    assert not after.ready or after.state is S.ACTIVE


@settings(deadline=None, max_examples=300)
@given(lives())
def test_after_any_order_loss_and_repetition_of_true_callbacks_one_reading_makes_the_record_true(life):
    vm = shown(record(state=S.REQUESTED, seq=0, next_refresh_at=None), "CREATING", 0, kind=EvidenceKind.ANSWER).vm
    for one in life.happenings:
        change = apply(vm, one)
        check_step(vm, change, one)
        vm = change.vm
    last = max([one.now for one in life.happenings] + [life.truth[-1][0]]) + NEWBORN.total_seconds() + 1
    truth = life.truth[-1][1]
    final = Happening(last, last, truth=truth)
    change = apply(vm, final)
    check_step(vm, change, final)
    if truth is S.DELETED:
        # Whether its end was foretold is all that tells the one from the other.
        assert change.vm.state is (
            S.DELETED if vm.deletion_announced or vm.state in {S.DELETING, S.DELETED} else S.LOST
        )
    else:
        assert change.vm.state is truth


@settings(deadline=None, max_examples=150)
@given(lives())
def test_the_same_evidence_applied_again_adds_no_move(life):
    # Events may be applied twice after a crash (the spool delivers again); what is known must not run in circles.
    for one in life.happenings:
        vm = record(state=life.at(one.seconds) if life.at(one.seconds) not in ENDED else S.ACTIVE)
        once = apply(vm, one)
        again = apply(once.vm, one)
        assert again.verdict is not VerdictKind.MOVED
        assert again.vm.state is once.vm.state


# Callbacks.


@pytest.mark.parametrize("state", sorted(set(VmState) - ENDED - {S.REQUESTED}))
def test_a_forged_deletion_never_ends_a_vm_and_is_asked_about_at_once(state):
    change = told(record(state=state), "DELETED", 50)
    assert (change.vm.state, change.vm.ended_at) == (state, None)
    assert change.vm.next_refresh_at == at(50)
    assert change.transition is not None
    assert change.transition.verdict is VerdictKind.UNEXPECTED


def test_a_forged_deletion_is_disproved_by_a_reading():
    forged = told(record(state=S.ACTIVE), "DELETED", 50).vm
    change = shown(forged, "ACTIVE", 51)
    assert (change.vm.state, change.verdict) == (S.ACTIVE, VerdictKind.UNCHANGED)


@pytest.mark.parametrize("state", sorted(set(VmState) - ENDED - {S.REQUESTED}))
@pytest.mark.parametrize("status", ["SHELVED_OFFLOADED", "unheard of", None])
def test_unknown_statuses_move_nothing_are_kept_and_are_asked_about(state, status):
    change = told(record(state=state, provider_status="BEFORE"), status, 50)
    assert change.vm.state is state
    assert change.vm.provider_status == (status or "BEFORE")
    assert change.vm.next_refresh_at == at(50)
    assert change.transition is not None
    assert change.transition.claimed == status


def test_hearing_more_never_puts_off_a_reading_that_was_asked_for():
    surprised = told(record(state=S.ACTIVE), "DELETED", 50).vm
    for status in ("ACTIVE", "ACTIVE", "BUILD", None):
        surprised = told(surprised, status, 60).vm
        assert surprised.next_refresh_at is not None
        assert surprised.next_refresh_at <= at(50)


def test_a_callback_that_repeats_itself_for_ever_does_not_keep_us_from_asking():
    vm = record(state=S.BUILD, next_refresh_at=at(120))
    for seconds in range(10, 110, 10):
        vm = told(vm, "BUILD", seconds).vm
    assert vm.next_refresh_at == at(120)


def test_a_move_that_was_waited_for_makes_the_reading_of_the_old_state_needless():
    vm = record(state=S.BUILD, next_refresh_at=at(120))
    assert told(vm, "ACTIVE", 100).vm.next_refresh_at == at(100 + PACE.resync)


def test_an_address_event_is_looked_into_only_where_an_address_is_waited_for():
    body = b'{"resource": {"id": 507279}, "operation": {"name": "attachFloatingIP", "status": "ATTACHED"}}'
    callback = parse(body)
    assert isinstance(callback, Callback)
    source = by(EvidenceKind.EVENT, 50)
    waiting = apply_callback(record(state=S.ACTIVE, wants_address=True, refresh_attempts=5), callback, source, PACE)
    assert (waiting.vm.next_refresh_at, waiting.vm.refresh_attempts) == (at(50), 0)
    for vm in (
        record(state=S.ACTIVE),
        record(state=S.ACTIVE, wants_address=True, floating_ip="203.0.113.9"),
        record(state=S.BUILD, wants_address=True),
    ):
        assert apply_callback(vm, callback, source, PACE) == Change(vm, VerdictKind.UNCHANGED)


def test_addresses_in_callbacks_are_kept_and_empty_ones_take_nothing_away():
    vm = told(record(state=S.BUILD), "ACTIVE", 50, floating_ip="203.0.113.9", fixed_ip="10.0.0.2").vm
    assert (vm.floating_ip, vm.fixed_ip) == ("203.0.113.9", "10.0.0.2")
    vm = told(vm, "ACTIVE", 60, floating_ip="", fixed_ip=None).vm
    assert (vm.floating_ip, vm.fixed_ip) == ("203.0.113.9", "10.0.0.2")


# Readings.


def test_an_older_reading_does_not_take_away_what_a_newer_one_showed():
    # Two daemons may read at once, and the slower of them may have begun first.
    vm = record(state=S.ACTIVE, contract_id=41, assignment=Assignment.WANTED)
    newer = shown(vm, "ACTIVE", 100, floating_ip="203.0.113.9", contract_id=41).vm
    older = shown(newer, "ACTIVE", 99, now=101)
    assert (older.verdict, older.note) == (VerdictKind.STALE, None)
    assert (older.vm.floating_ip, older.vm.assignment) == ("203.0.113.9", Assignment.ASSIGNED)
    assert older.vm.observed_at == at(100)


@pytest.mark.parametrize("state", sorted(set(VmState) - OWN - {S.BUILD}))
def test_a_stale_reading_never_moves_back(state):
    # river #1302 (field-notes.md section 1): a rescuer overwrote what was known with a stale snapshot.
    observed = record(state=state, observed_at=at(100), ended_at=at(100) if state in ENDED else None)
    assert shown(observed, "BUILD", 99, now=110).vm.state is state
    heard = record(state=state, last_event_at=at(100), ended_at=at(100) if state in ENDED else None)
    assert shown(heard, "BUILD", 100, now=110).vm.state is state


def test_a_reading_overtaken_by_a_callback_is_repeated_at_once():
    change = shown(record(state=S.ACTIVE, last_event_at=at(100)), "BUILD", 99, now=110)
    assert (change.verdict, change.vm.next_refresh_at) == (VerdictKind.STALE, at(110))


def test_a_stale_reading_does_not_put_off_the_next_one():
    surprised = told(record(state=S.ACTIVE, observed_at=at(40)), "DELETED", 50).vm
    assert shown(surprised, "ACTIVE", 39, now=60).vm == surprised


def test_readings_that_settle_nothing_come_less_and_less_often():
    vm, waits = record(state=S.BUILD), []
    for number in range(6):
        vm = shown(vm, "BUILD", 200 + number).vm
        assert vm.next_refresh_at is not None
        waits.append((vm.next_refresh_at - at(200 + number)).total_seconds())
    assert waits == [20, 40, 80, 120, 120, 120]


def test_a_lost_vm_that_is_seen_again_is_what_the_reading_shows():
    lost = missed(record(state=S.ACTIVE), 100).vm
    assert lost.state is S.LOST
    assert lost.reason is not None
    found = shown(lost, "ACTIVE", 110).vm
    assert (found.state, found.reason) == (S.ACTIVE, None)


def test_a_newborn_that_is_not_found_proves_nothing():
    # skypilot #4431 and #4392 (field-notes.md section 1): the list lags behind creates, the VM lives.
    change = missed(record(), 59)
    assert (change.vm.state, change.verdict) == (S.CREATING, VerdictKind.UNCHANGED)
    assert change.vm.next_refresh_at == at(59 + 20)
    assert missed(record(), 60).vm.state is S.LOST


def test_a_newborn_whose_end_was_announced_is_believed_to_be_gone():
    vm = told(record(state=S.CREATING), "DELETED", 20).vm
    assert missed(vm, 30).vm.state is S.DELETED


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, S.LOST),
        ({"deletion_announced": True}, S.DELETED),
        ({"delete_attempts": 1}, S.DELETED),
        ({"state": S.DELETING}, S.DELETED),
        ({"desired_state": "deleted", "delete_due_at": NOON}, S.LOST),  # wished, and never asked for
    ],
)
def test_a_missing_vm_is_deleted_where_that_was_asked_for_or_announced(changes, state):
    change = missed(record(**({"state": S.ACTIVE} | changes)), 100)
    assert change.vm.state is state
    assert (change.vm.ended_at is not None) == (state is S.DELETED)


def test_a_vm_that_stays_missing_stays_lost_and_is_read_on():
    lost = missed(record(state=S.ACTIVE), 100).vm
    again = missed(lost, 200)
    assert (again.vm.state, again.verdict, again.transition) == (S.LOST, VerdictKind.UNCHANGED, None)
    assert again.vm.next_refresh_at == at(1400)
    assert missed(again.vm, 1400).vm.next_refresh_at == at(1400 + 2400)


@pytest.mark.parametrize("changes", [{"observed_at": at(101)}, {"state": S.DELETED, "ended_at": at(90)}])
def test_an_absence_from_before_the_latest_reading_or_after_the_end_is_stale(changes):
    vm = record(**({"state": S.ACTIVE} | changes))
    assert missed(vm, 100) == Change(vm, VerdictKind.STALE)


@pytest.mark.parametrize("state", [S.BUILD, S.ACTIVE, S.LOST, S.SHUTOFF])
def test_an_unknown_status_is_recorded_once_until_it_changes(state):
    vm, rows = record(state=state), []
    for number, status in enumerate(["ODD", "ODD", "ODD", None, "ODD", "ODDER", "ODDER", "ODD"], 1):
        change = shown(vm, status, 100 * number)
        vm, rows = change.vm, rows + ([change.transition.claimed] if change.transition else [])
    assert rows == ["ODD", "ODDER", "ODD"]


def test_a_claim_that_moves_nothing_is_recorded_once_and_refreshed_each_time():
    body = b'{"resource": {"id": 507279}, "data": {"status": "DELETED"}}'
    first = apply_callback(record(state=S.ACTIVE), parse(body), by(EvidenceKind.EVENT, 100), PACE)
    again = apply_callback(first.vm, parse(body), by(EvidenceKind.EVENT, 101), PACE)
    assert (first.verdict, again.verdict, again.transition) == (VerdictKind.UNEXPECTED, VerdictKind.UNCHANGED, None)
    assert again.vm.next_refresh_at == at(100)
    refuted = shown(again.vm, "ACTIVE", 102).vm
    assert apply_callback(refuted, parse(body), by(EvidenceKind.EVENT, 103), PACE).transition is not None


def test_the_facts_of_a_reading_are_kept():
    change = shown(
        record(state=S.BUILD), "ACTIVE", 50, name="vm-1", fixed_ip="10.0.0.2", floating_ip="203.0.113.9",
        region="CANADA-1", gpu_model="A100-80G-PCIe", gpu_count=1, contract_id=None,
    )  # fmt: skip
    vm = change.vm
    assert (vm.name, vm.region, vm.gpu_model, vm.gpu_count) == ("vm-1", "CANADA-1", "A100-80G-PCIe", 1)
    assert (vm.fixed_ip, vm.floating_ip, vm.provider_status) == ("10.0.0.2", "203.0.113.9", "ACTIVE")
    assert (vm.observed_at, vm.active_at) == (at(50), at(50))
    less = shown(vm, "ACTIVE", 60).vm
    assert (less.name, less.region, less.gpu_count, less.floating_ip) == ("vm-1", "CANADA-1", 1, None)


def test_what_a_vm_is_made_from_is_what_the_latest_answer_says_so_that_a_garbled_one_is_corrected():
    garbled = shown(record(state=S.BUILD), "BUILD", 50, flavor="ab", environment="null").vm
    assert (garbled.flavor, garbled.environment) == ("ab", "null")
    corrected = shown(garbled, "BUILD", 60, flavor="n3-A100x4", environment="test1").vm
    assert (corrected.flavor, corrected.environment) == ("n3-A100x4", "test1")
    assert shown(corrected, "BUILD", 70).vm.flavor == "n3-A100x4"


def test_the_first_time_of_being_active_is_kept():
    vm = shown(record(state=S.BUILD), "ACTIVE", 50).vm
    vm = shown(shown(vm, "STOPPING", 60).vm, "ACTIVE", 70).vm
    assert (vm.active_at, vm.state_since) == (at(50), at(70))


# Readiness.


@pytest.mark.parametrize(
    ("changes", "ready"),
    [
        ({}, True),
        ({"state": S.SHUTOFF}, False),
        ({"wants_address": True}, False),
        ({"wants_address": True, "floating_ip": "203.0.113.9"}, True),
        ({"assignment": Assignment.WANTED}, False),
        ({"assignment": Assignment.ASSIGNED}, True),
        ({"assignment": Assignment.ON_DEMAND}, True),
        ({"assignment": Assignment.RETRYING}, False),
        ({"assignment": Assignment.GIVEN_UP}, True),
        ({"desired_state": "deleted"}, False),
    ],
)
def test_ready_is_active_reachable_as_asked_its_contract_settled_and_still_wanted(changes, ready):
    vm = with_readiness(record(**({"state": S.ACTIVE} | changes)), at(50))
    assert (vm.ready, vm.ready_at) == (ready, at(50) if ready else None)


def test_the_first_time_of_being_ready_is_kept_and_being_ready_ends_being_stuck():
    vm = with_readiness(record(state=S.ACTIVE, stuck=True), at(50))
    assert not vm.stuck
    stopped = shown(vm, "SHUTOFF", 60).vm
    assert not stopped.ready
    assert shown(stopped, "ACTIVE", 70).vm.ready_at == at(50)


# Contracts.


def wanting(**changes: Any) -> Vm:
    return record(**({"contract_id": 41, "assignment": Assignment.WANTED} | changes))


def test_a_vm_that_is_shown_on_its_contract_is_assigned():
    change = shown(wanting(), "CREATING", 10, contract_id=41)
    assert (change.vm.assignment, change.vm.observed_contract_id) == (Assignment.ASSIGNED, 41)
    assert change.note is not None
    assert (change.note.outcome, change.note.step) == ("assigned", "create")
    assert shown(change.vm, "CREATING", 11, contract_id=41).note is None


@pytest.mark.parametrize("status", ["CREATING", "BUILD", "WHATEVER", None])
def test_a_newborn_may_yet_be_assigned(status):
    change = shown(wanting(), status, 10)
    assert (change.vm.assignment, change.note) == (Assignment.WANTED, None)


@pytest.mark.parametrize(("status", "refused"), [("CREATING", "Contract with ID: 41 not found."), ("ACTIVE", "")])
@pytest.mark.parametrize("other", [None, 42])
def test_a_refusal_or_running_without_the_contract_is_the_lack_of_it(status, refused, other):
    change = shown(wanting(), status, 10, refused=refused, contract_id=other)
    assert change.vm.assignment is Assignment.RETRYING
    assert change.vm.on_demand_since == at(10)
    assert change.note is not None
    assert (change.note.outcome, change.note.reason) == ("on_demand", refused or "the provider shows no contract")


def test_retrying_is_due_after_the_first_wait():
    policy = Policy.model_validate({"retry": {"first_wait_seconds": 7}})
    change = shown(wanting(), "ACTIVE", 10, policy=policy)
    assert change.vm.contract_due_at == at(17)
    assert change.note is not None
    assert change.note.next_at == at(17)
    assert not change.vm.ready


def test_keeping_it_on_demand_settles_it():
    vm = shown(wanting(), "ACTIVE", 10, policy=Policy(on_contract_error="keep")).vm
    assert (vm.assignment, vm.contract_due_at, vm.ready) == (Assignment.ON_DEMAND, None, True)


def test_failing_wishes_the_vm_away_and_says_why():
    vm = shown(wanting(), "ACTIVE", 10, policy=Policy(on_contract_error="fail"), refused="no such contract").vm
    assert (vm.assignment, vm.desired_state, vm.delete_due_at) == (Assignment.ON_DEMAND, "deleted", at(10))
    assert vm.reason == "not on its contract: no such contract"
    assert not vm.ready


def test_a_substitute_that_is_not_on_the_contract_either_is_not_retried():
    old = wanting(vm_no=1, contract_attempts=3)
    new = replace(replacement_for(old, vm_no=2, creation_no=2, member=False, now=NOON), provider_id=ID, bound_at=NOON)
    assert (new.assignment, new.contract_attempts, new.replaces, new.member) == (Assignment.WANTED, 3, 1, False)
    vm = shown(new, "ACTIVE", 10).vm
    assert (vm.assignment, vm.contract_due_at) == (Assignment.ON_DEMAND, None)


def test_a_vm_without_a_contract_or_wished_away_is_not_compared():
    assert shown(record(), "ACTIVE", 10, contract_id=7).vm.assignment is Assignment.NONE
    gone = request_deletion(wanting(), "not needed", NOON)
    assert shown(gone, "ACTIVE", 10).vm.assignment is Assignment.WANTED


@pytest.mark.parametrize("assignment", [Assignment.ON_DEMAND, Assignment.RETRYING, Assignment.GIVEN_UP])
def test_a_vm_that_is_seen_on_its_contract_at_last_is_assigned_and_its_time_on_demand_is_counted(assignment):
    due = at(99) if assignment is Assignment.RETRYING else None
    vm = wanting(
        state=S.ACTIVE, assignment=assignment, on_demand_since=NOON, on_demand_seconds=5.0, contract_due_at=due
    )
    after = shown(vm, "ACTIVE", 50, now=60, contract_id=41).vm
    assert (after.assignment, after.contract_due_at) == (Assignment.ASSIGNED, None)
    assert (after.on_demand_since, after.on_demand_seconds) == (None, 65.0)
    assert after.ready


def test_a_vm_that_falls_off_its_contract_is_retried_and_its_time_counts_from_then():
    vm = wanting(state=S.ACTIVE, assignment=Assignment.ASSIGNED, on_demand_seconds=5.0)
    after = shown(vm, "ACTIVE", 50).vm
    assert (after.assignment, after.on_demand_since, after.on_demand_seconds) == (Assignment.RETRYING, at(50), 5.0)


def test_the_time_on_demand_ends_with_the_vm():
    vm = wanting(state=S.DELETING, assignment=Assignment.ON_DEMAND, on_demand_since=NOON, deletion_announced=True)
    gone = missed(vm, 100).vm
    assert (gone.state, gone.on_demand_since, gone.on_demand_seconds) == (S.DELETED, None, 100.0)


# What others did.


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("STOPPING", "stopped by somebody else: Rollcall did not request it"),
        ("SHUTOFF", "stopped by somebody else: Rollcall did not request it"),
        ("HIBERNATED", "hibernated by somebody else: Rollcall did not request it"),
        ("DELETING", "deleted by somebody else: Rollcall did not request it"),
    ],
)
def test_what_others_do_to_a_vm_is_said_until_it_is_active_again(status, reason):
    vm = shown(record(state=S.ACTIVE), status, 50).vm
    assert vm.reason == reason
    assert shown(vm, "REBOOTING", 60).vm.reason == reason
    assert shown(vm, "ACTIVE", 70).vm.reason is None


@pytest.mark.parametrize("changes", [{"desired_state": "deleted", "delete_due_at": NOON}, {"delete_attempts": 1}])
def test_our_own_deletion_is_not_said_to_be_anybody_elses(changes):
    vm = shown(record(state=S.ACTIVE, reason="not needed", **changes), "DELETING", 50).vm
    assert (vm.reason, missed(vm, 100).vm.reason) == ("not needed", "not needed")


def test_another_reason_outlasts_being_active():
    assert shown(record(state=S.BUILD, reason="slow"), "ACTIVE", 50).vm.reason == "slow"


# Wishes and our own ends.


def test_a_wish_that_a_vm_be_gone_is_due_at_once_and_takes_it_off_its_contract():
    vm = wanting(state=S.ACTIVE, assignment=Assignment.RETRYING, contract_due_at=at(9), ready=True)
    wished = request_deletion(vm, "not needed", at(10))
    assert (wished.desired_state, wished.deletion_reason, wished.delete_due_at, wished.ready) == (
        "deleted",
        "not needed",
        at(10),
        False,
    )
    assert (wished.assignment, wished.contract_due_at) == (Assignment.ON_DEMAND, None)


def test_a_wish_is_made_once_and_not_for_what_has_ended():
    wished = request_deletion(record(), "first", NOON)
    assert request_deletion(wished, "second", at(10)) is wished
    ended = record(state=S.DELETED, ended_at=NOON)
    assert request_deletion(ended, "again", at(10)) is ended


@pytest.mark.parametrize("state", [S.REFUSED, S.CANCELLED])
def test_what_was_never_made_ends_with_a_reason_and_asks_for_nothing_more(state):
    vm = record(
        state=S.REQUESTED, provider_id=None, bound_at=None, seq=0, next_refresh_at=None, desired_state="deleted",
        delete_due_at=NOON, lease_token=SUBMISSION, lease_until=NOON, stuck=True,
    )  # fmt: skip
    change = end(vm, state, by(EvidenceKind.DECISION, 10), PACE, "no such flavor")
    after = change.vm
    assert (after.state, after.ended_at, after.reason, after.seq) == (state, at(10), "no such flavor", 1)
    assert (after.delete_due_at, after.lease_token, after.lease_until, after.next_refresh_at) == (None,) * 4
    assert not after.stuck
    assert change.transition is not None
    assert (change.transition.from_state, change.transition.to_state) == (S.REQUESTED, state)


def test_a_substitute_asks_for_what_the_old_one_was_and_nothing_more():
    old = record(
        state=S.ERROR, wants_address=True, region="CANADA-1", gpu_model="A100", gpu_count=1, floating_ip="1.2.3.4"
    )
    new = replacement_for(old, vm_no=9, creation_no=3, member=True, now=at(10))
    assert (new.ref, new.creation_no, new.state) == ((SUBMISSION, 9), 3, S.REQUESTED)
    assert (new.flavor, new.environment, new.region, new.gpu_model) == ("n3-A100x1", "test1", "CANADA-1", "A100")
    assert (new.wants_address, new.floating_ip, new.provider_id) == (True, None, None)
    assert (new.assignment, new.member, new.replaces, new.created_at) == (Assignment.NONE, True, 1, at(10))

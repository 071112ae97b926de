"""The contract machine as a whole: any history of room, refusals, deletions, drift and ends, on a model of the provider."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.core.assignment import MOVES, AssignmentEvent, Succession, may_replace, moved, succession
from service.core.contract import Assignment, Retrying, Step, wait_for_room
from service.core.contract_queue import InQueue, share_out
from service.core.lifecycle import VmState
from service.core.observation import Contract, Discount
from service.core.submission import ContractRetry

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
GPU = "A100"


def contract(left: int, *, in_all: int = 64, over: bool = False) -> Contract:
    line = Discount(resource_name=GPU, resource_count=in_all, remaining_count=left)
    return Contract(contract_id=41, discounts=(line,), end_date=NOON if over else None)


def queued(number: int, *, since: datetime = NOON, gpus: int = 1, submission: int = 1, **retry: object) -> InQueue:
    vm = Retrying(state=VmState.ACTIVE, attempts=0, since=since, active_at=None)
    policy = ContractRetry.model_validate({"attempts": 100, "max_replacing": 100, **retry})
    return InQueue(ref=(UUID(int=submission), number), vm=vm, gpu_model=GPU, gpu_count=gpus, retry=policy)


def steps(queue: list[InQueue], left: int, **changes: object) -> dict[int, Step]:
    options = {"promised": {}, "replacing": {}, "can_reassign": False, "now": NOON, **changes}
    return {turn.queued.ref[1]: turn.decision.step for turn in share_out(queue, contract(left), **options)}


def test_nothing_is_left_by_an_event_that_its_state_does_not_list():
    for state in Assignment:
        for event in AssignmentEvent:
            assert moved(state, event) is MOVES[state].get(event, state)


def test_a_vm_that_asked_for_no_contract_never_has_one():
    assert MOVES[Assignment.NONE] == {}


def test_whoever_waits_longest_is_first_whatever_the_order_of_the_claim():
    queue = [queued(3), queued(2, since=NOON - timedelta(minutes=1)), queued(1)]
    assert steps(queue, 2) == {2: Step.REPLACE, 1: Step.REPLACE, 3: Step.WAIT}


def test_a_large_vm_keeps_its_turn_and_is_not_starved_by_small_ones_behind_it():
    queue = [queued(1, since=NOON - timedelta(minutes=1), gpus=8), queued(2)]
    assert steps(queue, 4) == {1: Step.WAIT, 2: Step.WAIT}
    assert steps(queue, 9) == {1: Step.REPLACE, 2: Step.REPLACE}


def test_a_vm_that_the_contract_is_too_small_for_in_all_holds_nobody_up():
    assert steps([queued(1, since=NOON - timedelta(minutes=1), gpus=80), queued(2)], 4)[2] is Step.REPLACE


def test_promised_room_is_not_given_away_twice_and_is_counted_in_gpus():
    queue = [queued(number) for number in range(5)]
    assert list(steps(queue, 4, promised={GPU.lower(): 1, None: 1, "H100": 9}).values()).count(Step.REPLACE) == 2


def test_no_more_are_replaced_at_once_than_the_policy_says_and_others_get_the_room():
    queue = [queued(number, since=NOON - timedelta(minutes=9), max_replacing=2) for number in (1, 2, 3)]
    queue += [queued(4, submission=2)]
    assert steps(queue, 9) == {1: Step.REPLACE, 2: Step.REPLACE, 3: Step.WAIT, 4: Step.REPLACE}
    assert steps(queue, 9, replacing={UUID(int=1): 2})[1] is Step.WAIT


@given(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True))
def test_the_wait_for_room_grows_with_the_time_waited_and_has_a_cap_and_a_floor(waited, jitter):
    policy = ContractRetry(first_wait_seconds=30, max_wait_seconds=900)
    wait = wait_for_room(NOON - timedelta(seconds=waited), policy, jitter, NOON).total_seconds()
    assert 1 <= wait <= min(900, max(30, waited))


@pytest.mark.parametrize(
    ("on_contract", "failed", "active", "expected"),
    [
        (True, False, 600, Succession.TAKE_OVER),
        (True, False, None, Succession.TAKE_OVER),
        (True, False, 601, Succession.KEEP_OLD),
        (False, False, 0, Succession.WAIT),
        (False, True, 0, Succession.TRY_AGAIN),
        (True, True, 0, Succession.TRY_AGAIN),
    ],
)
def test_which_of_two_vms_stays(on_contract, failed, active, expected):
    active_at = None if active is None else NOON - timedelta(seconds=active)
    retry = ContractRetry(replace_grace_seconds=600)
    assert succession(on_contract=on_contract, failed=failed, active_at=active_at, retry=retry, now=NOON) is expected


class ModelVm:
    """A VM of the model: where its contract is, and the VM that is made in its place, if any."""

    def __init__(self, number: int, at: datetime, gpus: int, retry: ContractRetry) -> None:
        self.number, self.gpus, self.retry = number, gpus, retry
        self.since = self.active_at = at
        self.state = moved(Assignment.WANTED, AssignmentEvent.OFF_RETRY)
        self.attempts = 0
        self.new: str | None = None  # promised, made (on the contract), failed
        self.deleted = False


class ContractMachine(RuleBasedStateMachine):
    """The provider has `left` GPUs. Everything that is decided goes through the pure functions."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.left, self.in_all, self.over = NOON, 0, 0, False
        self.vms: list[ModelVm] = []
        self.on = 0  # GPUs of ours on the contract
        self.reassign = False

    @initialize(room=st.integers(0, 12), reassign=st.booleans())
    def begin(self, room, reassign):
        self.left = self.in_all = room
        self.reassign = reassign

    @rule(count=st.integers(1, 4), gpus=st.sampled_from([1, 1, 2, 4]), most=st.integers(1, 3))
    def vms_come_off_the_contract(self, count, gpus, most):
        retry = ContractRetry(attempts=6, deadline_seconds=7200, replace_grace_seconds=1800, max_replacing=most)
        for _ in range(count):
            self.vms.append(ModelVm(len(self.vms), self.now, gpus, retry))

    @rule(more=st.integers(1, 6))
    def the_contract_grows(self, more):
        self.in_all += more
        self.left += more

    @rule(gpus=st.integers(1, 4))
    def others_take_room(self, gpus):
        self.left = max(0, self.left - gpus)

    @rule()
    def the_contract_ends(self):
        self.over = True

    @rule(minutes=st.integers(1, 40))
    def time_passes(self, minutes):
        self.now += timedelta(minutes=minutes)

    @precondition(lambda self: any(vm.state is Assignment.ASSIGNED for vm in self.vms))
    @rule(data=st.data(), retry=st.booleans())
    def one_leaves_the_contract(self, data, retry):
        vm = data.draw(st.sampled_from([one for one in self.vms if one.state is Assignment.ASSIGNED]))
        self.on -= vm.gpus
        self.left = min(self.in_all, self.left + vm.gpus)
        event = AssignmentEvent.OFF_RETRY if retry else AssignmentEvent.OFF_FINAL
        vm.state, vm.since, vm.attempts = moved(vm.state, event), self.now, 0

    @precondition(lambda self: any(vm.new == "promised" for vm in self.vms))
    @rule(data=st.data(), refused=st.booleans())
    def a_replacement_is_made_or_refused(self, data, refused):
        vm = data.draw(st.sampled_from([one for one in self.vms if one.new == "promised"]))
        fits = not refused and not self.over and self.left >= vm.gpus
        vm.new = "made" if fits else "failed"
        if fits:
            self.left -= vm.gpus
            self.on += vm.gpus

    @rule()
    def replacements_are_followed_up(self):
        for vm in self.vms:
            if vm.new is None:
                continue
            outcome = succession(
                on_contract=vm.new == "made",
                failed=vm.new == "failed",
                active_at=vm.active_at,
                retry=vm.retry,
                now=self.now,
            )
            if outcome is Succession.TAKE_OVER:
                assert may_replace(vm.active_at, vm.retry, self.now)
                vm.state, vm.new, vm.active_at = moved(vm.state, AssignmentEvent.SHOWN_ON), None, self.now
            elif outcome is Succession.TRY_AGAIN:
                vm.new = None
            elif outcome is Succession.KEEP_OLD:
                self.on -= vm.gpus
                self.left = min(self.in_all, self.left + vm.gpus)
                vm.state, vm.new = moved(vm.state, AssignmentEvent.GIVE_UP), None

    @rule()
    def turns_are_given(self):
        queue = [vm for vm in self.vms if vm.state is Assignment.RETRYING and vm.new is None]
        promised = sum(vm.gpus for vm in self.vms if vm.new == "promised")
        left_before, given = self.left, 0
        turns = share_out(
            [self._in_queue(vm) for vm in queue],
            contract(self.left, in_all=self.in_all, over=self.over),
            promised={GPU: promised},
            replacing={UUID(int=vm.number): 1 for vm in self.vms if vm.new is not None},
            can_reassign=self.reassign,
            now=self.now,
        )
        waiting_since: datetime | None = None
        for turn in turns:
            vm, step = self.vms[turn.queued.ref[1]], turn.decision.step
            if step in {Step.REASSIGN, Step.REPLACE}:
                given += vm.gpus
                vm.attempts += 1
                # Nobody who came later is served while one waits that the contract could ever hold.
                assert waiting_since is None or vm.since >= waiting_since
                assert waiting_since is None
            if step is Step.WAIT and vm.gpus <= self.in_all:
                waiting_since = vm.since
            if step is Step.REPLACE:
                assert may_replace(vm.active_at, vm.retry, self.now)
                vm.new = "promised"
            elif step is Step.REASSIGN:
                self.left -= vm.gpus
                self.on += vm.gpus
                vm.state = moved(vm.state, AssignmentEvent.SHOWN_ON)
            elif step is Step.GIVE_UP:
                vm.state = moved(vm.state, AssignmentEvent.GIVE_UP)
        assert given + promised <= max(left_before, promised)
        self._nobody_starves(queue, left_before - promised - given)

    def _nobody_starves(self, queue: list[ModelVm], free: int) -> None:
        """The first who still waits would not fit into what is left."""
        waiting = [vm for vm in queue if vm.state is Assignment.RETRYING and vm.new is None and vm.gpus <= self.in_all]
        if waiting:
            assert min(waiting, key=lambda vm: (vm.since, vm.number)).gpus > free

    def _in_queue(self, vm: ModelVm) -> InQueue:
        retrying = Retrying(state=VmState.ACTIVE, attempts=vm.attempts, since=vm.since, active_at=vm.active_at)
        # Each is of a submission of its own, so that the policy's limit holds nobody else up here.
        ref = (UUID(int=vm.number), vm.number)
        return InQueue(ref=ref, vm=retrying, gpu_model=GPU, gpu_count=vm.gpus, retry=vm.retry)

    @invariant()
    def no_more_are_on_the_contract_than_it_has_room_for(self):
        assert self.left >= 0
        assert sum(vm.gpus for vm in self.vms if vm.state is Assignment.ASSIGNED) <= self.on

    def teardown(self):
        """Every VM reaches an end once its deadline has passed."""
        self.now += timedelta(hours=3)
        for _ in range(2):
            for vm in self.vms:
                vm.new = "failed" if vm.new == "promised" else vm.new
            self.replacements_are_followed_up()
            self.turns_are_given()
        assert Assignment.RETRYING not in {vm.state for vm in self.vms}


TestContractMachine = ContractMachine.TestCase
TestContractMachine.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)

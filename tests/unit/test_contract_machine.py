"""The contract machine as a whole: any history of room, refusals, deletions, drift and ends, on a model of the provider."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.core.assignment import MOVES, AssignmentEvent, moved
from service.core.contract import Assignment, Retrying, Step, wait_for_room
from service.core.contract_evidence import with_contract
from service.core.contract_queue import InQueue, share_out
from service.core.evidence import with_readiness
from service.core.lifecycle import ENDED, EvidenceKind, VmState
from service.core.money import ContractDiscount, ListPrice, Resource, rate_periods
from service.core.observation import Contract, Discount, Observation
from service.core.submission import ContractRetry, Policy
from service.core.succession import Succession, may_replace, succession
from service.core.vm import AssignmentStep, Provenance, Vm, on_demand_seconds_until

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
    assert 5 <= wait <= min(900, max(30, waited))


def a_vm(**changes: object) -> Vm:
    known = {"submission_id": UUID(int=1), "vm_no": 1, "creation_no": 1, "flavor": "f", "environment": "e"}
    known |= {"state_since": NOON, "created_at": NOON, "observed_at": NOON}
    return Vm(**known | {"state": VmState.ACTIVE, "contract_id": 41} | changes)


RETRYING = {"assignment": Assignment.RETRYING, "active_at": NOON}
ON_IT = {"assignment": Assignment.ASSIGNED, "bound_at": NOON}
READY = {**ON_IT, "ready": True}
GONE = {"state": VmState.DELETED, "ended_at": NOON}
LONG_ACTIVE = {"active_at": NOON - timedelta(seconds=601)}
LATE = {"bound_at": NOON - timedelta(hours=1)}
UNWANTED = {"desired_state": "deleted", "delete_due_at": NOON, "assignment": Assignment.ON_DEMAND}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (RETRYING, READY, Succession.TAKE_OVER),
        # It may be gone, and the old one runs.
        (RETRYING, {**READY, "observed_at": NOON - timedelta(seconds=61)}, Succession.CHECK),
        ({**RETRYING, "active_at": None}, {**READY, "observed_at": None}, Succession.CHECK),
        ({**RETRYING, "state": VmState.LOST}, {**READY, "observed_at": None}, Succession.TAKE_OVER),
        (RETRYING, {**ON_IT, "state": VmState.BUILD}, Succession.WAIT),
        (RETRYING, {"state": VmState.REQUESTED, "assignment": Assignment.WANTED}, Succession.WAIT),
        (RETRYING, {**ON_IT, "state": VmState.BUILD, "bound_at": NOON - timedelta(hours=1)}, Succession.TRY_AGAIN),
        (RETRYING, {**ON_IT, "state": VmState.ERROR}, Succession.TRY_AGAIN),
        (RETRYING, {**ON_IT, "state": VmState.LOST}, Succession.TRY_AGAIN),
        (RETRYING, {**READY, **UNWANTED, "ready": False}, Succession.TRY_AGAIN),
        (RETRYING, {"assignment": Assignment.ON_DEMAND}, Succession.TRY_AGAIN),
        ({**RETRYING, "active_at": NOON - timedelta(seconds=601)}, READY, Succession.GIVE_UP),
        ({**RETRYING, "active_at": None}, {**ON_IT, "state": VmState.BUILD}, Succession.TAKE_OVER),
        ({**RETRYING, "state": VmState.ERROR}, {**ON_IT, "state": VmState.BUILD}, Succession.TAKE_OVER),
        ({"assignment": Assignment.ASSIGNED}, READY, Succession.DROP),
        ({"assignment": Assignment.ASSIGNED}, GONE, Succession.DROP),
        ({"assignment": Assignment.ASSIGNED, "state": VmState.LOST}, READY, Succession.TAKE_OVER),
        ({**UNWANTED}, READY, Succession.DROP),
        ({**RETRYING, **GONE}, {"state": VmState.REQUESTED, "assignment": Assignment.WANTED}, Succession.TAKE_OVER),
        ({**RETRYING, **GONE}, GONE, Succession.DROP),
        # Nobody uses one that failed: the grace does not protect it.
        ({**RETRYING, **LONG_ACTIVE, "state": VmState.LOST}, READY, Succession.TAKE_OVER),
        ({**RETRYING, **LONG_ACTIVE, "state": VmState.ERROR}, READY, Succession.TAKE_OVER),
        ({**RETRYING, **LONG_ACTIVE, "state": VmState.LOST}, {"assignment": Assignment.WANTED}, Succession.WAIT),
        # In the place of one that is gone, a VM that runs is better than none.
        ({**RETRYING, **GONE}, {"assignment": Assignment.ON_DEMAND, "bound_at": NOON}, Succession.TAKE_OVER),
        ({**RETRYING, **GONE}, {**LATE, "state": VmState.BUILD}, Succession.TAKE_OVER),
        (
            {**RETRYING, "state": VmState.LOST},
            {"assignment": Assignment.ON_DEMAND, "ready": True},
            Succession.TAKE_OVER,
        ),
    ],
)
def test_which_of_two_vms_stays(old, new, expected):
    policy = Policy(retry=ContractRetry(replace_grace_seconds=600), stuck_after_seconds=3600)
    assert succession(a_vm(**old), a_vm(vm_no=2, **new), policy, NOON) is expected


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (READY, Succession.TAKE_OVER),
        ({**ON_IT, "state": VmState.BUILD}, Succession.WAIT),
        ({**ON_IT, **LATE, "state": VmState.BUILD}, Succession.TRY_AGAIN),
    ],
)
def test_a_vm_that_would_be_deleted_after_the_grace_waits_for_its_replacement(new, expected):
    policy = Policy(retry=ContractRetry(replace_grace_seconds=600, then="delete"), stuck_after_seconds=3600)
    assert succession(a_vm(**RETRYING | LONG_ACTIVE), a_vm(vm_no=2, **new), policy, NOON) is expected


_ANY_VM = st.builds(
    a_vm,
    state=st.sampled_from([state for state in VmState if state not in ENDED]),
    assignment=st.sampled_from(Assignment),
    desired_state=st.sampled_from(["present", "deleted"]),
    active_at=st.sampled_from([None, NOON, NOON - timedelta(hours=2)]),
    bound_at=st.sampled_from([None, NOON, NOON - timedelta(hours=2)]),
    observed_at=st.sampled_from([None, NOON, NOON - timedelta(hours=2)]),
) | st.builds(
    a_vm, state=st.sampled_from(sorted(ENDED)), assignment=st.sampled_from(Assignment), ended_at=st.just(NOON)
)


@given(old=_ANY_VM, new=_ANY_VM, then=st.sampled_from(["keep", "delete"]))
def test_of_two_vms_one_that_is_wanted_and_no_worse_stays_and_nobody_waits_for_ever(old, new, then):
    old, new = with_readiness(old, NOON), with_readiness(new, NOON)
    policy = Policy(retry=ContractRetry(replace_grace_seconds=600, then=then), stuck_after_seconds=3600)
    outcome = succession(old, new, policy, NOON)
    fine = {VmState.ACTIVE, VmState.SHUTOFF}
    if outcome is Succession.TAKE_OVER:
        assert new.desired_state == "present"
        assert new.state not in ENDED | {VmState.ERROR, VmState.LOST}
        assert old.ended_at or new.assignment is Assignment.ASSIGNED or (new.ready and old.state not in fine)
        assert old.state not in fine or old.active_at is None or new.ready
        assert old.state not in fine or old.assignment is Assignment.RETRYING
        assert old.state not in fine or new.observed_at == NOON
    over = {*ENDED, VmState.ERROR, VmState.LOST}
    if outcome in {Succession.DROP, Succession.TRY_AGAIN, Succession.GIVE_UP} and old.desired_state == "present":
        # The new VM is deleted: the old one is there, or the new one is not.
        assert old.state not in over or new.state in over or new.desired_state == "deleted" or not new.ready
        assert old.ended_at is None or new.state in over or new.desired_state == "deleted"
    if outcome is Succession.GIVE_UP:
        assert then == "keep"
    if outcome is Succession.TRY_AGAIN:
        assert not (new.ready and new.assignment is Assignment.ASSIGNED)
    if outcome in {Succession.TRY_AGAIN, Succession.WAIT, Succession.GIVE_UP, Succession.CHECK}:
        assert old.assignment is Assignment.RETRYING  # it has a time at which it is followed up
        assert old.desired_state == "present"
        assert old.ended_at is None
    if outcome is Succession.CHECK:
        assert succession(old, msgspec.structs.replace(new, observed_at=NOON), policy, NOON) is Succession.TAKE_OVER
    if outcome is Succession.WAIT:
        later = succession(old, new, policy, NOON + timedelta(days=365))
        unprotected = old.active_at is None or then == "delete" or old.state in over
        assert later is not Succession.WAIT or (new.bound_at is None and unprotected)


class ModelVm:
    """A VM of the model: where its contract is, and the VM that is made in its place, if any."""

    def __init__(self, number: int, at: datetime, gpus: int, retry: ContractRetry) -> None:
        self.number, self.gpus, self.retry = number, gpus, retry
        self.since = self.active_at = at
        self.state = moved(Assignment.WANTED, AssignmentEvent.OFF_RETRY)
        self.attempts = 0
        self.new: str | None = None  # promised, made (on the contract), failed
        self.new_seen = at  # when the one that is made was last observed
        self.new_died = False  # and nobody has heard of it
        self.placed = False  # on the contract, which a daemon that died may not know


class ContractMachine(RuleBasedStateMachine):
    """The provider has `left` GPUs. Everything that is decided goes through the pure functions."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.left, self.in_all, self.over = NOON, 0, 0, False
        self.vms: list[ModelVm] = []
        self.on = 0  # GPUs of ours on the contract
        self.reassign = False

    @initialize(room=st.integers(0, 12), reassign=st.booleans(), count=st.integers(1, 4))
    def begin(self, room, reassign, count):
        self.left = self.in_all = room
        self.reassign = reassign
        self.vms_come_off_the_contract(count, 1, 2)

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

    @rule(ends=st.integers(0, 9))
    def the_contract_ends(self, ends):
        self.over |= ends == 9  # seldom: nothing happens afterwards

    @rule(minutes=st.sampled_from([1, 2, 3, 5, 40]), is_followed=st.booleans())
    def time_passes(self, minutes, is_followed):
        self.now += timedelta(minutes=minutes)
        if is_followed:
            self.replacements_are_followed_up()

    @precondition(lambda self: any(vm.state is Assignment.ASSIGNED for vm in self.vms))
    @rule(data=st.data(), retry=st.booleans())
    def one_leaves_the_contract(self, data, retry):
        vm = data.draw(st.sampled_from([one for one in self.vms if one.state is Assignment.ASSIGNED]))
        vm.placed = False
        self._frees(vm)
        event = AssignmentEvent.OFF_RETRY if retry else AssignmentEvent.OFF_FINAL
        vm.state, vm.since, vm.attempts = moved(vm.state, event), self.now, 0

    @precondition(lambda self: any(vm.new == "promised" for vm in self.vms))
    @rule(data=st.data(), refused=st.sampled_from([False, False, True]))
    def a_replacement_is_made_or_refused(self, data, refused):
        vm = data.draw(st.sampled_from([one for one in self.vms if one.new == "promised"]))
        fits = not refused and not self.over and self.left >= vm.gpus
        vm.new, vm.new_seen, vm.new_died = "made" if fits else "failed", self.now, False
        if fits:
            self.left -= vm.gpus
            self.on += vm.gpus

    @precondition(lambda self: any(vm.new == "made" and not vm.new_died for vm in self.vms))
    @rule(data=st.data())
    def a_replacement_dies_unheard(self, data):
        vm = data.draw(st.sampled_from([one for one in self.vms if one.new == "made" and not one.new_died]))
        vm.new_died = True
        self._frees(vm)

    def _frees(self, vm: ModelVm) -> None:
        self.on -= vm.gpus
        self.left = min(self.in_all, self.left + vm.gpus)

    @rule()
    def the_fleet_is_read(self):
        for vm in self.vms:
            self._read_new(vm)

    def _read_new(self, vm: ModelVm) -> None:
        if vm.new == "made":
            vm.new, vm.new_seen = "failed" if vm.new_died else "made", self.now

    @rule()
    def replacements_are_followed_up(self):
        for vm in self.vms:
            if vm.new is None:
                continue
            news = {
                "promised": {"state": VmState.REQUESTED, "assignment": Assignment.WANTED},
                "made": {**READY, "bound_at": self.now, "observed_at": vm.new_seen},
                "failed": {"state": VmState.REFUSED, "ended_at": self.now},
            }
            old = a_vm(assignment=vm.state, active_at=vm.active_at)
            outcome = succession(old, a_vm(vm_no=2, **news[vm.new]), Policy(retry=vm.retry), self.now)
            if outcome is Succession.TAKE_OVER:
                self._new_takes_over(vm)
            elif outcome is Succession.CHECK:
                self._read_new(vm)
            elif outcome is Succession.TRY_AGAIN:
                vm.new = None
            elif outcome is Succession.GIVE_UP:
                if vm.new == "made" and not vm.new_died:
                    self._frees(vm)
                vm.state, vm.new = moved(vm.state, AssignmentEvent.GIVE_UP), None

    def _new_takes_over(self, vm: ModelVm) -> None:
        assert may_replace(vm.active_at, vm.retry, self.now)
        # The count holds: the old one is deleted for one that was there a minute ago.
        assert self.now - vm.new_seen <= timedelta(minutes=1)
        if vm.placed:  # the old one is deleted, and was on the contract too
            self._frees(vm)
        vm.placed = not vm.new_died
        event = AssignmentEvent.GIVE_UP if vm.new_died else AssignmentEvent.SHOWN_ON
        vm.state, vm.new, vm.active_at = moved(vm.state, event), None, self.now

    @rule(dies_after=st.none() | st.integers(0, 4))
    def turns_are_given(self, dies_after):
        """A daemon that dies has recorded some of its turns. A reassignment may have been done without its record."""
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
        for done, turn in enumerate(turns):
            if dies_after is not None and done >= dies_after:
                if turn.decision.step is Step.REASSIGN and done == dies_after:
                    self._place(self.vms[turn.queued.ref[1]])
                return
            vm, step = self.vms[turn.queued.ref[1]], turn.decision.step
            if step in {Step.REASSIGN, Step.REPLACE}:
                given += vm.gpus
                vm.attempts += 1
                # Nobody who came later is served while one waits that the contract could ever hold.
                assert waiting_since is None or vm.since >= waiting_since
                assert waiting_since is None
            if step is Step.WAIT and vm.gpus <= self.in_all:
                waiting_since = vm.since
            self._record(vm, step)
        assert given + promised <= max(left_before, promised)
        self._nobody_starves(queue, left_before - promised - given)

    def _record(self, vm: ModelVm, step: Step) -> None:
        if step is Step.REPLACE:
            assert may_replace(vm.active_at, vm.retry, self.now)
            vm.new = "promised"
        elif step is Step.REASSIGN:
            self._place(vm)
            vm.state = moved(vm.state, AssignmentEvent.SHOWN_ON)
        elif step is Step.GIVE_UP:
            vm.state = moved(vm.state, AssignmentEvent.GIVE_UP)

    def _place(self, vm: ModelVm) -> None:
        """The provider moves a VM to the contract; it is there already if the daemon died before it recorded that."""
        if not vm.placed:
            self.left -= vm.gpus
            self.on += vm.gpus
        vm.placed = True

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
            self.turns_are_given(dies_after=None)
        assert Assignment.RETRYING not in {vm.state for vm in self.vms}


class RecordMachine(RuleBasedStateMachine):
    """One VM: what is true of its contract, what its record learns of that and when, and what it costs meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        self.vm = Vm(
            submission_id=UUID(int=1),
            vm_no=1,
            creation_no=1,
            state_since=NOON,
            state=VmState.ACTIVE,
            flavor="n3-A100x2",
            environment="e",
            gpu_model=GPU,
            gpu_count=2,
            assignment=Assignment.WANTED,
            contract_id=41,
            created_at=NOON,
        )
        self.policy = Policy()
        self.true: list[tuple[datetime, bool]] = [(NOON, False)]  # since when it was on the contract or off it
        self.learned: list[datetime] = []  # when a change was learned, for each in `true`
        self.steps: list[AssignmentStep] = []
        self.prices: list[ListPrice] = []
        self.discounts: list[ContractDiscount] = []

    @rule(seconds=st.integers(1, 7200))
    def time_passes(self, seconds):
        self.now += timedelta(seconds=seconds)

    @rule()
    def the_provider_moves_it_on_or_off(self):
        if self.true[-1][0] < self.now:
            self.true.append((self.now, not self.true[-1][1]))

    @rule()
    def a_refresh_shows_it(self):
        on = self.true[-1][1]
        self._evidence(on=on)
        self.learned += [self.now] * (len(self.true) - len(self.learned))

    @rule()
    def a_late_refresh_says_what_it_said_before(self):
        if self.learned:
            self._evidence(on=self.true[len(self.learned) - 1][1])

    @rule(reads=st.booleans())
    def the_daemon_is_restarted(self, reads):
        """Nothing but the row survives; what it learned and did not commit has to be learned again."""
        self.vm = msgspec.convert(msgspec.to_builtins(self.vm), Vm)
        if not reads:
            self._evidence(on=self.true[-1][1], commits=False)

    @rule(value=st.decimals("0.1", "9", places=2))
    def the_price_changes(self, value):
        self.prices.append(ListPrice(GPU, self.now, value, "USD", "pricebook"))

    @rule(value=st.decimals("0", "100", places=1), kind=st.sampled_from(["percent", "flat", None]))
    def the_discount_changes(self, value, kind):
        self.discounts.append(ContractDiscount(41, GPU, self.now, kind, value, "contract"))

    def _evidence(self, *, on: bool, commits: bool = True) -> None:
        seen = Observation(provider_id=7, status="ACTIVE", contract_id=41 if on else None)
        provenance = Provenance(kind=EvidenceKind.OBSERVATION, at=self.now, now=self.now)
        vm, step = with_contract(self.vm, seen, provenance, self.policy, "")
        if commits:
            self.vm = vm
            self.steps += [step] if step else []

    def _off(self, changes: list[tuple[datetime, bool]]) -> float:
        ends = [at for at, _ in changes[1:]] + [self.now]
        return sum((end - at).total_seconds() for (at, on), end in zip(changes, ends, strict=True) if not on)

    @invariant()
    def off_contract_time_is_that_of_the_record_and_differs_from_the_truth_by_the_delays(self):
        recorded = [(step.at, step.outcome == "assigned") for step in self.steps]
        off = self._off(recorded) if recorded else 0.0
        assert on_demand_seconds_until(self.vm, self.now) == pytest.approx(off, abs=1e-6)
        late = [*self.learned, *[self.now] * (len(self.true) - len(self.learned))]
        delays = sum((known - at).total_seconds() for known, (at, _) in zip(late, self.true, strict=True))
        assert abs(off - self._off(self.true)) <= delays + 1e-6

    @invariant()
    def its_price_over_time_equals_that_of_each_moment(self):
        for contract_id in (None, 41) if self.now > NOON else ():
            vm = Resource(self.vm.flavor, GPU, 2, contract_id)
            how = {"since": NOON, "until": self.now, "currency": "USD"}
            periods = rate_periods(vm, self.prices, self.discounts, **how)
            assert (periods[0].since, periods[-1].until) == (NOON, self.now)
            for one in periods:
                middle = one.since + (one.until - one.since) / 2
                assert one.per_hour == self._price(middle, contract_id)

    def _price(self, at: datetime, contract_id: int | None) -> Decimal | None:
        prices = [one for one in self.prices if one.read_at <= at]
        if not prices:
            return None
        full = prices[-1].value * 2
        terms = [one for one in self.discounts if one.read_at <= at]
        if contract_id is None:
            return full
        if not terms or terms[-1].kind is None or terms[-1].value is None:
            return None
        off = full * terms[-1].value / 100 if terms[-1].kind == "percent" else terms[-1].value * 2
        return max(Decimal(0), full - off)


TestRecordMachine = RecordMachine.TestCase
TestRecordMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestContractMachine = ContractMachine.TestCase
TestContractMachine.settings = settings(max_examples=400, stateful_step_count=30, deadline=None)

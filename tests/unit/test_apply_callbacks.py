"""What hearing changes of a VM is what is saved of it: not a column less."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.contract import Assignment
from service.core.event import Callback
from service.core.evidence import apply_callback
from service.core.lifecycle import EvidenceKind, VmState
from service.core.refresh import RefreshPolicy
from service.core.vm import Provenance, Vm
from service.storage import apply_callbacks

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
PACE = RefreshPolicy()
SUBMISSION = UUID("01900000-0000-7000-8000-000000000001")

TIMES = st.integers(-300, 300).map(lambda seconds: NOON + timedelta(seconds=seconds))
TEXTS = st.none() | st.sampled_from(
    ["", "10.0.0.7", "stopped by somebody else: Rollcall did not request it", "a\u00e9\U0001f600"]
)
#: Any record at all, whether or not a VM could come to it.
VMS = st.builds(
    Vm,
    submission_id=st.just(SUBMISSION), vm_no=st.just(1), creation_no=st.just(1), provider_id=st.just(77), name=TEXTS,
    state=st.sampled_from(VmState), provider_status=TEXTS, state_since=TIMES, seq=st.integers(0, 9),
    observed_at=st.none() | TIMES, last_event_at=st.none() | TIMES, next_refresh_at=st.none() | TIMES,
    refresh_attempts=st.integers(0, 9), history_due_at=st.none() | TIMES, wants_address=st.booleans(), fixed_ip=TEXTS,
    floating_ip=TEXTS, flavor=st.just("f"), environment=st.just("e"), region=TEXTS,
    assignment=st.sampled_from(Assignment), contract_id=st.none() | st.just(41), contract_due_at=st.none() | TIMES,
    on_demand_since=st.none() | TIMES, desired_state=st.sampled_from(["present", "deleted"]), delete_due_at=st.none() | TIMES,
    delete_attempts=st.integers(0, 2), deletion_announced=st.booleans(), lease_token=st.none() | st.uuids(),
    lease_until=st.none() | TIMES, ready=st.booleans(), stuck=st.booleans(), reason=TEXTS, created_at=TIMES,
    bound_at=st.none() | TIMES, active_at=st.none() | TIMES, ready_at=st.none() | TIMES,
)  # fmt: skip
CALLBACKS = st.builds(
    Callback,
    provider_id=st.just(77),
    about=st.none() | st.sampled_from(["create", "delete", "volume", "floating IP"]),
    status=TEXTS,
    # What a callback can claim: our own ends are no words of the provider's.
    state=st.none() | st.sampled_from(sorted(set(VmState) - {"REQUESTED", "REFUSED", "CANCELLED", "LOST"})),
    floating_ip=TEXTS,
    fixed_ip=TEXTS,
)
SOURCES = st.builds(Provenance, kind=st.just(EvidenceKind.EVENT), at=TIMES, now=TIMES, id=st.uuids())


@settings(max_examples=500, deadline=None)
@given(VMS, CALLBACKS, SOURCES)
def test_applying_a_callback_changes_no_column_but_those_that_are_saved(vm, callback, source):
    after = apply_callback(vm, callback, source, PACE).vm
    assert {name for name in Vm.__struct_fields__ if getattr(vm, name) != getattr(after, name)} <= set(
        apply_callbacks.CHANGED
    )

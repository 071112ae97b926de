"""Records made and altered by their slots are those that dataclasses would have made."""

from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.lifecycle import VmState
from service.core.record import construct, replace_fields
from service.core.vm import Vm

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
VM = Vm(
    submission_id=UUID(int=7), vm_no=1, creation_no=1, state_since=NOON, flavor="f", environment="e", created_at=NOON
)
NAMES = [field.name for field in fields(Vm)]
VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(VmState)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_altering_is_replacing(changes):
    before = replace(VM)
    assert replace_fields(VM, changes) == replace(VM, **changes)
    assert before == VM


@given(st.fixed_dictionaries(dict.fromkeys(NAMES, VALUES)))
def test_making_of_values_is_making_by_names(values):
    assert construct(Vm, [values[name] for name in NAMES]) == Vm(**values)


def test_what_was_altered_is_as_frozen_as_before():
    with pytest.raises(FrozenInstanceError):
        replace_fields(VM, {"seq": 2}).seq = 3


def test_what_is_no_field_is_refused():
    with pytest.raises(AttributeError):
        replace_fields(VM, {"phase": 1})

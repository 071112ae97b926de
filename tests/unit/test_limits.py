"""Limits of an owner: what passes them, what cannot be compared, and the amounts that requests give."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.limits import Limits, Usage, check_planned, passed, planned, unchecked
from service.core.submission import Policy
from service.core.validation import validate
from service.errors import Invalid

amounts = st.decimals(Decimal("0.01"), 10**6, places=2)


@given(vms=st.integers(0, 9), gpus=st.integers(0, 9), rate=amounts, cost=amounts, bounds=st.tuples(amounts, amounts))
def test_a_limit_is_passed_by_more_than_it_and_by_nothing_else(
    vms: int, gpus: int, rate: Decimal, cost: Decimal, bounds: tuple[Decimal, Decimal]
) -> None:
    limits = Limits(vms=5, gpus=5, price_per_hour=bounds[0], cost=bounds[1])
    found = {one.field for one in passed(limits, Usage(vms, gpus, rate, cost), "USD")}
    above = {
        "max_vms": vms > 5,
        "max_gpus": gpus > 5,
        "max_price_per_hour": rate > bounds[0],
        "max_cost": cost > bounds[1],
    }
    assert found == {name for name, is_above in above.items() if is_above}
    assert passed(Limits(), Usage(vms, gpus, rate, cost), "USD") == []


def test_an_unknown_price_leaves_only_limits_of_money_unchecked() -> None:
    usage = Usage(vms=3, unpriced_vms=3, unpriced_seconds=Decimal(60))
    assert unchecked(Limits(vms=9), usage) == []
    assert [one.field for one in unchecked(Limits(price_per_hour=Decimal(1), cost=Decimal(1)), usage)] == [
        "max_price_per_hour",
        "max_cost",
    ]


def test_a_request_above_its_limits_is_refused_with_both_numbers_of_each() -> None:
    policy = Policy.model_validate({"max_price_per_hour": "50", "max_cost": 100, "lifetime": "2h"})
    usage = planned(40, Decimal("1.35"), policy.lifetime)
    errors, warnings = check_planned(policy, usage, "USD")
    assert {one.field: one.message for one in errors} == {
        "policy.max_price_per_hour": "is 50.00 USD an hour, and 54.00 USD an hour is more than that",
        "policy.max_cost": "is 100.00 USD, and 108.00 USD is more than that",
    }
    assert warnings == []
    (error,) = check_planned(Policy.model_validate({"max_cost": 100}), planned(4, None, None), "USD")[0]
    assert error.message == "cannot be checked: no price is known for 4 VMs"


def test_without_a_lifetime_a_request_is_told_when_its_cost_is_reached() -> None:
    policy = Policy.model_validate({"max_cost": 108, "on_limit": "delete"})
    errors, (warning,) = check_planned(policy, planned(40, Decimal("1.35"), None), "USD")
    assert errors == []
    assert warning == "at 54.00 USD an hour, max_cost of 108.00 USD is reached in 2h; then: delete"


@pytest.mark.parametrize("given", [12.5, "12.5", "12.50", "1.25e1", " 12.5 ", Decimal("12.500")])
def test_one_amount_has_many_notations_and_one_form(given: Any) -> None:
    policy = Policy.model_validate({"max_cost": given})
    assert policy.model_dump(mode="json")["max_cost"] == "12.5"
    assert Policy.model_validate(policy.model_dump(mode="json")) == policy


@pytest.mark.parametrize(
    "given", [0, -1, "", "much", "NaN", "Infinity", True, [], {}, "1e13", "0.0000000001", "1e-999999"]
)
def test_what_is_no_amount_is_refused_by_its_field(given: Any) -> None:
    with pytest.raises(Invalid) as raised:
        validate(Policy, {"max_cost": given, "max_price_per_hour": given, "on_limit": "shout"})
    assert {one.field for one in raised.value.field_errors} == {"max_cost", "max_price_per_hour", "on_limit"}

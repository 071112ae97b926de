"""Alternatives: what is tried next, and what a request with them may not say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.alternatives import StockOf, after_no_stock, after_refusal, in_order, most_promising
from service.core.submission import validate_submission
from service.errors import Invalid

BODY = {
    "name": "vm",
    "environment_name": "test1",
    "flavor_name": "n3-A100x1",
    "image_name": "Ubuntu",
    "key_name": "example-key",
    "count": 1,
    "contract_id": 41,
}
THERE = {"flavor_name": "n3-H100x1", "environment_name": "there"}


def request(*alternatives: dict[str, Any], **changes: Any):
    return validate_submission({**BODY, **changes, "policy": {"alternatives": list(alternatives)}})


def test_an_alternative_changes_what_it_names_and_nothing_else():
    asked = request(
        {**THERE, "image_name": "Ubuntu 24", "contract_id": 42}, {**THERE, "flavor_name": "x", "on_demand": True}
    )
    assert [asked.choice(number).contract_id for number in asked.choices] == [41, 42, None]
    assert [asked.choice(number).image_name for number in asked.choices] == ["Ubuntu", "Ubuntu 24", "Ubuntu"]
    assert {asked.choice(number).key_name for number in asked.choices} == {"example-key"}
    assert asked.choice(0) == asked


def test_an_alternative_with_an_image_does_not_boot_from_the_volume():
    spec = request({**THERE, "image_name": "Ubuntu"}, image_name=None, volume_name="boot").choice(1).spec()
    assert (spec.image_name, spec.volume_name) == ("Ubuntu", None)


@pytest.mark.parametrize(
    ("alternatives", "changes", "field"),
    [
        ([{"flavor_name": "x"}], {}, "policy.alternatives.0.environment_name"),
        ([{**THERE, "contract_id": 42, "on_demand": True}], {}, "policy.alternatives.0.on_demand"),
        ([{"flavor_name": "n3-A100x1", "environment_name": "test1"}], {}, "policy.alternatives.0"),
        ([THERE, {**THERE, "contract_id": 42}], {}, "policy.alternatives.1"),
        ([THERE], {"flavor": {"cpu": 4}}, "policy.alternatives"),
        ([{**THERE, "flavor_name": str(number)} for number in range(11)], {}, "policy.alternatives"),
    ],
)
def test_alternatives_that_make_no_sense_are_refused(alternatives, changes, field):
    with pytest.raises(Invalid) as caught:
        request(*alternatives, **changes)
    assert field in {one.field for one in caught.value.field_errors}


@st.composite
def positions(draw):
    count = draw(st.integers(1, 6))
    current = draw(st.integers(0, count - 1))
    return count, current, draw(st.sets(st.integers(0, count - 1).filter(lambda one: one != current)))


@given(positions())
def test_each_alternative_that_is_not_refused_is_tried_once_before_a_wait(position):
    count, _, refused = position
    current = min(set(range(count)) - refused)
    tried, at_once = [current], True
    while at_once:
        current, at_once = after_no_stock(count, current, refused)
        tried.append(current)
    assert tried == [*sorted(set(range(count)) - refused), min(set(range(count)) - refused)]


@given(positions())
def test_refusals_for_good_end_when_nothing_is_left(position):
    count, current, refused = position
    refused, tried = set(refused), []
    while current is not None:
        tried.append(current)
        refused.add(current)
        current = after_refusal(count, current, refused)
    assert len(tried) == len(set(tried))
    assert refused == set(range(count))


A, B, C = (["CA", "A100", 1], ["NO", "H100", 8], [None, None, None])


@pytest.mark.parametrize(
    ("stock", "chosen"),
    [
        ({}, 0),
        ({("CA", "A100"): 1}, 0),
        ({("CA", "A100"): 0}, 1),
        ({("CA", "A100"): 0, ("NO", "H100"): 7}, 2),
        ({("NO", "H100"): 0}, 0),
    ],
)
def test_only_what_the_provider_says_it_has_none_of_is_passed_over(stock, chosen):
    levels = {StockOf(*key): gpus for key, gpus in stock.items()}
    assert most_promising([0, 1, 2], [A, B, C], levels) == chosen
    assert most_promising([0], [A, B, C], levels) == (None if stock.get(("CA", "A100")) == 0 else 0)


def test_the_order_begins_where_it_stands_and_leaves_out_what_was_refused():
    assert in_order(4, 2, {3}) == [2, 0, 1]

"""From what the provider answers to rows of prices and discounts: what is unclear becomes unknown, never a guess."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.observation import Contract, Discount, Price
from service.provider import answers
from service.worker.prices import contract_discounts, list_prices

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
GPU = "A100-80G-PCIe"


def line(**changes: Any) -> Discount:
    known = {"resource_name": GPU, "status": "active", "discount_type": "percent", "percent": Decimal(20)}
    return Discount(**(known | changes))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([line()], ("percent", 20)),
        ([line(status=None, discount_type="PERCENT")], ("percent", 20)),
        ([line(), line()], ("percent", 20)),
        ([line(discount_type="flat", amount=Decimal("0.5"))], ("flat", Decimal("0.5"))),
        ([line(), line(percent=Decimal(30))], (None, None)),
        ([line(status="expired")], (None, None)),
        ([line(discount_type="free of charge")], (None, None)),
        ([line(discount_type=None)], (None, None)),
        ([line(percent=None)], (None, None)),
        ([line(percent=Decimal(-1))], (None, None)),
    ],
)
def test_a_contract_has_one_discount_for_a_resource_or_an_unknown_one(lines: list[Discount], expected: Any) -> None:
    (row,) = contract_discounts([Contract(contract_id=41, discounts=tuple(lines))], NOON)
    assert (row.kind, row.value) == expected


def test_a_resource_with_two_prices_has_none_and_a_currency_that_is_not_named_is_assumed() -> None:
    book = [
        Price(name=GPU, value=Decimal(1)),
        Price(name="L40", value=Decimal(1), currency="EUR"),
        Price(name=GPU.lower(), value=Decimal(2)),
        Price(name="H100", value=Decimal(3)),
        Price(name="H100", value=Decimal(3)),
    ]
    rows = list_prices(book, NOON)
    assert [(row.resource, row.value, row.currency) for row in rows] == [("L40", 1, "EUR"), ("H100", 3, "USD")]


values = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8) | st.just("1.9E-5")


@given(st.lists(st.dictionaries(st.sampled_from(["name", "value", "currency"]), values), max_size=5))
def test_no_answer_makes_a_price_that_is_negative_or_not_finite(lines: list[dict[str, Any]]) -> None:
    for row in list_prices(answers.prices(lines) or (), NOON):
        assert row.value.is_finite()
        assert row.value >= 0

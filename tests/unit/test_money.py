"""Money: prices and discounts. What a history comes to is tested in integration/test_cost.py."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core import money
from service.core.money import BILLED_IN_FULL, BILLED_IN_PART, ContractDiscount, ListPrice, Resource

START = datetime(2026, 8, 17, 9, tzinfo=UTC)
GPU = "A100-80G-PCIe"
VM = Resource(flavor="n3-A100x8", gpu_model=GPU, gpu_count=8)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def price(value: str, *, seconds: float = 0, resource: str = GPU, currency: str = "USD") -> ListPrice:
    return ListPrice(
        resource=resource, read_at=at(seconds), value=Decimal(value), currency=currency, source="pricebook"
    )


def discount(kind: str | None, value: str | None, *, seconds: float = 0, contract_id: int = 41) -> ContractDiscount:
    return ContractDiscount(
        contract_id=contract_id,
        resource=GPU,
        read_at=at(seconds),
        kind=kind,
        value=None if value is None else Decimal(value),
        source="pricebook/contracts",
    )


def on(contract_id: int | None, vm: Resource = VM) -> Resource:
    return Resource(flavor=vm.flavor, gpu_model=vm.gpu_model, gpu_count=vm.gpu_count, contract_id=contract_id)


def per_hour(vm: Resource, prices: Any = (), discounts: Any = (), *, seconds: float = 0) -> Decimal | None:
    return money.quote(vm, prices, discounts, at=at(seconds), currency="USD").per_hour


def test_states_are_charged_as_the_provider_says() -> None:
    # infrahub-api.md section 2.3, and the states that VMs pass through between ACTIVE and SHUTOFF.
    assert {"ACTIVE", "SHUTOFF", "STARTING", "STOPPING", "REBOOTING"} == BILLED_IN_FULL
    assert {"HIBERNATED"} == BILLED_IN_PART


def test_a_gpu_price_is_per_gpu_and_a_flavor_price_per_vm_and_goes_first() -> None:
    assert per_hour(VM, [price("1.35")]) == Decimal("10.80")
    assert per_hour(VM, [price("1.35"), price("9", resource="N3-a100x8")]) == Decimal(9)
    cpu = Resource(flavor="n1-cpu-small", gpu_model=None, gpu_count=0)
    assert per_hour(cpu, [price("0.05", resource="n1-cpu-small")]) == Decimal("0.05")


@pytest.mark.parametrize(
    ("vm", "prices"),
    [
        (VM, []),
        (VM, [price("1.35", seconds=1)]),
        (VM, [price("1.35", resource="H100-80G-PCIe")]),
        (VM, [price("1.35", currency="EUR")]),
        (Resource(flavor="n3-A100x8", gpu_model=GPU, gpu_count=None), [price("1.35")]),
        (Resource(flavor="n3-A100x8", gpu_model=None, gpu_count=8), [price("1.35")]),
    ],
)
def test_a_price_that_is_not_known_is_none_and_not_zero(vm: Resource, prices: list[ListPrice]) -> None:
    assert per_hour(vm, prices) is None


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (discount("percent", "20"), Decimal("8.64")),
        (discount("percent", "100"), Decimal(0)),
        (discount("flat", "0.35"), Decimal(8)),
        (discount("flat", "2"), Decimal(0)),
        (discount("percent", "101"), None),
        (discount(None, None), None),
        (discount("percent", "20", contract_id=42), None),
        (discount("percent", "20", seconds=1), None),
    ],
)
def test_a_contract_takes_off_its_discount_and_one_that_is_not_known_makes_the_price_unknown(
    terms: ContractDiscount, expected: Decimal | None
) -> None:
    assert per_hour(on(41), [price("1.35")], [terms]) == expected
    assert per_hour(VM, [price("1.35")], [terms]) == Decimal("10.80")


def test_a_price_holds_from_when_it_was_read_until_the_next() -> None:
    prices = [price("2", seconds=10), price("1", seconds=0)]
    assert [per_hour(VM, prices, seconds=one) for one in (-1, 0, 9, 10, 99)] == [None, 8, 8, 16, 16]


def test_estimates_are_rounded_once_and_half_to_even() -> None:
    assert money.estimate(Decimal(3600)) == Decimal("1.000000")
    assert money.estimate(Decimal("0.0018")) == Decimal("0.000000")
    assert money.estimate(Decimal("0.0054")) == Decimal("0.000002")


@given(
    values=st.lists(st.tuples(st.integers(-5, 40), st.sampled_from(["1", "2", "3.5"])), max_size=6),
    terms=st.lists(st.tuples(st.integers(-5, 40), st.sampled_from([("percent", "20"), (None, None)])), max_size=4),
    since=st.integers(-9, 40),
    length=st.integers(1, 40),
)
def test_the_rates_of_a_period_have_no_gap_and_are_the_quotes_of_every_second(
    values: list[tuple[int, str]], terms: list[tuple[int, tuple[str | None, str | None]]], since: int, length: int
) -> None:
    prices = [price(value, seconds=seconds) for seconds, value in dict(values).items()]
    discounts = [discount(*term, seconds=seconds) for seconds, term in dict(terms).items()]
    found = money.rate_periods(on(41), prices, discounts, since=at(since), until=at(since + length), currency="USD")
    assert (found[0].since, found[-1].until) == (at(since), at(since + length))
    assert all(one.until == other.since for one, other in pairwise(found))
    for second in range(since, since + length):
        (held,) = [one for one in found if one.since <= at(second) < one.until]
        assert held.per_hour == per_hour(on(41), prices, discounts, seconds=second)


@given(st.lists(st.sampled_from(["USD", "EUR", "??"]), max_size=6))
def test_a_line_in_an_odd_currency_does_not_change_the_currency_of_all(currencies: list[str]) -> None:
    prices = [
        price("1", resource=str(number), currency=name) for number, name in enumerate([*currencies, *["USD"] * 7])
    ]
    assert money.currency_of(prices) == "USD"
    assert money.currency_of([]) == "USD"

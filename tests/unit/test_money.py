"""Money: prices, discounts, and that a cost is what adding up second by second gives."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core import money
from service.core.lifecycle import VmState
from service.core.money import BILLING, Billing, ContractDiscount, Cost, ListPrice, Resource

START = datetime(2026, 8, 17, 9, tzinfo=UTC)
GPU = "A100-80G-PCIe"
VM = Resource(flavor="n3-A100x8", gpu_model=GPU, gpu_count=8)
#: Seconds of the histories that the properties are about.
SPAN = 40


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
    return money.price_per_hour(vm, prices, discounts, at=at(seconds), currency="USD")


def test_states_are_charged_as_the_provider_says() -> None:
    # infrahub-api.md section 2.3, and the states that VMs pass through between ACTIVE and SHUTOFF.
    charged = {state for state, billing in BILLING.items() if billing is Billing.FULL}
    assert charged == {VmState(name) for name in ("ACTIVE", "SHUTOFF", "STARTING", "STOPPING", "REBOOTING")}
    assert BILLING[VmState.HIBERNATED] is Billing.UNKNOWN
    for name in ("HIBERNATING", "RESTORING", "ERROR", "DELETED"):
        assert BILLING[VmState(name)] is Billing.FREE
    assert set(BILLING) == set(VmState)


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


states = st.lists(st.tuples(st.integers(0, SPAN), st.sampled_from(VmState)), max_size=8)
contracts = st.lists(st.tuples(st.integers(0, SPAN), st.sampled_from([None, 41, 42])), max_size=5)
values = st.decimals(0, 10**9, places=9, allow_nan=False, allow_infinity=False).map(str)
prices_read = st.lists(
    st.builds(
        lambda value, seconds, resource, currency: price(value, seconds=seconds, resource=resource, currency=currency),
        values,
        st.integers(-5, SPAN),
        st.sampled_from([GPU, VM.flavor]),
        st.sampled_from(["USD", "USD", "EUR"]),
    ),
    max_size=5,
    unique_by=lambda one: (one.resource, one.read_at),
)
discounts_read = st.lists(
    st.builds(
        lambda terms, seconds, contract_id: discount(*terms, seconds=seconds, contract_id=contract_id),
        st.sampled_from([("percent", "20"), ("percent", "12.5"), ("flat", "0.1"), (None, None), ("percent", "150")]),
        st.integers(-5, SPAN),
        st.sampled_from([41, 42]),
    ),
    max_size=5,
    unique_by=lambda one: (one.contract_id, one.read_at),
)
lives = st.tuples(states, contracts, prices_read, discounts_read)


def history(changes: list[tuple[int, Any]]) -> list[tuple[datetime, Any]]:
    return [(at(seconds), value) for seconds, value in sorted(dict(changes).items())]


def cost(life: Any, since: int, until: int) -> Cost:
    found, placed, prices, discounts = life
    return money.cost_of(
        VM, history(found), history(placed), prices, discounts, since=at(since), until=at(until), currency="USD"
    )


def second_by_second(life: Any, since: int, until: int) -> tuple[int, int, Fraction]:
    """Billed seconds, unknown seconds, and money: each second looked up by itself, in fractions."""
    found, placed, prices, discounts = life
    billed, unknown, amount = 0, 0, Fraction(0)
    for second in range(since, until):
        state = ([VmState.REQUESTED] + [value for moment, value in sorted(dict(found).items()) if moment <= second])[-1]
        contract_id = ([None] + [value for moment, value in sorted(dict(placed).items()) if moment <= second])[-1]
        if BILLING[state] is Billing.FREE:
            continue
        rate = per_hour(on(contract_id), prices, discounts, seconds=second)
        if rate is None or BILLING[state] is Billing.UNKNOWN:
            unknown += 1
        else:
            billed, amount = billed + 1, amount + Fraction(rate)
    return billed, unknown, amount


@given(life=lives, since=st.integers(-5, SPAN), length=st.integers(0, SPAN))
def test_a_cost_is_what_adding_up_every_second_gives(life: Any, since: int, length: int) -> None:
    found = cost(life, since, since + length)
    exact = (int(found.billed_seconds), int(found.unknown_seconds), Fraction(found.hour_seconds))
    assert exact == second_by_second(life, since, since + length)


@given(life=lives, cuts=st.lists(st.integers(-5, SPAN + 5), min_size=3, max_size=3).map(sorted))
def test_the_costs_of_adjacent_periods_add_up_to_that_of_both(life: Any, cuts: list[int]) -> None:
    first, middle, last = cuts
    assert cost(life, first, middle) + cost(life, middle, last) == cost(life, first, last)


@given(life=lives)
def test_a_cost_is_never_negative_and_never_longer_than_its_period(life: Any) -> None:
    found = cost(life, 0, SPAN)
    assert min(found.billed_seconds, found.unknown_seconds, found.hour_seconds, found.estimate) >= 0
    assert found.billed_seconds + found.unknown_seconds <= SPAN


@settings(max_examples=50)
@given(life=lives, data=st.data())
def test_knowing_fewer_prices_never_makes_fewer_seconds_unknown(life: Any, data: st.DataObject) -> None:
    found, placed, prices, discounts = life
    plain = [one for one in prices if one.resource == GPU and one.currency == "USD"]
    terms = [one for one in discounts if one.kind is not None and one.value is not None and one.value <= 100]
    known = cost((found, placed, plain, terms), 0, SPAN)
    fewer = plain[data.draw(st.integers(0, len(plain))) :] if plain else []
    less = cost((found, placed, fewer, terms), 0, SPAN)
    assert less.unknown_seconds >= known.unknown_seconds
    assert less.billed_seconds + less.unknown_seconds == known.billed_seconds + known.unknown_seconds

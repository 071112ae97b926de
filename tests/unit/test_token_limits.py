"""What an API token may hold: what is counted, what is refused, and what cannot be compared."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from service.core.limits import Limits, Usage
from service.core.token_limits import Size, exceeded, usage_of

numbers = st.integers(0, 9)
usages = st.builds(Usage, vms=numbers, gpus=numbers, price_per_hour=numbers.map(Decimal))
bounds = st.none() | st.integers(1, 9)


@given(held=usages, more=usages, vms=bounds, gpus=bounds, price=bounds)
def test_more_is_refused_exactly_if_both_together_pass_a_limit(
    held: Usage, more: Usage, vms: int | None, gpus: int | None, price: int | None
) -> None:
    limits = Limits(vms=vms, gpus=gpus, price_per_hour=None if price is None else Decimal(price))
    found = {one.field for one in exceeded("ci", limits, held, more, "USD")}
    pairs = {
        "token.max_vms": (vms, held.vms + more.vms),
        "token.max_gpus": (gpus, held.gpus + more.gpus),
        "token.max_price_per_hour": (price, held.price_per_hour + more.price_per_hour),
    }
    assert found == {name for name, (limit, both) in pairs.items() if limit is not None and both > limit}


def test_what_may_become_one_of_several_counts_as_the_largest() -> None:
    assert usage_of(3, [Size(1, Decimal("1.35")), Size(8, Decimal("0.5")), Size(4, Decimal(2))]) == Usage(
        vms=3, gpus=24, price_per_hour=Decimal(6)
    )


def test_what_is_not_known_of_one_choice_is_not_known() -> None:
    assert usage_of(2, [Size(1, None), Size(None, Decimal(2))]) == Usage(
        vms=2, gpus=2, price_per_hour=Decimal(4), unpriced_vms=2, uncounted_vms=2
    )


def test_an_unknown_price_or_number_of_gpus_refuses_only_what_has_such_a_limit() -> None:
    unknown = Usage(vms=2, unpriced_vms=2, uncounted_vms=2)
    assert exceeded("ci", Limits(vms=9), Usage(), unknown, "USD") == []
    limits = Limits(gpus=9, price_per_hour=Decimal(9))
    assert [
        (one.field, one.message) for one in exceeded("ci", limits, Usage(vms=1, unpriced_vms=1), unknown, "USD")
    ] == [
        ("token.max_gpus", "of ci cannot be checked: how many GPUs 2 VMs have is not known"),
        ("token.max_price_per_hour", "of ci cannot be checked: no price is known for 3 VMs"),
    ]

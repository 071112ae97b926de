"""The explorer's comparison of costs: a record that learns of every change late is right, and one that invents any is not."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from service.lab.explorer.money import compared, recomputed
from service.lab.explorer.spans import History, TimedValue, VmHistory, sums
from service.queries.cost import CostRow

END = 1000
PRICE = TimedValue(0, Fraction(2))


def vm(charged: list[tuple[int, bool]], off: list[tuple[int, bool]], prices: Any = (PRICE,)) -> VmHistory:
    return VmHistory(
        charged=History(False, (TimedValue(*one) for one in charged)),
        off=History(None, (TimedValue(*one) for one in off)),
        contract_id=History(None, (TimedValue(at, None if is_off else 41) for at, is_off in off)),
        price=History(None, prices),
        units=1,
        discount={41: History(Fraction(20), ())},
    )


def alternating(times: list[int]) -> list[tuple[int, bool]]:
    return [(at, number % 2 == 0) for number, at in enumerate(sorted(times))]


moments = st.lists(st.integers(1, END - 1), unique=True, max_size=6).map(alternating)
delays = st.lists(st.integers(0, 300), min_size=6, max_size=6)


def late(changes: list[tuple[int, bool]], by: list[int]) -> list[tuple[int, bool]]:
    """What a record has that learns of each change after a while, and of one that is over by then never."""
    learned = [(at + delay, value) for (at, value), delay in zip(changes, by, strict=False)]
    return [
        one
        for one, (_, following) in zip(learned, pairwise([*changes, (END * 9, True)]), strict=True)
        if one[0] < following[0]
    ]


@given(charged=moments, off=moments, by=delays, by_off=delays)
def test_a_record_that_learns_late_or_misses_what_is_over_is_right_and_differs_by_no_more_than_it_was_late(
    charged: list[tuple[int, bool]], off: list[tuple[int, bool]], by: list[int], by_off: list[int]
) -> None:
    real, mine = vm(charged, off), vm(late(charged, by), late(off, by_off))
    assert list(compared(real, mine, END)) == []
    one, other = sums(real, END), sums(mine, END)
    missed = sum(END if at + delay >= END else delay for (at, _), delay in zip(charged, by, strict=False))
    if len(late(charged, by)) == len(charged):
        assert abs(one.known - other.known) * 10**6 <= missed


@given(charged=moments, at=st.integers(1, END - 1))
def test_a_change_that_never_was_is_found(charged: list[tuple[int, bool]], at: int) -> None:
    real, truly = vm(charged, []), [value for when, value in charged if when <= at]
    invented = not (truly[-1] if truly else False)
    before = [one for one in charged if one[0] < at]
    assume(not any(value == invented for _, value in before))  # it would be late news of an earlier change
    assume(invented or before)
    assert list(compared(real, vm([*before, (at, invented)], []), END))


def test_a_wrong_price_is_found_and_one_that_was_not_read_again_yet_is_not() -> None:
    real = vm([(10, True)], [], [PRICE, TimedValue(500, Fraction(3))])
    assert list(compared(real, vm([(10, True)], [], [PRICE]), END)) == []
    assert list(compared(real, vm([(10, True)], [], [PRICE, TimedValue(600, Fraction(3))]), END)) == []
    assert list(compared(real, vm([(10, True)], [], [PRICE, TimedValue(450, Fraction(3))]), END))
    assert list(compared(real, vm([(10, True)], [], [PRICE, TimedValue(600, Fraction(4))]), END))
    assert list(compared(real, vm([(10, True)], [], [TimedValue(0, Fraction(1))]), END))


def test_being_charged_at_the_price_of_a_contract_without_being_on_it_is_found() -> None:
    real = vm([(10, True)], [(5, True)])
    assert list(compared(real, vm([(10, True)], [(5, False)]), END))


def test_a_report_that_differs_from_what_the_record_adds_up_to_is_found() -> None:
    expected = sums(vm([(10, True)], [(5, True)]), END)
    row = CostRow(
        key="1.1",
        vms=1,
        billed_seconds=Decimal("0.00099"),
        unknown_seconds=Decimal(0),
        estimate=Decimal("0.000001"),  # 0.00099 s at 2 an hour is 0.00000055
        off_contract_seconds=Decimal("0.00099"),
        off_contract_unknown_seconds=Decimal(0),
        off_contract_estimate=Decimal("0.000001"),
    )
    assert list(recomputed({"vm_no": 1}, expected, row)) == []
    assert list(recomputed({"vm_no": 1}, expected, None))
    for name in ("billed_seconds", "unknown_seconds", "estimate", "off_contract_seconds", "off_contract_estimate"):
        assert list(recomputed({"vm_no": 1}, expected, replace(row, **{name: Decimal("0.000002")})))


def test_a_callback_may_tell_of_what_is_past_and_an_answer_may_not() -> None:
    real = vm([(100, True), (200, False), (300, True)], [])
    again = vm([(100, True), (200, False), (300, True), (400, False), (500, True)], [])
    assert list(compared(real, replace_by(again, {400}), END)) == []
    assert list(compared(real, again, END)) == ["is not charged on record at 0.0 s, which never was so"]


def replace_by(one: VmHistory, callbacks: set[int]) -> VmHistory:
    return one._replace(by_callback=frozenset(callbacks))

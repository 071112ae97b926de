"""An item that cannot be worked on costs itself and no other."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import LeaseLost, StorageUnavailable, Unstorable
from service.operations.parts import ITEM_ERRORS, in_parts


@given(bad=st.sets(st.integers(0, 99)), size=st.integers(1, 120), error=st.sampled_from(ITEM_ERRORS))
async def test_every_item_but_the_bad_ones_is_worked_on_exactly_once(
    bad: set[int], size: int, error: type[Exception]
) -> None:
    done: list[int] = []

    async def work(items: Sequence[int]) -> None:
        if bad.intersection(items):
            raise error("of an item")
        done.extend(items)

    failed = await in_parts(range(100), work, size=size)
    assert sorted(item for item, _ in failed) == sorted(bad)
    assert sorted(done) == sorted(set(range(100)) - bad)


@pytest.mark.parametrize("error", [StorageUnavailable, LeaseLost])
async def test_what_is_no_items_fault_is_raised_at_once(error: type[Exception]) -> None:
    tried = []

    async def work(part: object) -> None:
        tried.append(part)
        raise error

    with pytest.raises(error):
        await in_parts(range(100), work)
    assert len(tried) == 1


def test_values_that_the_database_does_not_take_are_an_items_fault() -> None:
    assert issubclass(Unstorable, ITEM_ERRORS)

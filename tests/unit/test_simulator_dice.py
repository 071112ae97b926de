import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.simulator.dice import Chance, Dice, Range


def test_the_same_seed_gives_the_same_luck():
    half = Chance(probability=0.5)
    runs = [[dice.hit("lost", half, 0) for _ in range(50)] for dice in (Dice(7), Dice(7), Dice(8))]
    assert runs[0] == runs[1] != runs[2]


def test_what_else_was_asked_does_not_change_the_luck():
    half = Chance(probability=0.5)
    alone, busy = Dice(7), Dice(7)
    expected = [alone.hit("lost", half, 0) for _ in range(50)]
    got = []
    for _ in range(50):
        busy.hit("other", half, 0)
        busy.seconds("other", Range(0, 1))
        got.append(busy.hit("lost", half, 0))
    assert got == expected


def test_the_nth_occasion_is_hit_and_no_other():
    dice, chance = Dice(0), Chance(nth=(2, 4))
    assert [dice.hit("x", chance, 0) for _ in range(5)] == [False, True, False, True, False]


def test_occasions_count_from_one_again_after_a_restart():
    dice, chance = Dice(0), Chance(nth=(1,))
    assert [dice.hit("x", chance, 0), dice.hit("x", chance, 0)] == [True, False]
    dice.restart()
    assert dice.hit("x", chance, 0)


@pytest.mark.parametrize(("now", "hit"), [(9.9, False), (10, True), (19.9, True), (20, False)])
def test_a_period_includes_its_beginning_and_not_its_end(now, hit):
    assert Dice(0).hit("x", Chance(probability=1, since=10, until=20), now) is hit


@given(st.integers(), st.floats(0, 1e6), st.floats(0, 1e6))
def test_seconds_are_within_their_range(seed, one, other):
    low, high = sorted((one, other))
    assert low <= Dice(seed).seconds("boot", Range(low, high)) <= high


def test_a_probability_is_about_as_often_as_it_says():
    dice = Dice(1)
    hits = sum(dice.hit("x", Chance(probability=0.2), 0) for _ in range(2000))
    assert 320 < hits < 480


def test_impossible_chances_and_ranges_are_refused():
    with pytest.raises(ValueError, match="probability"):
        Chance(probability=1.5)
    with pytest.raises(ValueError, match="upwards"):
        Range(3, 2)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.simulator.rng import Range, Rng, Trigger


def test_the_same_seed_gives_the_same_luck():
    half = Trigger(probability=0.5)
    runs = [[rng.fires("lost", half, 0) for _ in range(50)] for rng in (Rng(7), Rng(7), Rng(8))]
    assert runs[0] == runs[1] != runs[2]


def test_what_else_was_asked_does_not_change_the_luck():
    half = Trigger(probability=0.5)
    alone, busy = Rng(7), Rng(7)
    expected = [alone.fires("lost", half, 0) for _ in range(50)]
    got = []
    for _ in range(50):
        busy.fires("other", half, 0)
        busy.seconds("other", Range(0, 1))
        got.append(busy.fires("lost", half, 0))
    assert got == expected


def test_the_nth_occasion_is_hit_and_no_other():
    rng, trigger = Rng(0), Trigger(nth=(2, 4))
    assert [rng.fires("x", trigger, 0) for _ in range(5)] == [False, True, False, True, False]


def test_occasions_count_from_one_again_after_a_restart():
    rng, trigger = Rng(0), Trigger(nth=(1,))
    assert [rng.fires("x", trigger, 0), rng.fires("x", trigger, 0)] == [True, False]
    rng.restart()
    assert rng.fires("x", trigger, 0)


@pytest.mark.parametrize(("now", "hit"), [(9.9, False), (10, True), (19.9, True), (20, False)])
def test_a_period_includes_its_beginning_and_not_its_end(now, hit):
    assert Rng(0).fires("x", Trigger(probability=1, since=10, until=20), now) is hit


@given(st.integers(), st.floats(0, 1e6), st.floats(0, 1e6))
def test_seconds_are_within_their_range(seed, one, other):
    low, high = sorted((one, other))
    assert low <= Rng(seed).seconds("boot", Range(low, high)) <= high


def test_a_probability_is_about_as_often_as_it_says():
    rng = Rng(1)
    hits = sum(rng.fires("x", Trigger(probability=0.2), 0) for _ in range(2000))
    assert 320 < hits < 480


def test_impossible_chances_and_ranges_are_refused():
    with pytest.raises(ValueError, match="probability"):
        Trigger(probability=1.5)
    with pytest.raises(ValueError, match="range"):
        Range(3, 2)

"""Waits between tries."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.backoff import Backoff

jitters = st.floats(0, 1, exclude_max=True)
attempts = st.integers(-5, 10_000)
backoffs = st.builds(Backoff, st.floats(0.001, 100), st.floats(100, 10_000), st.floats(0, 0.5))


@pytest.mark.parametrize(("attempt", "seconds"), [(0, 2), (1, 2), (2, 4), (3, 8), (6, 60), (10_000, 60)])
def test_the_wait_doubles_with_each_attempt_up_to_the_cap(attempt, seconds):
    assert Backoff(first=2, cap=60).after(attempt, 1.0) == timedelta(seconds=seconds)


def test_the_jitter_draws_between_nothing_and_the_full_wait_but_not_under_the_floor():
    backoff = Backoff(first=10, cap=60, floor=1)
    assert backoff.after(1, 0.0) == timedelta(seconds=1)
    assert backoff.after(1, 0.5) == timedelta(seconds=5)
    assert backoff.after(2, 0.5) == timedelta(seconds=10)


@given(backoffs, attempts, jitters)
def test_no_wait_is_under_the_floor_or_over_the_cap(backoff, attempt, jitter):
    wait = backoff.after(attempt, jitter).total_seconds()
    assert backoff.floor - 1e-6 <= wait <= backoff.cap + 1e-6


@given(backoffs, st.integers(1, 200), jitters)
def test_more_attempts_never_wait_less_for_the_same_draw(backoff, attempt, jitter):
    assert backoff.after(attempt, jitter) <= backoff.after(attempt + 1, jitter)

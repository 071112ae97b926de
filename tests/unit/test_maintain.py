"""Keeping the count: never more replacements an hour than allowed, and an end to crash loops."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from service.core.maintain import LastHour, Maintain, Repair, crashes_in_a_row, decide_repairs

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def repair(created: float, ready: float | None = None, failed: float | None = None) -> Repair:
    return Repair(at(created), None if ready is None else at(ready), None if failed is None else at(failed))


def decided(wanted: int, repairs, policy, now):
    made = [one.created_at for one in repairs if one.created_at > now - timedelta(hours=1)]
    return decide_repairs(wanted, repairs, LastHour(len(made), min(made, default=None)), policy, now)


POLICY = Maintain(enabled=True, max_per_hour=4, stable_seconds=600, stop_after=3)
CRASH, STABLE = repair(-30, -29, -25), repair(-100, -98)


def test_what_failed_is_replaced_up_to_the_limit_of_the_hour():
    assert decided(3, [], POLICY, NOON).allowed == 3
    some = decided(9, [repair(-20), repair(-61)], POLICY, NOON)
    assert (some.allowed, some.again_at) == (3, at(40))
    none = decided(1, [repair(-20)] * 4, POLICY, NOON)
    assert (none.allowed, none.again_at) == (0, at(40))


def test_replacements_that_keep_failing_stop_it():
    assert decided(1, [CRASH] * 2, POLICY, NOON).stop is None
    stopped = decided(1, [CRASH] * 3, POLICY, NOON)
    assert stopped.allowed == 0
    assert stopped.stop == "maintain stopped: 3 replacements in a row failed within 10m of being ready"


def test_a_replacement_that_was_never_ready_is_a_crash_and_one_that_proved_stable_is_none():
    assert crashes_in_a_row([repair(-30, None, -20)], POLICY, NOON) == 1
    assert crashes_in_a_row([repair(-30, -25, -10)], POLICY, NOON) == 0
    assert crashes_in_a_row([repair(-5), repair(-9, -5)], POLICY, NOON) == 0  # not known yet


def test_a_replacement_that_a_caller_deleted_too_soon_to_tell_is_neither():
    deleted = Repair(at(-20), at(-15), deleted_at=at(-10))
    assert crashes_in_a_row([CRASH, CRASH, deleted], POLICY, NOON) == 2
    assert crashes_in_a_row([CRASH, CRASH, Repair(at(-20), at(-15), deleted_at=at(-2))], POLICY, NOON) == 0


def test_a_stable_replacement_ends_the_row():
    later = repair(-20, -15)  # proven at -5
    assert crashes_in_a_row([CRASH, CRASH, later], POLICY, NOON) == 0
    assert crashes_in_a_row([STABLE, CRASH, CRASH], POLICY, NOON) == 2


@st.composite
def histories(draw):
    policy = Maintain(
        enabled=True,
        max_per_hour=draw(st.integers(1, 6)),
        stable_seconds=draw(st.integers(0, 1200)),
        stop_after=draw(st.integers(1, 5)),
    )
    return policy, draw(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 8), st.booleans()), max_size=30))


@given(histories())
def test_the_hours_limit_holds_in_any_history_and_waiting_until_told_helps(history):
    policy, steps = history
    made: list[Repair] = []
    now = NOON
    for minutes, wanted, crashes in steps:
        now += timedelta(minutes=minutes)
        decision = decided(wanted, made, policy, now)
        if decision.stop is not None:
            assert decision.allowed == 0
            return
        assert decision.allowed <= wanted
        ready = now + timedelta(minutes=1)
        failed = ready + timedelta(seconds=policy.stable_seconds / 2) if crashes else None
        made += [Repair(now, ready, failed)] * decision.allowed
        assert sum(one.created_at > now - timedelta(hours=1) for one in made) <= policy.max_per_hour
        if decision.allowed < wanted:
            later = decided(wanted - decision.allowed, made, policy, decision.again_at)
            assert decision.again_at > now
            assert later.allowed > 0 or later.stop is not None

"""UUID version 7: their form, and that their order is the order of making."""

from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID, uuid4

from hypothesis import example, given
from hypothesis import strategies as st

from service.core.ids import uuid7, uuid7_time

times = st.datetimes(datetime(1970, 1, 2), datetime(2900, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  the zone is beside it
chances = st.binary(min_size=8, max_size=16)


@given(times, chances, st.integers(0, 4095))
def test_an_id_is_a_version_seven_uuid_of_its_time(now, rng, sequence):
    made = uuid7(now, rng, sequence=sequence)
    assert (made.version, made.variant) == (7, RFC_4122)
    assert made.int >> 80 == (now - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


@given(times, chances, chances, st.integers(1, 10**9))
@example(datetime(2243, 1, 1, tzinfo=UTC), bytes(8), bytes(8), 1)  # where a float makes the two the same
def test_ids_sort_as_made_whatever_the_chance(now, one, other, milliseconds):
    later = now + timedelta(milliseconds=milliseconds)
    first, second = uuid7(now, one), uuid7(later, other)
    assert first < second
    assert str(first) < str(second)


@given(times, chances, chances, st.integers(0, 4094))
def test_ids_of_one_millisecond_sort_by_their_sequence(now, one, other, sequence):
    assert uuid7(now, one, sequence=sequence) < uuid7(now, other, sequence=sequence + 1)


@given(times, chances, chances)
def test_another_chance_makes_another_id(now, one, other):
    same_bits = int.from_bytes(one[:8], "big") & (2**62 - 1) == int.from_bytes(other[:8], "big") & (2**62 - 1)
    assert (uuid7(now, one) == uuid7(now, other)) == same_bits


@given(times, chances)
def test_an_id_tells_when_it_was_made_to_the_millisecond(now, rng):
    assert timedelta(0) <= now - uuid7_time(uuid7(now, rng)) < timedelta(milliseconds=1)


@given(st.uuids())
def test_no_id_is_taken_for_one_of_another_time(any_id):
    assert uuid7_time(any_id) is None or uuid7_time(any_id).year < 6430


def test_other_ids_do_not_tell_when_they_were_made():
    assert uuid7_time(uuid4()) is None
    assert uuid7_time(UUID("ffffffff-ffff-7fff-8000-000000000000")) is None

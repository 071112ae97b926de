"""Groups as messages of a stream: all that fits is read again, in its order, and no message is larger than allowed."""

from hypothesis import given
from hypothesis import strategies as st
from stored_events import EVENTS, event

from service.receiver.records import header, pack
from service.receiver.spool_stream import _packed, _read

SALT = b"sixteen bytes..."


@given(st.lists(EVENTS, max_size=20, unique_by=lambda one: one.event_id), st.integers(300, 3000))
def test_what_fits_is_read_again_in_its_order_and_the_rest_is_counted(events, most_bytes):
    packed = _packed(events, most_bytes)
    read = [one for message in packed.messages.values() for one in _read(message).events]
    fitting = [one for one in events if len(header(SALT) + pack(one, SALT)) <= most_bytes]
    assert read == fitting
    assert packed.too_large == len(events) - len(fitting)
    assert all(len(message) <= most_bytes for message in packed.messages.values())
    assert all(_read(message).unreadable == 0 for message in packed.messages.values())


def test_a_group_is_as_few_messages_as_sensible_and_each_is_named_after_its_first_event():
    group = [event(number, body=b"x" * 100_000) for number in range(12)]
    messages = _packed(group, 2**20).messages
    assert list(messages) == [group[number].event_id.hex for number in (0, 5, 10)]


@given(st.binary(max_size=300))
def test_whatever_is_published_is_read_without_an_error(garbage):
    assert _read(garbage).events == []
    assert _read(garbage).unreadable
    assert _read(header(SALT) + garbage).unreadable

"""The spool's bytes: whatever happens to them, what was written before is still read, and nothing else ever is."""

from hypothesis import given
from hypothesis import strategies as st
from stored_events import EVENTS, event

from service.receiver.records import HEADER_BYTES, header, pack, unpack

SALT = b"sixteen bytes..."
OTHER_SALT = b"sixteen others.."


def segment(*records: bytes) -> bytes:
    return b"".join((header(SALT), *records))


@given(st.lists(EVENTS, max_size=5))
def test_what_is_written_is_read(events):
    contents = unpack(segment(*(pack(one, SALT) for one in events)))
    assert contents.events == events
    assert contents.unreadable == 0


@given(st.lists(EVENTS, min_size=1, max_size=4), st.data())
def test_a_torn_last_record_costs_nothing_but_itself(events, data):
    *whole, last = (pack(one, SALT) for one in events)
    kept = data.draw(st.integers(0, len(last) - 1))
    contents = unpack(segment(*whole, last[:kept]))
    assert contents.events == events[:-1]
    assert contents.unreadable == kept


@given(st.lists(EVENTS, min_size=1, max_size=4), st.data())
def test_flipped_bits_in_the_last_record_cost_nothing_but_it(events, data):
    *whole, last = (pack(one, SALT) for one in events)
    damaged = bytearray(last)
    for bit in data.draw(st.sets(st.integers(0, 8 * len(last) - 1), min_size=1, max_size=8)):
        damaged[bit // 8] ^= 1 << bit % 8
    contents = unpack(segment(*whole, bytes(damaged)))
    assert contents.events == events[:-1]
    assert contents.unreadable == len(last)


@given(st.lists(EVENTS, min_size=2, max_size=5), st.data())
def test_damage_in_the_middle_costs_only_the_record_that_it_is_in(events, data):
    records = [bytearray(pack(one, SALT)) for one in events]
    which = data.draw(st.integers(0, len(events) - 1))
    at = data.draw(st.integers(0, len(records[which]) - 1))
    records[which][at] ^= data.draw(st.integers(1, 255))
    contents = unpack(segment(*map(bytes, records)))
    assert contents.events == [*events[:which], *events[which + 1 :]]
    assert contents.unreadable == len(records[which])


@given(st.binary(max_size=400))
def test_garbage_is_no_event_and_no_error(garbage):
    assert unpack(garbage).events == []
    assert unpack(garbage).unreadable == len(garbage)
    assert unpack(segment(garbage)).events == []


@given(EVENTS, st.integers(1, 60))
def test_a_body_that_looks_like_records_is_never_taken_for_any(forged, lost):
    # The sender knows the format, and not the salt. Its record is torn, so that its inside is looked through.
    body = segment(pack(forged, OTHER_SALT)) * 2
    torn = pack(event(body=body), SALT)[:-lost]
    assert unpack(segment(torn)).events == []


def test_a_segment_cut_within_its_header_is_unreadable_and_nothing_worse():
    whole = segment(pack(event(), SALT))
    for length in range(HEADER_BYTES):
        assert unpack(whole[:length]).events == []

"""What an event says about its delivery."""

import hashlib
import random
from datetime import timedelta

from clock import NOON, ManualClock
from hypothesis import given
from hypothesis import strategies as st
from stored_events import REF

from service.receiver.event_factory import EventFactory


def heard(arrivals, **overrides):
    return arrivals.event(**{"ref": REF, "body": b"{}", "headers": (), "peer": None, **overrides})


@given(st.lists(st.integers(-5000, 5000), min_size=1, max_size=50))
def test_each_event_is_later_than_the_one_before_though_the_clock_wavers(steps):
    clock = ManualClock()
    arrivals = EventFactory(clock.now, random.Random(1))
    events = []
    for step in steps:
        clock.set(NOON + timedelta(microseconds=step))
        events.append(heard(arrivals))
    times = [one.received_at for one in events]
    assert times == sorted(set(times))
    ids = [one.event_id for one in events]
    assert ids == sorted(ids)


def test_after_the_clock_was_set_back_events_have_its_new_time():
    clock = ManualClock()
    factory = EventFactory(clock.now, random.Random(1))
    first = heard(factory)
    clock.advance(-3600)
    second, third = heard(factory), heard(factory)
    assert second.received_at == first.received_at - timedelta(hours=1)
    assert third.received_at > second.received_at


def test_an_event_holds_the_body_and_its_digest():
    one = heard(EventFactory(ManualClock().now, random.Random(1)), body=b"abc", peer="192.0.2.1")
    assert one.body == b"abc"
    assert one.digest == hashlib.sha256(b"abc").digest()
    assert one.ref == REF
    assert one.received_at == NOON
    assert one.peer == "192.0.2.1"


@given(st.binary(max_size=40))
def test_any_header_becomes_text_that_postgres_takes(value):
    one = heard(EventFactory(ManualClock().now, random.Random(1)), headers=((b"User-Agent", value),))
    text = one.headers["user-agent"]
    assert "\x00" not in text
    text.encode()


def test_headers_that_are_not_stored_are_not_kept_in_memory_either():
    factory = EventFactory(ManualClock().now, random.Random(1))
    agent = (b"User-Agent", b"sender")
    one, other = (heard(factory, headers=(agent, (b"Authorization", secret))) for secret in (b"one", b"other"))
    assert one.headers == {"user-agent": "sender"}
    assert one.headers is other.headers  # from the cache, which knows nothing of the secret

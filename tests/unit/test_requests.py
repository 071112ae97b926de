"""What is heard in a connection's bytes, however they are cut, and what is refused before it can do harm."""

import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from clock import ManualClock
from heard import REF
from hypothesis import given
from hypothesis import strategies as st

from service.core.token import mint
from service.receiver import answers
from service.receiver.arrival import Arrivals
from service.receiver.bounds import Bounds
from service.receiver.desk import Desk, Limits
from service.receiver.intake import Intake
from service.receiver.requests import MOST_FRAMING, MOST_HEAD, Requests
from service.telemetry import Metrics

SECRET = b"a secret of thirty-two characters"
TOKEN = mint(REF, SECRET).encode()
LARGEST = 4096


@dataclass
class Ear:
    """Writes down what it is told."""

    heard: list = field(default_factory=list)
    refused: list = field(default_factory=list)
    alive: int = 0
    invited: int = 0

    def begins(self):
        pass

    def headed(self, *, invite):
        self.invited += invite

    def hears(self, ref, body, headers, held, *, keep_alive):
        assert held == len(body)
        self.heard.append((ref, body, headers, keep_alive))

    def asked_if_alive(self, *, keep_alive, without_body):
        self.alive += 1

    def refuses(self, answer, *, without_body):
        self.refused.append(answer)


def listening(most_bytes=2**20):
    metrics = Metrics()
    clock = ManualClock()
    desk = Desk(
        intake=Intake(None, most_waiting=1, metrics=metrics),
        arrivals=Arrivals(clock.now, random.Random(1)),
        bounds=Bounds(most_connections=10, most_bytes=most_bytes),
        limits=Limits(most_body=LARGEST, head_seconds=1, body_seconds=1, idle_seconds=1),
        secrets=(SECRET,),
        metrics=metrics,
    )
    ear = Ear()
    return desk, ear, Requests(desk, ear)


def after(*parts):
    _, ear, requests = listening()
    for part in parts:
        requests.feed(part)
    return ear


def request(body=b"{}", *headers, method=b"POST", target=b"/callbacks/" + TOKEN):
    head = [method + b" " + target + b" HTTP/1.1", b"Host: x", *headers]
    if body is not None:
        head.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*head, b"", body or b""])


def chunked(*chunks, trailers=b""):
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return request(None, b"Transfer-Encoding: chunked") + body + b"0\r\n" + trailers + b"\r\n"


def test_a_callback_is_heard_with_its_body_as_it_came():
    ear = after(request(b'{"a": 1}\xff\x00'))
    assert [(ref, body) for ref, body, _, _ in ear.heard] == [(REF, b'{"a": 1}\xff\x00')]
    assert ear.refused == []


@given(st.lists(st.integers(0, 400), max_size=12))
def test_it_does_not_matter_how_the_bytes_are_cut(cuts):
    whole = request(b"one", b"User-Agent: x") + chunked(b"tw", b"o") + request(b"")
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    ear = after(*(whole[a:b] for a, b in pairwise(edges)))
    assert [body for _, body, _, _ in ear.heard] == [b"one", b"two", b""]
    assert ear.heard[0][2] == {"user-agent": b"x"}


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_no_bytes_raise_and_none_are_held_for_good(parts):
    desk, _, requests = listening()
    for part in parts:
        requests.feed(part)
    requests.stop()
    assert desk.bounds.held == 0


@given(st.binary(max_size=200))
def test_nothing_is_heard_in_garbage_after_a_good_head(garbage):
    desk, ear, requests = listening()
    requests.feed(request(b"x" * 300)[:-300] + garbage)
    assert ear.heard == []
    requests.stop()
    assert desk.bounds.held == 0


@pytest.mark.parametrize(
    "target",
    [
        b"/callbacks/" + TOKEN[:-1] + b"x",
        b"/callbacks/" + TOKEN + b"/",
        b"/callbacks/" + TOKEN.upper(),
        b"/callbacks/",
        b"/callbacks",
        b"/",
        b"/livez/",
        b"/metrics",
        b"/callbacks/" + b"0" * 70,
        b"*",
        b"http://x/callbacks/" + TOKEN,
    ],
)
def test_what_is_not_there_is_refused_and_its_body_not_read(target):
    ear = after(request(b"x" * 100, target=target)[:-100])
    assert ear.refused == [answers.NOT_FOUND]


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"PATCH"])
def test_only_a_post_is_a_callback(method):
    assert after(request(b"", method=method)).heard == []


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_a_listener_that_lives_says_so(method):
    assert after(request(None, method=method, target=b"/livez")).alive == 1


def test_a_query_is_passed_over():
    assert len(after(request(b"{}", target=b"/callbacks/" + TOKEN + b"?from=Infrahub")).heard) == 1


def test_a_body_that_says_it_is_too_large_is_refused_at_its_headers():
    ear = after(request(None, b"Content-Length: %d" % (LARGEST + 1)) + b"")
    assert ear.refused == [answers.TOO_LARGE]


def test_the_largest_body_is_heard():
    assert len(after(request(b"x" * LARGEST)).heard) == 1
    assert len(after(chunked(b"x" * LARGEST)).heard) == 1


def test_a_chunked_body_is_refused_where_it_becomes_too_large():
    desk, ear, requests = listening()
    head, _, _ = chunked(b"").partition(b"0\r\n")
    requests.feed(head)
    requests.feed(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
    assert ear.refused == []
    requests.feed(b"1\r\nx\r\n")
    assert ear.refused == [answers.TOO_LARGE]
    assert desk.bounds.held == 0


def test_a_compressed_body_is_kept_as_it_came():
    bomb = b"\x1f\x8b\x08\x00" + b"\x00" * 50
    ((_, body, headers, _),) = after(request(bomb, b"Content-Encoding: gzip")).heard
    assert body == bomb
    assert headers["content-encoding"] == b"gzip"


def test_headers_with_secrets_are_dropped():
    ((_, _, headers, _),) = after(
        request(b"{}", b"Authorization: Bearer x", b"Cookie: a=b", b"X-Api-Key: y", b"X-Request-Id: 7")
    ).heard
    assert headers == {"x-request-id": b"7"}


def test_a_repeated_header_keeps_both_values():
    ((_, _, headers, _),) = after(request(b"{}", b"X-Forwarded-For: a", b"x-forwarded-for: b")).heard
    assert headers == {"x-forwarded-for": b"a, b"}


def test_an_empty_header_does_not_swallow_the_next():
    ((_, body, headers, _),) = after(request(b"{}", b"X-Empty:", b"User-Agent: y")).heard
    assert body == b"{}"
    assert headers == {"user-agent": b"y"}


def test_trailers_are_no_headers():
    ((_, body, headers, _),) = after(chunked(b"abc", trailers=b"User-Agent: late\r\n")).heard
    assert body == b"abc"
    assert headers == {}


def test_headers_without_end_are_refused():
    ear = after(b"POST / HTTP/1.1\r\nX: ", *[b"y" * 4096] * (MOST_HEAD // 4096 + 1))
    assert ear.refused == [answers.HEAD_TOO_LARGE]


def test_trailers_without_end_are_refused():
    ear = after(chunked(b"a")[:-2] + b"X: ", *[b"y" * 65536] * (MOST_FRAMING // 65536 + 2))
    assert ear.refused == [answers.TOO_LARGE]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # somebody speaks TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /x HTTP/9.9\r\n\r\n",
        request(None, b"Content-Length: 1", b"Content-Length: 2"),
        request(None, b"Content-Length: -1"),
        request(None, b"Content-Length: 99999999999999999999999999"),
        request(b"{}", b"Transfer-Encoding: chunked"),
        request(b"{}", b"Bad Header: x"),
        request(b"{}", b"X: a\x00b"),
        request(None, b"Transfer-Encoding: chunked") + b"zz\r\n",
    ],
)
def test_malformed_requests_are_refused_once_and_nothing_is_heard(nonsense):
    ear = after(nonsense, nonsense)
    assert ear.heard == []
    assert ear.refused == [answers.MALFORMED]


def test_nothing_is_read_behind_a_refusal():
    ear = after(request(b"{}", target=b"/nowhere") + request(b"{}"), request(b"{}"))
    assert ear.heard == []
    assert ear.refused == [answers.NOT_FOUND]


def test_nothing_is_read_behind_the_last_request_of_a_connection():
    ear = after(request(b"one", b"Connection: close") + request(b"two"))
    assert [(body, keep_alive) for _, body, _, keep_alive in ear.heard] == [(b"one", False)]


@given(st.integers(0, 700))
def test_an_offer_to_change_the_protocol_is_passed_over(cut):
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAM", b"User-Agent: x")
    one = request(b"one", *offer)
    two = chunked(b"two").replace(b"Host: x", b"\r\n".join(offer))
    whole = one + two + request(b"three")
    ear = after(whole[:cut], whole[cut:])
    assert [body for _, body, _, _ in ear.heard] == [b"one", b"two", b"three"]
    assert ear.heard[0][2] == {"user-agent": b"x"}


def test_a_wrong_token_with_such_an_offer_is_a_wrong_token():
    ear = after(request(b"one", b"Connection: Upgrade", b"Upgrade: websocket", target=b"/callbacks/x"))
    assert ear.refused == [answers.NOT_FOUND]


def test_a_sender_that_waits_to_be_asked_is_asked_only_for_what_will_be_heard():
    expecting = b"Expect: 100-continue"
    assert after(request(b"{}", expecting)).invited == 1
    assert after(request(b"{}", expecting, target=b"/nowhere")).invited == 0
    assert after(request(None, expecting, b"Content-Length: %d" % (LARGEST + 1))).invited == 0


def test_bytes_beyond_the_bound_are_turned_away_and_let_go():
    desk, ear, requests = listening(most_bytes=1500)
    desk.bounds.take(1000)
    requests.feed(request(b"x" * 1000))
    assert ear.refused == [answers.BUSY]
    assert desk.bounds.held == 1000


def test_a_mistake_of_ours_costs_one_answer():
    _, ear, requests = listening()
    ear.hears = None
    requests.feed(request(b"{}"))
    assert ear.refused == [answers.NOT_KEPT]

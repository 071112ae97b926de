"""The API client: errors by kind, pages, and what it refuses to send."""

import traceback

import pytest
from fake_api import FakeApi, ok, problem
from hypothesis import given
from hypothesis import strategies as st

from service.cli.api_client import url_of
from service.cli.exits import Exit, from_api
from service.client.errors import ApiError, ErrorKind, InvalidClientOption, WaitTimeout
from service.client.exchange import RawResponse, Retries
from service.client.http import ApiClient
from service.client.sync import Rollcall


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, ErrorKind.REFUSED, Exit.REFUSED),
        (401, ErrorKind.UNAUTHORIZED, Exit.REFUSED),
        (404, ErrorKind.NOT_FOUND, Exit.NOT_FOUND),
        (405, ErrorKind.REFUSED, Exit.REFUSED),
        (409, ErrorKind.CONFLICT, Exit.REFUSED),
        (413, ErrorKind.REFUSED, Exit.REFUSED),
        (422, ErrorKind.REFUSED, Exit.REFUSED),
        (500, ErrorKind.UNEXPECTED, Exit.FAILED),
        (502, ErrorKind.UNEXPECTED, Exit.FAILED),
        (503, ErrorKind.UNAVAILABLE, Exit.UNREACHABLE),
    ],
)
def test_each_status_has_its_kind_and_its_exit_code(status: int, kind: ErrorKind, code: Exit) -> None:
    with pytest.raises(ApiError) as raised:
        FakeApi(lambda *_: problem(status, detail="no more")).vm(7)
    assert (raised.value.kind, raised.value.status) == (kind, status)
    assert from_api(raised.value).code is code
    assert "no more" in raised.value.detail or kind is ErrorKind.UNAUTHORIZED


def test_every_invalid_field_gets_a_line() -> None:
    fields = [{"field": "count", "message": "is 0"}, {"field": "name", "message": "is missing"}]
    with pytest.raises(ApiError) as raised:
        FakeApi(lambda *_: problem(422, detail="x", errors=fields)).fleet()
    assert raised.value.invalid_fields == (("count", "is 0"), ("name", "is missing"))
    assert from_api(raised.value).lines == ("count: is 0", "name: is missing")


def test_a_refused_token_is_named_by_its_source_and_never_printed() -> None:
    with pytest.raises(ApiError) as raised:
        FakeApi(lambda *_: problem(401), token_source=".data/api-token").vm(7)
    assert raised.value.detail == "the API token from .data/api-token was refused by http://127.0.0.1:8081"


def test_a_missing_token_says_where_it_was_looked_for() -> None:
    with pytest.raises(ApiError) as raised:
        FakeApi(lambda *_: problem(401), None, token_source="looked in .data/api-token").vm(7)
    assert raised.value.detail == "http://127.0.0.1:8081 needs an API token; none was found: looked in .data/api-token"


@pytest.mark.parametrize("status", [200, 201, 302, 401, 404, 503])
@pytest.mark.parametrize("value", [None, "text", [], {"status": False}, 7])
def test_an_answer_of_something_else_is_no_daemon(status: int, value: object) -> None:
    if status < 300 and isinstance(value, dict):
        value = {"items": 7, "next": None}
    with pytest.raises(ApiError, match="is not Rollcall's API") as raised:
        list(FakeApi(lambda *_: RawResponse(status, "application/json", value)).vms())
    assert raised.value.kind is ErrorKind.UNREACHABLE


def test_pages_are_read_to_their_end() -> None:
    pages = {"": ([1, 2], "b"), "b": ([3, 4], "c"), "c": ([5], None)}

    def answer(_method: str, target: str) -> RawResponse:
        items, following = pages[target.partition("cursor=")[2].partition("&")[0]]
        return ok({"items": items, "next": following})

    assert list(FakeApi(answer).vms()) == [1, 2, 3, 4, 5]


def test_no_more_pages_are_read_than_wanted() -> None:
    client = FakeApi(lambda *_: ok({"items": [1, 2], "next": "b"}))
    assert len(list(client.vms(limit=4))) == 4
    assert client.requests == ["GET /v1/vms?limit=4", "GET /v1/vms?limit=2&cursor=b"]


def test_every_page_of_a_period_that_ends_now_is_of_the_same_period() -> None:
    head = {"by": "vm", "since": "2026-03-01T00:00:00Z", "until": "2026-03-02T12:00:00Z"}
    pages = iter([([1], "b"), ([2], None)])

    def answer(_method: str, _target: str) -> RawResponse:
        items, following = next(pages)
        return ok({**head, "items": items, "next": following})

    client = FakeApi(answer)
    found = client.cost(by="vm")
    assert (found.head, list(found)) == (head, [1, 2])
    assert client.requests[0] == "GET /v1/cost?by=vm&limit=1000"
    assert "until=2026-03-02T12%3A00%3A00Z" in client.requests[1]


@pytest.mark.parametrize(
    ("tried", "of", "error", "pauses"),
    [
        ("a GET", "fleet", problem(503), 4),
        ("a GET", "fleet", ApiError(ErrorKind.UNREACHABLE, "no answer"), 4),
        ("a GET", "fleet", problem(404), 0),
        ("a GET", "fleet", problem(500), 0),
        ("a submission, by its key", "submit", ApiError(ErrorKind.UNREACHABLE, "no answer"), 4),
        ("a submission that is wrong", "submit", problem(422), 0),
        ("what may be done twice", "replay_event", ApiError(ErrorKind.UNREACHABLE, "no answer"), 0),
        ("what was certainly not done", "replay_event", problem(429), 4),
    ],
)
def test_what_is_safe_to_send_again_is_sent_again(
    tried: str, of: str, error: RawResponse | ApiError, pauses: int
) -> None:
    def answer(_method: str, _target: str) -> RawResponse:
        if isinstance(error, ApiError):
            raise error
        return error

    paused: list[float] = []
    client = FakeApi(answer, pause=paused.append, retries=Retries())
    with pytest.raises(ApiError):
        getattr(client, of)(*{"fleet": (), "submit": ({},), "replay_event": ("E",)}[of])
    assert len(paused) == pauses, tried
    assert all(
        low <= found <= high
        for found, (low, high) in zip(paused, [(0.25, 0.5), (0.5, 1), (1, 2), (2, 4)], strict=False)
    )


def test_a_daemon_that_says_when_to_come_back_is_asked_again_then() -> None:
    paused: list[float] = []
    busy = RawResponse(429, "application/problem+json", {"title": "No"}, retry_after=7)
    with pytest.raises(ApiError) as raised:
        FakeApi(lambda *_: busy, pause=paused.append, retries=Retries(most=1)).fleet()
    assert paused == [7]
    assert raised.value.retry_after == 7


def test_waiting_ends_when_its_time_is_over_and_says_how_far_it_is() -> None:
    now = iter(range(0, 100, 2))
    open_ = {"submission_id": "S", "state": "open", "ready": 1, "count": 2, "reasons": ["no stock"]}
    client = FakeApi(lambda *_: ok(open_), pause=lambda _: None, clock=lambda: next(now))
    with pytest.raises(WaitTimeout, match="not ready after 10 s: 1 of 2 VMs are ready; no stock"):
        client.wait("S", timeout=10)
    assert len(client.requests) == 5


def test_paths_and_filters_are_written_safely() -> None:
    client = FakeApi(lambda *_: ok({"items": [], "next": None}))
    list(client.vms(ready=True, name="x&y", state=None))
    list(client.vm_timeline("a/../b?c", limit=1))
    client.vm("\udcff")
    assert client.requests == [
        "GET /v1/vms?ready=true&name=x%26y&limit=1000",
        "GET /v1/vms/a%2F..%2Fb%3Fc/timeline?limit=1",
        "GET /v1/vms/%3F",
    ]


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8081", "ftp://x", "http://", "http://x:99999", "http://x y", "http://x/\r\n", "http://u:pw@host"],
)
def test_what_is_no_url_of_a_daemon_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(InvalidClientOption, match="URL") as raised:
        ApiClient(url)
    assert "pw" not in str(raised.value)


@given(st.text(min_size=1), st.sampled_from("\r\n\0\t\x7f\x85\xe9\u202e\u591c\udcff"), st.text())
def test_a_token_that_a_header_cannot_carry_is_refused_and_never_printed(before: str, bad: str, after: str) -> None:
    secret = f"hunter2-{before}"
    with pytest.raises(InvalidClientOption) as raised:
        ApiClient("http://127.0.0.1:9", secret + bad + after, token_source="ROLLCALL_API_TOKEN")
    printed = "".join(traceback.format_exception(raised.value))
    assert "hunter2" not in str(raised.value)
    assert "the API token from ROLLCALL_API_TOKEN" in str(raised.value)
    assert "hunter2" not in printed


@given(st.text(), st.sampled_from("\r\n\0\x85\xe9\u591c"))
def test_a_header_that_cannot_be_sent_is_refused_by_name(text: str, bad: str) -> None:
    with pytest.raises(InvalidClientOption, match="Idempotency-Key"):
        Rollcall("http://127.0.0.1:9").submit({}, idempotency_key=text + bad)


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:8081", "http://127.0.0.1:8081"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:80", "http://[::1]:80"),
        ("rollcall.internal:8081", "http://rollcall.internal:8081"),
    ],
)
def test_a_daemon_that_listens_everywhere_is_called_here(listen: str, url: str) -> None:
    assert url_of(listen) == url

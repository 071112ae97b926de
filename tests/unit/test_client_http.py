"""How the commands take the daemon's answers: exit codes, sentences, pages, waiting."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import typer

from service.cli.api_client import url_of
from service.cli.exits import CliError, Exit
from service.cli.waiting import standing, until_ended
from service.client.http import ApiClient


class Told(ApiClient):
    """A daemon that answers what the test says, and remembers what it was asked."""

    def __init__(self, answer: Callable[[str, str], tuple[int, Any]]) -> None:
        super().__init__("http://127.0.0.1:8081", "a-token-of-tests")
        self.asked: list[str] = []
        self._answer = answer

    def exchange(self, method: str, target: str, body: object, headers: Mapping[str, str]) -> tuple[int, Any]:
        self.asked.append(f"{method} {target}")
        return self._answer(method, target)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, Exit.REFUSED),
        (404, Exit.NOT_FOUND),
        (409, Exit.REFUSED),
        (413, Exit.REFUSED),
        (422, Exit.REFUSED),
        (500, Exit.FAILED),
        (503, Exit.UNREACHABLE),
    ],
)
def test_each_refusal_has_its_exit_code(status: int, code: Exit) -> None:
    with pytest.raises(CliError, match="no more") as raised:
        Told(lambda *_: (status, {"error": "slug", "message": "no more"})).get("v1", "vms")
    assert raised.value.code is code


def test_every_mistake_gets_a_line() -> None:
    field_errors = [{"field": "count", "message": "is 0"}, {"field": "name", "message": "is missing"}]
    with pytest.raises(CliError) as raised:
        Told(lambda *_: (422, {"error": "invalid", "message": "x", "mistakes": field_errors})).get("v1")
    assert raised.value.lines == ("count: is 0", "name: is missing")


@pytest.mark.parametrize("answered", [None, "<html>", {"status": False}])
def test_an_answer_of_something_else_is_no_daemon(answered: object) -> None:
    with pytest.raises(CliError, match="is not Rollcall's API") as raised:
        Told(lambda *_: (404, answered)).get("v1", "vms")
    assert raised.value.code is Exit.UNREACHABLE


def test_pages_are_read_to_their_end() -> None:
    pages = {"": ([1, 2], "b"), "b": ([3, 4], "c"), "c": ([5], None)}

    def answer(_method: str, target: str) -> tuple[int, Any]:
        items, following = pages[target.partition("cursor=")[2].partition("&")[0]]
        return 200, {"items": items, "next": following}

    assert list(Told(answer).items("v1", "vms", limit=None)) == [1, 2, 3, 4, 5]


def test_no_more_pages_are_read_than_wanted() -> None:
    there = Told(lambda *_: (200, {"items": [1, 2], "next": "b"}))
    assert len(list(there.items("v1", "vms", limit=4))) == 4
    assert there.asked == ["GET /v1/vms?limit=4", "GET /v1/vms?cursor=b&limit=2"]


def test_paths_and_filters_are_written_safely() -> None:
    there = Told(lambda *_: (200, {}))
    there.get("v1", "vms", "a/../b?c", ready=True, name="x&y", state=None)
    assert there.asked == ["GET /v1/vms/a%2F..%2Fb%3Fc?ready=true&name=x%26y"]


@pytest.mark.parametrize("url", ["", "localhost:8081", "ftp://x", "http://", "http://x:99999"])
def test_what_is_no_url_is_wrong_usage(url: str) -> None:
    with pytest.raises(CliError, match="no URL") as raised:
        ApiClient(url, None)
    assert raised.value.code is Exit.USAGE


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:8081", "http://127.0.0.1:8081"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:80", "http://[::1]:80"),
        ("rollcall.internal:8081", "http://rollcall.internal:8081"),
    ],
)
def test_a_daemon_that_listens_everywhere_is_asked_here(listen: str, url: str) -> None:
    assert url_of(listen) == url


def seen(**changes: Any) -> dict[str, Any]:
    return {
        "submission_id": "S",
        "state": "open",
        "count": 2,
        "counts": {"BUILD": 2},
        "ready": 0,
        "on_contract": 0,
        "on_demand": 0,
        "stuck": 0,
        "reasons": [],
        **changes,
    }


def test_waiting_says_a_line_for_each_change_and_ends_when_it_is_settled(capsys: pytest.CaptureFixture[str]) -> None:
    ready = seen(state="ready", counts={"ACTIVE": 2}, ready=2, on_contract=1, on_demand=1)
    answers = iter([seen(), (503, None), seen(counts={"ACTIVE": 1, "BUILD": 1}, ready=1), ready])

    def answer(_method: str, _target: str) -> tuple[int, Any]:
        told = next(answers)
        return told if isinstance(told, tuple) else (200, told)

    paused: list[float] = []
    assert until_ended(Told(answer), seen(), pause=paused.append) == ready
    assert capsys.readouterr().err.splitlines() == [
        "open: 0 of 2 ready (2 BUILD)",
        "open: 1 of 2 ready (1 ACTIVE, 1 BUILD)",
        "ready: 2 of 2 ready (2 ACTIVE); 1 on contract, 1 on demand",
    ]
    assert len(paused) == 4


def test_a_submission_that_failed_says_its_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    failed = seen(state="failed", reasons=["no such flavor"])
    assert until_ended(Told(lambda *_: (200, failed)), failed) == failed
    assert "no such flavor" in capsys.readouterr().err


def test_interrupting_the_wait_leaves_the_submission_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    there = Told(lambda *_: (200, seen()))
    with pytest.raises(typer.Exit) as raised:
        until_ended(there, seen(), pause=interrupt)
    assert raised.value.exit_code == Exit.STOPPED
    assert there.asked == []
    assert "rollcall submissions S" in capsys.readouterr().err


def test_stuck_vms_are_named_in_the_standing() -> None:
    assert standing(seen(stuck=1)).endswith("; 1 stuck")

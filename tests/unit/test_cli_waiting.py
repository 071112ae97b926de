"""Waiting for a submission: what is printed, and when it ends."""

from datetime import UTC, datetime
from typing import Any

import pytest
import typer
from fake_api import FakeApi, ok, problem

from service.cli.exits import Exit
from service.cli.waiting import next_step, standing, until_ended
from service.client.errors import ApiError, ErrorKind
from service.client.http import RawResponse

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


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
        "next_attempt_at": None,
        **changes,
    }


class Clock:
    """Time that only pausing moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def wait(answers: list[Any], first: dict[str, Any]) -> dict[str, Any]:
    """Wait through these answers: submissions, responses, or errors."""
    left = iter(answers)
    clock = Clock()

    def answer(_method: str, _target: str) -> RawResponse:
        found = next(left)
        if isinstance(found, ApiError):
            raise found
        return found if isinstance(found, RawResponse) else ok(found)

    return until_ended(FakeApi(answer), first, pause=clock.pause, clock=clock)


def test_waiting_prints_a_line_for_each_change_with_the_time_waited(capsys: pytest.CaptureFixture[str]) -> None:
    ready = seen(state="ready", counts={"ACTIVE": 2}, ready=2, on_contract=1, on_demand=1)
    assert wait([seen(), seen(counts={"ACTIVE": 1, "BUILD": 1}, ready=1), ready], seen()) == ready
    assert capsys.readouterr().err.splitlines() == [
        "   0s  open: 0 of 2 ready (2 BUILD)",
        "   2s  open: 1 of 2 ready (1 ACTIVE, 1 BUILD)",
        "   3s  ready: 2 of 2 ready (2 ACTIVE); 1 on contract, 1 on demand",
    ]


def test_while_the_daemon_is_away_it_says_so_and_waits(capsys: pytest.CaptureFixture[str]) -> None:
    away = ApiError(ErrorKind.UNREACHABLE, "no daemon answers")
    ready = seen(state="ready", counts={"ACTIVE": 2}, ready=2)
    assert wait([away, away, problem(503, detail="x"), seen(), ready], seen()) == ready
    assert capsys.readouterr().err.splitlines() == [
        "   0s  open: 0 of 2 ready (2 BUILD)",
        "   1s  the daemon is away, waiting",
        "   3s  the daemon is without its database, waiting",
        "   4s  open: 0 of 2 ready (2 BUILD)",
        "   5s  ready: 2 of 2 ready (2 ACTIVE)",
    ]


def test_without_stock_the_reason_and_the_next_try_are_shown_again_and_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stuck = seen(reasons=["older", "the provider has no stock"], next_attempt_at="2000-01-01T00:00:00Z")
    wait([stuck] * 65 + [seen(state="failed")], stuck)
    lines = capsys.readouterr().err.splitlines()
    text = "open: 0 of 2 ready (2 BUILD); the provider has no stock; next try now"
    assert lines[:3] == [f"   0s  {text}", f"  30s  {text}", f"   1m  {text}"]
    assert len(lines) == 4


def test_an_error_that_waiting_does_not_help_ends_it() -> None:
    with pytest.raises(ApiError) as raised:
        wait([problem(401)], seen())
    assert raised.value.kind is ErrorKind.UNAUTHORIZED


def test_a_submission_that_failed_prints_its_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    failed = seen(state="failed", reasons=["no such flavor"])
    assert wait([failed], failed) == failed
    assert "no such flavor" in capsys.readouterr().err


def test_interrupting_the_wait_leaves_the_submission_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    client = FakeApi(lambda *_: ok(seen()))
    with pytest.raises(typer.Exit) as raised:
        until_ended(client, seen(), pause=interrupt)
    assert raised.value.exit_code == Exit.STOPPED
    assert client.requests == []
    assert "rollcall submissions S" in capsys.readouterr().err


def test_stuck_vms_are_part_of_the_standing() -> None:
    assert standing(seen(stuck=1)).endswith("; 1 stuck")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"next_attempt_at": "2026-03-02T12:00:45Z"}, "next try in 45s"),
        ({"next_attempt_at": "2026-03-02T11:00:00Z"}, "next try now"),
        ({"next_attempt_at": None}, ""),
        ({"next_attempt_at": "2026-03-02T12:00:45Z", "state": "failed"}, ""),
    ],
)
def test_the_next_try_is_said(changes: dict[str, Any], text: str) -> None:
    assert next_step(seen(**changes), NOW) == text

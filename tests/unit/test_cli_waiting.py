"""Waiting for a submission: what is printed, and when it ends."""

from datetime import UTC, datetime
from typing import Any

import pytest
import typer
from fake_api import FakeApi, ok, problem

from service.cli.exits import Exit
from service.cli.following import screen
from service.cli.views import standing_now
from service.cli.waiting import next_step, standing, until_ended
from service.client.errors import ApiError, ErrorKind
from service.client.exchange import RawResponse

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

    return until_ended(FakeApi(answer, pause=clock.pause, clock=clock), first, clock=clock)


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

    client = FakeApi(lambda *_: ok(seen()), pause=interrupt)
    with pytest.raises(typer.Exit) as raised:
        until_ended(client, seen())
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


def test_a_screen_of_the_fleet_begins_with_what_is_wrong_and_escapes_what_others_wrote() -> None:
    fleet = {"alive": 3, "ready": 2, "stuck": 1, "off_contract": 0, "by_state": {"ACTIVE": 3}, "events_waiting": 7}
    one = {**seen(count=40, ready=36), "submission_id": "01a21b5a-8570-7000", "state": "ready", "name": "x\x1b[31m",
           "reasons": ["no stock"], "current": {"ready": 36, "count": 40}}  # fmt: skip
    lines = screen(fleet, {"database": "is away"}, [one])
    assert lines[0] == "! database: is away"
    assert "3 alive, 2 ready, 1 stuck, 0 off contract" in lines
    assert lines[-1] == "01a21b5a-8570      36/40      ready (36 of 40 now)  x\\x1b[31m  no stock"


@pytest.mark.parametrize(
    ("ready", "alive", "text"),
    [
        (40, 40, "ready"),
        (36, 40, "ready (36 of 40 now)"),
        (0, 0, "ready (all deleted since)"),
        (0, 3, "ready (0 of 40 now)"),
    ],
)
def test_a_submission_that_was_ready_says_what_became_of_it(ready: int, alive: int, text: str) -> None:
    found = seen(state="ready", count=40, ready=ready, current={"ready": ready, "count": alive})
    assert standing_now(found) == text
    assert standing_now(seen(current={"ready": 0, "count": 2})) == "open"

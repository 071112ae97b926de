"""Health issues: each ends only when the one that raised it says so, and everything shows the same."""

from datetime import timedelta

import pytest
import structlog
from clock import ManualClock
from prometheus_client import generate_latest

from service.runtime.health import FAILING, Health
from service.runtime.metrics import Metrics


@pytest.fixture
def health(clock: ManualClock) -> Health:
    made = Health()
    made.attach(clock, Metrics())
    return made


def shown(health: Health) -> str:
    return generate_latest(health._metrics.registry).decode()


def test_an_issue_is_resolved_by_the_owner_that_reported_it_and_by_nobody_else(health: Health):
    health.report("database", "read-only", owner="apply")
    health.resolve("database", owner="rescue")
    health.resolve("database")
    assert health.issues == {"database": "read-only"}
    health.resolve("database", owner="apply")
    assert health.issues == {}


def test_an_issue_of_two_owners_is_over_when_both_have_resolved_it(health: Health):
    health.report("database", "away", owner="apply")
    health.report("database", "gone", owner="create")
    health.resolve("database", owner="apply")
    assert health.issues == {"database": "gone"}
    health.resolve("database", owner="create")
    assert health.issues == {}


def test_an_issue_says_since_when_it_is_open_however_often_it_is_reported(health: Health, clock: ManualClock):
    began = clock.now()
    health.report("provider", "refused", owner="list")
    clock.advance(60)
    health.report("provider", "HTTP 503", owner="list")
    (issue,) = health.open()
    assert (issue.since, issue.text, issue.owner) == (began, "HTTP 503", "list")


def test_an_issue_is_logged_once_when_it_opens_and_once_when_it_is_over(health: Health, clock: ManualClock):
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            health.report("provider", "refused", owner="list", severity="error")
        health.report("provider", "refused", owner="get")
        clock.advance(5)
        for owner in ("list", "get", "get"):
            health.resolve("provider", owner=owner)
    assert [(line["log_level"], line["event"], line["issue"]) for line in lines] == [
        ("error", "health issue", "provider"),
        ("warning", "health issue resolved", "provider"),
    ]


def test_metrics_show_open_issues_and_how_each_job_is_doing(health: Health, clock: ManualClock):
    health.report("provider", "refused", owner="list")
    health.job_failed("apply", "no")
    health.job_succeeded("delete")
    assert 'rollcall_health_issue{issue="provider"} 1.0' in shown(health)
    assert 'rollcall_job_failures_in_a_row{job_name="apply"} 1.0' in shown(health)
    succeeded = health._metrics.registry.get_sample_value("rollcall_job_last_success_seconds", {"job_name": "delete"})
    assert succeeded == clock.now().timestamp()
    health.resolve("provider", owner="list")
    health.job_succeeded("apply")
    assert "rollcall_health_issue{" not in shown(health)
    assert 'rollcall_job_failures_in_a_row{job_name="apply"} 0.0' in shown(health)


def test_a_job_that_fails_again_and_again_is_an_issue_until_it_succeeds(health: Health):
    for _ in range(FAILING - 1):
        health.job_failed("apply", "OverflowError: too large")
    assert health.issues == {}
    health.job_failed("apply", "OverflowError: too large")
    assert "OverflowError: too large" in health.issues["job apply"]
    assert "no success since" in health.issues["job apply"]
    health.job_succeeded("apply")
    assert health.issues == {}


def test_a_run_that_works_does_not_hide_that_the_calls_of_the_job_fail(health: Health):
    for _ in range(FAILING):
        health.job_failed("submit", "no", part="call")
        health.job_succeeded("submit")
    assert "job submit" in health.issues
    health.job_succeeded("submit", part="call")
    assert health.issues == {}


def test_a_job_without_a_success_for_too_long_is_an_issue_though_it_never_failed(health: Health, clock: ManualClock):
    health.watch("apply")
    clock.advance(600)
    health.report_stalled(after=timedelta(seconds=600))
    assert health.issues == {}
    clock.advance(1)
    health.report_stalled(after=timedelta(seconds=600))
    assert "its run does not end" in health.issues["job apply"]
    health.job_succeeded("apply")
    assert health.issues == {}


def test_an_advisory_issue_is_shown_and_leaves_the_daemon_ready():
    health = Health()
    health.report("callback_flood", "many callbacks", advisory=True)
    assert (list(health.issues), health.ready) == (["callback_flood"], True)
    health.report("database", "away")
    assert not health.ready
    health.resolve("database")
    assert health.ready


def test_an_issue_that_nobody_reports_again_can_be_ended_whoever_reported_it():
    clock = ManualClock()
    health = Health()
    health.attach(clock, Metrics())
    health.report("provider", "create: 500", owner="create")
    clock.advance(50)
    health.report("provider", "list: 500", owner="list")
    clock.advance(50)
    health.resolve_unrepeated("provider", since=timedelta(seconds=60))
    assert [one.owner for one in health.open()] == ["list"]

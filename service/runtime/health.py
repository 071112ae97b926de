"""Health issues (what does not work, who reported it, since when), and the health of each job."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

from service.runtime.logs import logger
from service.runtime.metrics import Metrics

#: Failures in a row that make a job a health issue.
FAILING = 3


class _Now(Protocol):
    def now(self) -> datetime:
        """The time, aware, in UTC."""


class _MachineClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """Something that does not work: its name, who reported it, since when, and a text for people."""

    name: str
    owner: str
    since: datetime
    text: str
    advisory: bool = False  #: the daemon is ready in spite of it
    reported_at: datetime | None = None  #: the latest report


@dataclass(slots=True)
class JobHealth:
    """The health of a job. Its parts (its run, its calls) fail and succeed independently."""

    watched_since: datetime
    last_success: datetime | None = None
    failures: dict[str, int] = field(default_factory=dict)
    error: str | None = None

    @property
    def failures_in_a_row(self) -> int:
        return max(self.failures.values(), default=0)


class Health:
    """Health issues by name, shown by `/readyz`, `/metrics` and the log, and the health of each job.

    Several owners may report an issue; it is over when each of them has resolved it.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], Issue] = {}
        self._jobs: dict[str, JobHealth] = {}
        self._clock: _Now = _MachineClock()
        self._metrics: Metrics | None = None

    def attach(self, clock: _Now, metrics: Metrics) -> None:
        """Times come from `clock`; everything shows in `metrics`."""
        self._clock, self._metrics = clock, metrics

    @property
    def issues(self) -> dict[str, str]:
        """The text of each open issue by name; the first owner's if there are several."""
        return {issue.name: issue.text for issue in reversed(self.open())}

    @property
    def jobs(self) -> dict[str, JobHealth]:
        """The health of each job by its name."""
        return dict(self._jobs)

    @property
    def ready(self) -> bool:
        """Whether the daemon can do all of its work: only advisory issues are open, which anybody may cause."""
        return all(issue.advisory for issue in self._open.values())

    def open(self) -> list[Issue]:
        """Every open issue, in the order in which they were reported."""
        return list(self._open.values())

    def report(
        self,
        issue: str,
        text: str,
        *,
        owner: str = "",
        severity: Literal["warning", "error"] = "warning",
        advisory: bool = False,
    ) -> None:
        """Open an issue of `owner`, or change its text. Logged when it opens."""
        known = self._open.get((issue, owner))
        others = issue in self.issues
        since = known.since if known else self._clock.now()
        self._open[issue, owner] = Issue(
            name=issue, owner=owner, since=since, text=text, advisory=advisory, reported_at=self._clock.now()
        )
        if not others:
            log = logger().error if severity == "error" else logger().warning
            log("health issue", action="health", issue=issue, owner=owner, text=text)
        if self._metrics is not None:
            self._metrics.health_issue.labels(issue).set(1)

    def resolve(self, issue: str, *, owner: str = "") -> None:
        """Resolve the issue of `owner`, if open. Logged when no other owner reports it."""
        ended = self._open.pop((issue, owner), None)
        if ended is None or issue in self.issues:
            return
        seconds = round((self._clock.now() - ended.since).total_seconds(), 3)
        logger().warning("health issue resolved", action="health", issue=issue, owner=owner, seconds=seconds)
        if self._metrics is not None:
            self._metrics.health_issue.remove(issue)

    def resolve_unrepeated(self, issue: str, *, since: timedelta) -> None:
        """Resolve issues that nobody has reported for `since`, whoever their owner is."""
        before = self._clock.now() - since
        for one in [one for one in self.open() if one.name == issue]:
            if one.reported_at is not None and one.reported_at < before:
                self.resolve(issue, owner=one.owner)

    def watch(self, job: str) -> None:
        """Watch a job: from now on it must succeed from time to time."""
        self._jobs.setdefault(job, JobHealth(self._clock.now()))

    def job_succeeded(self, job: str, *, part: str = "run") -> None:
        """Record a success of a part of a job. It resets only the failures of that part."""
        self.watch(job)
        health = self._jobs[job]
        health.last_success = self._clock.now()
        health.failures.pop(part, None)
        if not health.failures:
            health.error = None
            self.resolve(f"job {job}", owner=job)
        self._show(job, health)

    def job_failed(self, job: str, error: str, *, part: str = "run") -> int:
        """Record a failure of a part of a job. Returns how many there were in a row; from `FAILING` on it is an issue."""
        self.watch(job)
        health = self._jobs[job]
        health.failures[part] = times = health.failures.get(part, 0) + 1
        health.error = error
        self._show(job, health)
        if times >= FAILING:
            self.report(
                f"job {job}", f"failed {times} times in a row, {_last(health)}: {error}", owner=job, severity="error"
            )
        return times

    def set_back(self, by: timedelta) -> None:
        """The clock was set back: move the times of jobs and issues with it, so that none lies in the future."""
        for job in self._jobs.values():
            job.watched_since -= by
            job.last_success = job.last_success and job.last_success - by
        self._open = {
            key: replace(one, since=one.since - by, reported_at=one.reported_at and one.reported_at - by)
            for key, one in self._open.items()
        }

    def report_stalled(self, *, after: timedelta) -> None:
        """Report each watched job that has not succeeded for longer than `after`."""
        now = self._clock.now()
        for job, health in self._jobs.items():
            if now - (health.last_success or health.watched_since) <= after:
                continue
            text = f"{_last(health)}: {health.error or 'its run does not end'}"
            self.report(f"job {job}", text, owner=job, severity="error")

    def _show(self, job: str, health: JobHealth) -> None:
        if self._metrics is None:
            return
        self._metrics.job_failures.labels(job).set(health.failures_in_a_row)
        if health.last_success is not None:
            self._metrics.job_last_success.labels(job).set(health.last_success.timestamp())


def _last(health: JobHealth) -> str:
    if health.last_success is None:
        return f"no success since it started at {health.watched_since:%Y-%m-%d %H:%M:%SZ}"
    return f"last success at {health.last_success:%Y-%m-%d %H:%M:%SZ}"

"""Runs a job as the daemon's runner does, and checks that no job fails or falls behind without a health issue.

A job whose database is well may not fail twice for the same reason at all.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from service.errors import StorageUnavailable
from service.runtime.runtime import Runtime
from service.worker import runner

Job = Callable[[Runtime], Awaitable[int]]

#: The jobs of a daemon, but for those that only tell others, count, or seal the record with keys in a folder: that is no part of a
#: seed, which must play the same again. Some run only in seeds with a kind of fault that is about them (`MORE`).
_NOT_PLAYED = frozenset({"retention", "prices", "seal", "notify", "deliver", "sample"})
JOBS: Mapping[str, Job] = {name: job for name, job in runner.ALL.items() if name not in _NOT_PLAYED}
MORE: Mapping[str, Mapping[str, Job]] = {
    "limits": {"prices": runner.ALL["prices"]},
    "prices": {"prices": runner.ALL["prices"]},
    "retention": {"retention": runner.ALL["retention"]},
}
#: Failures in a row, on one daemon, after which there must be a health issue.
_FAILURES = 5
#: Seconds that work may wait while its job runs now and then and no daemon has a health issue. Longer than a lease.
_LATE = 900.0
#: Seconds of it that must have passed since a daemon was started, which knows of no failure and waits for leases of the dead.
_SINCE_START = 400.0
#: Runs that a job must have had meanwhile.
_RUNS = 5
#: At this many seconds work begins to wait.
_WAITING = 30.0


class _Failure:
    """Notes the error that leaves its block, and lets it pass."""

    def __init__(self) -> None:
        self.error: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            text = (str(error).strip() or "without a message").splitlines()[0]
            self.error = f"{type(error).__name__}: {text[:160]}"


async def run_job(rt: Runtime, name: str, job: Job) -> tuple[int, str | None]:
    """Run a job once under the runner's care: what it did, and the error with which it failed."""
    failure = _Failure()

    async def observed() -> int:
        with failure:
            return await job(rt)

    done, _ = await runner._try(rt, name, observed())  # noqa: SLF001  what it reports is what is checked here
    return done, failure.error


@dataclass
class JobMonitor:
    """Whether jobs fail or fall behind without a health issue. What is wrong is said once for each job."""

    #: Failures in a row, by daemon and job.
    in_a_row: Counter[tuple[int, str]] = field(default_factory=Counter)
    #: Runs of a job since its work began to wait.
    runs_behind: Counter[str] = field(default_factory=Counter)
    #: How long a job's work had waited when it was first looked at after a daemon was started.
    late_at_start: dict[str, float] = field(default_factory=dict)
    #: How often each job failed, and how.
    failures: Counter[str] = field(default_factory=Counter)
    wrong: dict[tuple[str, str], str] = field(default_factory=dict)

    def started(self, which: int) -> None:
        """A daemon was started anew, and knows nothing of failures before."""
        for one in [one for one in self.in_a_row if one[0] == which]:
            del self.in_a_row[one]
        self.late_at_start.clear()

    def ran(self, which: int, rt: Runtime, name: str, error: str | None) -> None:
        self.runs_behind[name] += 1
        if error is None:
            self.in_a_row.pop((which, name), None)
            return
        self.failures[f"{name}: {error}"] += 1
        self.in_a_row[which, name] += 1
        if self.failures[f"{name}: {error}"] > 1 and not error.startswith(StorageUnavailable.__name__):
            self.wrong.setdefault(("twice", name), f"{name} failed twice for the same reason: {error}")
        if self.in_a_row[which, name] >= _FAILURES and not rt.health.issues:
            text = f"{name} failed {_FAILURES} times in a row, and there is no health issue: {error}"
            self.wrong.setdefault(("failed", name), text)

    def waiting(self, seconds_late: Mapping[str, float], daemons: Iterable[Runtime]) -> None:
        """Note for how long each job's work has been due."""
        unhealthy = any(rt.health.issues for rt in daemons)
        for name, late in seconds_late.items():
            since_start = late - self.late_at_start.setdefault(name, max(late, 0.0))
            if late < _WAITING:
                del self.runs_behind[name]
                self.late_at_start[name] = 0.0
            elif late > _LATE and since_start > _SINCE_START and self.runs_behind[name] >= _RUNS and not unhealthy:
                text = f"the work of {name} has been due for {_LATE:.0f} s, and there is no health issue"
                self.wrong.setdefault(("late", name), text)

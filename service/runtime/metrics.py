"""The metrics of one process. docs/reference/metrics.md says when to worry about each."""

from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

#: Why a callback became a dead letter.
_DEAD_LETTERS: Final = ("unreadable", "unknown_vm", "failed")
_RESPONSE_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_CALL_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 180)
_GROUP_SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """The metrics of one process, in a registry of their own, since tests have several.

    No label is called `job` or `instance`: Prometheus gives these names to what it scrapes.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._callbacks()
        self._record()
        self._provider()
        self._jobs()
        self._fleet()
        self._money()

    def _callbacks(self) -> None:
        self.callbacks = self._counter(
            "rollcall_callbacks", "Requests to the callback listener, by response", ["answer"]
        )
        self.callback_seconds = self._histogram(
            "rollcall_callback_seconds", "Seconds from the arrival of a callback to its response", _RESPONSE_SECONDS
        )
        self.write_groups = self._histogram(
            "rollcall_write_group_size", "Callbacks that one commit made durable", _GROUP_SIZES
        )
        self.spooled = self._gauge("rollcall_spool_bytes", "Bytes of callbacks in the spool that wait for Postgres")
        self.inbox = self._gauge("rollcall_inbox_events", "Callbacks that are stored and not applied yet")
        self.inbox_age = self._gauge(
            "rollcall_inbox_oldest_seconds", "Age in seconds of the oldest callback that is stored and not applied yet"
        )

    def _record(self) -> None:
        self.events = self._counter(
            "rollcall_events_applied", "Callbacks applied to VMs, by what they did to the record", ["verdict"]
        )
        self.dead_letters = self._counter(
            "rollcall_dead_letters", "Callbacks that could not be applied, by reason", ["kind"]
        )
        for kind in _DEAD_LETTERS:
            self.dead_letters.labels(kind)  # from 0, or an alert on its increase misses the first one
        self.transitions = self._counter(
            "rollcall_transitions", "Changes of a VM's state, by the new state and by evidence", ["to", "evidence"]
        )
        self.assignments = self._counter("rollcall_assignments", "Steps towards contracts, by outcome", ["outcome"])
        self.orphans = self._counter(
            "rollcall_orphans", "VMs found that the provider made after their create call had been sent again"
        )

    def _provider(self) -> None:
        self.calls = self._counter(
            "rollcall_provider_calls", "Calls to the provider, by operation and outcome", ["operation", "outcome"]
        )
        self.call_seconds = self._histogram(
            "rollcall_provider_call_seconds", "Seconds that a call to the provider took", _CALL_SECONDS, ["operation"]
        )
        self.rate_limit_used = self._gauge(
            "rollcall_rate_limit_used", "Calls to the provider in the current window of the rate limit", ["operation"]
        )
        self.rate_limit_calls = self._gauge(
            "rollcall_rate_limit_calls", "Calls to the provider that a window of the rate limit allows"
        )

    def _jobs(self) -> None:
        self.job_runs = self._counter(
            "rollcall_job_runs", "Runs of each background job, by outcome", ["job_name", "outcome"]
        )
        self.job_last_success = self._gauge(
            "rollcall_job_last_success_seconds",
            "When each background job last succeeded, in seconds since 1970",
            ["job_name"],
        )
        self.job_failures = self._gauge(
            "rollcall_job_failures_in_a_row", "Failures of each background job since its last success", ["job_name"]
        )
        self.health_issue = self._gauge(
            "rollcall_health_issue", "1 for each open health issue; absent once it is resolved", ["issue"]
        )
        self.notifications = self._counter(
            "rollcall_notifications", "Attempts to deliver a message, by outcome", ["target", "outcome"]
        )
        self.trace_spans = self._counter("rollcall_trace_spans", "Spans of traces, by what became of them", ["outcome"])
        self.wrong_tokens = self._counter(
            "rollcall_api_wrong_tokens", "Requests to the operator listener with a wrong token"
        )

    def _fleet(self) -> None:
        self.vms = self._gauge("rollcall_vms", "VMs that count towards their submissions, by state", ["state"])
        self.submissions = self._gauge("rollcall_submissions", "Submissions, by state", ["state"])
        self.off_contract = self._gauge(
            "rollcall_vms_off_contract", "VMs that run on demand and should be on a contract"
        )
        self.replica_lag = self._gauge(
            "rollcall_replica_lag_seconds", "Seconds that the read replica is behind the primary; NaN if it is not used"
        )
        self.stuck = self._gauge("rollcall_vms_stuck", "VMs that should be ready by now and are not")

    def _money(self) -> None:
        self.cost_per_hour = self._gauge(
            "rollcall_cost_per_hour",
            "Estimated cost per hour of the VMs that are charged now, on a contract and on demand",
            ["assignment", "currency"],
        )
        self.price_unknown = self._gauge(
            "rollcall_vms_price_unknown", "VMs that are charged now at a price that is not known"
        )

    def _counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(name, meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
        return Histogram(name, meaning, labels, registry=self.registry, buckets=buckets)

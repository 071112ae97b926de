"""The metrics of one process."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """The metrics of one process, in a registry of their own, since tests have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.callbacks = Counter("rollcall_callbacks", "Callbacks by response", ["answer"], registry=self.registry)
        self.callback_seconds = Histogram(
            "rollcall_callback_seconds",
            "From the request to the durable response",
            registry=self.registry,
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self.write_groups = Histogram(
            "rollcall_write_group_size",
            "Callbacks written by one commit",
            registry=self.registry,
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
        )
        self.events = Counter(
            "rollcall_events_applied", "Events applied, by verdict", ["verdict"], registry=self.registry
        )
        self.dead_letters = Counter(
            "rollcall_dead_letters", "Events that could not be applied", ["kind"], registry=self.registry
        )
        self.transitions = Counter(
            "rollcall_transitions", "Changes of state", ["to", "evidence"], registry=self.registry
        )
        self.calls = Counter(
            "rollcall_provider_calls", "Calls to the provider", ["operation", "outcome"], registry=self.registry
        )
        self.call_seconds = Histogram(
            "rollcall_provider_call_seconds",
            "How long the provider took",
            ["operation"],
            registry=self.registry,
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 180),
        )
        self.wrong_tokens = Counter(
            "rollcall_api_wrong_tokens", "API requests with a wrong token", registry=self.registry
        )
        self._make_job_metrics()
        self.assignments = Counter(
            "rollcall_assignments", "Steps towards contracts", ["outcome"], registry=self.registry
        )
        self.notifications = Counter(
            "rollcall_notifications", "Attempts to deliver a message", ["target", "outcome"], registry=self.registry
        )
        self.orphans = Counter("rollcall_orphans", "Orphans found", registry=self.registry)
        self.spooled = Gauge("rollcall_spool_bytes", "Bytes waiting in the spool", registry=self.registry)
        self.inbox = Gauge("rollcall_inbox_events", "Events waiting to be applied", registry=self.registry)
        self.inbox_age = Gauge("rollcall_inbox_oldest_seconds", "Age of the oldest of them", registry=self.registry)
        self.vms = Gauge(
            "rollcall_vms", "VMs that count towards their submissions, by state", ["state"], registry=self.registry
        )
        self.submissions = Gauge("rollcall_submissions", "Submissions by state", ["state"], registry=self.registry)
        self.off_contract = Gauge(
            "rollcall_vms_off_contract", "VMs on demand that should be on a contract", registry=self.registry
        )
        self.cost_per_hour, self.price_unknown = _cost_gauges(self.registry)
        self.stuck = Gauge("rollcall_vms_stuck", "VMs that should be ready and are not", registry=self.registry)
        self.rate_limit_used = Gauge(
            "rollcall_rate_limit_used", "Calls in the current window", ["operation"], registry=self.registry
        )
        self.rate_limit_calls = Gauge("rollcall_rate_limit_calls", "Calls allowed in a window", registry=self.registry)

    def _make_job_metrics(self) -> None:
        self.job_runs = Counter("rollcall_job_runs", "Runs of each job", ["job", "outcome"], registry=self.registry)
        self.job_last_success = Gauge(
            "rollcall_job_last_success_seconds",
            "When each job last succeeded, in seconds since 1970",
            ["job"],
            registry=self.registry,
        )
        self.job_failures = Gauge(
            "rollcall_job_failures_in_a_row",
            "Failures of each job since its last success",
            ["job"],
            registry=self.registry,
        )
        self.health_issue = Gauge(
            "rollcall_health_issue", "1 for each open health issue", ["issue"], registry=self.registry
        )


def _cost_gauges(registry: CollectorRegistry) -> tuple[Gauge, Gauge]:
    return (
        Gauge(
            "rollcall_cost_per_hour",
            "Estimated cost per hour of the VMs that are charged now, on a contract and on demand",
            ["assignment", "currency"],
            registry=registry,
        ),
        Gauge("rollcall_vms_price_unknown", "VMs that are charged now at a price that is not known", registry=registry),
    )

"""Logs and metrics: JSON lines with an `action` and ids, and counters. Nothing here decides anything.

Only names of what may be logged pass: a key that looks like a secret is struck out before it is written.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.core.token import redact
from service.runtime.metrics_aggregation import AggregatedMetrics

_SECRET: Final = re.compile(r"api_?key|secret|password|authorization|token$", re.IGNORECASE)
_PASSWORD_IN_URL: Final = re.compile(r"(://[^/\s:@]*:)[^/\s@]+(@)")


def configure_logs(level: str, form: Literal["json", "console"]) -> None:
    """Write log lines to standard error, where a supervisor expects them."""
    shown = structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact_secrets,
            shown,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def logger(**context: Any) -> Any:
    """A logger whose lines carry `context`."""
    return structlog.get_logger(**context)


def redact_secrets(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Remove secrets from a log line: by the key's name, and callback MACs and URL passwords from any text."""
    for key, value in line.items():
        if _SECRET.search(key):
            line[key] = "…"
        elif isinstance(value, str):
            line[key] = _PASSWORD_IN_URL.sub(r"\1…\2", redact(value))
    return line


class Metrics:
    """The counters of one process, in a registry of its own so that two in one process do not meet.

    `summed` is what is served: with what the daemon's other processes report.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.aggregated = AggregatedMetrics(self.registry)
        self.callbacks = Counter(
            "rollcall_callbacks", "Deliveries by how they were answered", ["answer"], registry=self.registry
        )
        self.callback_seconds = Histogram(
            "rollcall_callback_seconds",
            "From the request to the durable answer",
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
            "rollcall_dead_letters", "Events that told us nothing", ["kind"], registry=self.registry
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
        self.job_runs = Counter("rollcall_job_runs", "Passes of each duty", ["job", "outcome"], registry=self.registry)
        self.assignments = Counter("rollcall_assignments", "Steps for contracts", ["outcome"], registry=self.registry)
        self.orphans = Counter("rollcall_orphans", "Orphans found", registry=self.registry)
        self.spooled = Gauge("rollcall_spool_bytes", "Bytes that wait in the spool", registry=self.registry)
        self.inbox = Gauge("rollcall_inbox_events", "Events that wait to be applied", registry=self.registry)
        self.inbox_age = Gauge("rollcall_inbox_oldest_seconds", "Age of the oldest of them", registry=self.registry)
        self.vms = Gauge("rollcall_vms", "VMs that count, by state", ["state"], registry=self.registry)
        self.submissions = Gauge("rollcall_submissions", "Submissions by state", ["state"], registry=self.registry)
        self.off_contract = Gauge(
            "rollcall_vms_off_contract", "VMs on demand that should be on a contract", registry=self.registry
        )
        self.stuck = Gauge("rollcall_vms_stuck", "VMs that should be ready and are not", registry=self.registry)
        self.rate_limit_used = Gauge(
            "rollcall_rate_limit_used", "Calls in the present window", ["operation"], registry=self.registry
        )
        self.rate_limit_calls = Gauge(
            "rollcall_rate_limit_calls", "Calls that a window may hold", registry=self.registry
        )

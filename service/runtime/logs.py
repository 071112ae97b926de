"""Structured logs: JSON lines with an `action` and ids. Values of keys that look like secrets are redacted."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final, Literal

import structlog

from service.core.token import redact

_SECRET: Final = re.compile(r"api_?key|secret|password|authorization|token$", re.IGNORECASE)
_PASSWORD_IN_URL: Final = re.compile(r"(://[^/\s:@]*:)[^/\s@]+(@)")


def configure_logs(level: str, form: Literal["json", "console"]) -> None:
    """Write logs to standard error."""
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

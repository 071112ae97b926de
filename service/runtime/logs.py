"""Structured logs: JSON lines with an `action` and ids. Values of keys that look like secrets are redacted."""

import logging
import math
import re
import sys
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final, Literal

import structlog

from service.core.api_token import redact_api_tokens
from service.core.token import redact

_SECRET: Final = re.compile(r"api_?key|secret|password|authorization|token$", re.IGNORECASE)
_RARELY_SECONDS: Final = 60.0
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


class RareLog:
    """Logs what strangers can cause any number of times: the first at once, then one line a minute with their count."""

    def __init__(self, event: str, *, now: Callable[[], float] = time.monotonic, **context: Any) -> None:
        self._event = event
        self._context = context
        self._now = now
        self._logged_at = -math.inf
        self._count = 0

    def note(self, error: BaseException | None) -> None:
        """Count one. Only the kind of the error is logged: its text may quote what the stranger sent."""
        self._count += 1
        if self._now() - self._logged_at >= _RARELY_SECONDS:
            logger(**self._context).warning(self._event, count=self._count, latest=type(error).__name__)
            self._logged_at, self._count = self._now(), 0

    def for_library(self) -> logging.Logger:
        """A logger for a library to write its warnings and errors to: each is counted here, and none is written."""
        counting = logging.Logger("rollcall", logging.WARNING)  # noqa: LOG001  nobody else may find it
        counting.addHandler(_Counting(self))
        return counting


class _Counting(logging.Handler):
    def __init__(self, rare: RareLog) -> None:
        super().__init__()
        self._rare = rare

    def emit(self, record: logging.LogRecord) -> None:
        self._rare.note(record.exc_info[1] if record.exc_info else None)


def redact_secrets(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Remove secrets from a log line: by the key's name, and callback MACs, API tokens and URL passwords from any text."""
    for key, value in line.items():
        if _SECRET.search(key):
            line[key] = "…"
        elif isinstance(value, str):
            line[key] = _PASSWORD_IN_URL.sub(r"\1…\2", redact_api_tokens(redact(value)))
    return line

"""The receiver's outermost edge: where a mistake of ours ends, so that a sender and the next callback do not feel it."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.telemetry import logger

log = logger(room="receiver")


@contextmanager
def contained(action: str) -> Iterator[None]:
    """Log whatever is raised inside and go on after it. Only for what nobody foresaw: the foreseen is handled inside."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  this is the one place: a bug must cost one answer, not the listener
        report(action, error)


def report(action: str, error: BaseException) -> None:
    """Say once what went wrong. Neither the request nor its URL is in the line: both may hold a token."""
    log.error(action, outcome="unexpected", error=type(error).__name__, exc_info=error)

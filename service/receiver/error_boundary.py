"""The receiver's outermost error handling: a bug costs one response, not the listener."""

from types import TracebackType

from service.runtime.logs import logger

log = logger(room="receiver")


class ErrorBoundary:
    """A context manager that logs and swallows unexpected exceptions. Reentrant; cancellation passes through.

    A class without `except`, not a generator: it is entered for every callback.
    """

    __slots__ = ("_action",)

    def __init__(self, action: str) -> None:
        self._action = action

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        # Do not log the request or its URL: both may hold a token.
        log.error(self._action, outcome="unexpected", error=type(error).__name__, exc_info=error)
        return True

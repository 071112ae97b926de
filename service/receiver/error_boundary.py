"""The receiver's outermost edge: where a mistake of ours ends, so that a sender and the next callback do not feel it."""

from types import TracebackType

from service.runtime.logs import logger

log = logger(room="receiver")


class ErrorBoundary:
    """A context that logs whatever goes wrong inside, and goes on after it. May be entered again, and by many at once.

    Only for what nobody foresaw; the foreseen is handled inside. Cancelling passes through. A class and not a generator,
    and without an `except`: it is entered with every callback.
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
        # Neither the request nor its URL is in the line: both may hold a token.
        log.error(self._action, outcome="unexpected", error=type(error).__name__, exc_info=error)
        return True

"""Exit codes of the commands, and the errors that carry them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from typing import Final

from service.client.errors import ApiError, ErrorKind


class Exit(IntEnum):
    """The exit codes of every command; `rollcall --help` lists them."""

    OK = 0
    FAILED = 1  #: the command did not reach its goal
    USAGE = 2  #: wrong usage, or wrong settings
    UNREACHABLE = 3  #: no daemon answers, or it cannot serve now
    NOT_FOUND = 4
    REFUSED = 5  #: the daemon refused the request: invalid fields, a conflict, a wrong token or role
    STOPPED = 130  #: stopped by Ctrl-C or SIGTERM


CODES: Final = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 no daemon answers, "
    "4 not found, 5 refused (invalid request, conflict, wrong token or role), 130 stopped by Ctrl-C or SIGTERM."
)

_EXITS: Final[Mapping[ErrorKind, Exit]] = {
    ErrorKind.UNREACHABLE: Exit.UNREACHABLE,
    ErrorKind.UNAVAILABLE: Exit.UNREACHABLE,
    ErrorKind.UNAUTHORIZED: Exit.REFUSED,
    ErrorKind.FORBIDDEN: Exit.REFUSED,
    ErrorKind.NOT_FOUND: Exit.NOT_FOUND,
    ErrorKind.REFUSED: Exit.REFUSED,
    ErrorKind.CONFLICT: Exit.REFUSED,
    ErrorKind.UNEXPECTED: Exit.FAILED,
}


class CliError(Exception):
    """A command failed. `lines` go to standard error, one each."""

    def __init__(self, code: Exit, lines: str | Iterable[str]) -> None:
        self.code = code
        self.lines = (lines,) if isinstance(lines, str) else tuple(lines)
        super().__init__("; ".join(self.lines))


def from_api(error: ApiError) -> CliError:
    """The exit code of an API error, and the lines that explain it."""
    lines = [f"{field}: {message}" for field, message in error.invalid_fields] or [error.detail]
    if error.kind is ErrorKind.UNREACHABLE:
        lines.append("start a daemon with `rollcall serve`, or name one with ROLLCALL_API_URL")
    return CliError(_EXITS[error.kind], lines)


@contextmanager
def as_cli_errors() -> Iterator[None]:
    """Raise the errors of work on the database itself as a `CliError`, each with its exit code."""
    from service.errors import ConfigError, Invalid, NotFound, StorageError  # noqa: PLC0415  slow to import

    try:
        yield
    except ConfigError as error:
        raise CliError(Exit.USAGE, [f"{one.field} {one.message}" for one in error.field_errors]) from error
    except Invalid as error:
        raise CliError(Exit.REFUSED, [f"{one.field}: {one.message}" for one in error.field_errors]) from error
    except NotFound as error:
        raise CliError(Exit.NOT_FOUND, str(error)) from error
    except StorageError as error:
        raise CliError(Exit.UNREACHABLE, f"the database: {error}") from error

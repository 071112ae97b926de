"""How a command ends: exit codes that mean something, and the error that carries one."""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final


class Exit(IntEnum):
    """The exit codes of every command; each help page lists them."""

    OK = 0
    FAILED = 1  #: what was asked for did not come about
    USAGE = 2  #: wrong usage, or wrong settings
    UNREACHABLE = 3  #: no daemon answers
    NOT_FOUND = 4
    REFUSED = 5  #: the daemon refused it: mistakes, a conflict, no right to ask
    STOPPED = 130  #: stopped by Ctrl-C


CODES: Final = (
    "Exit codes: 0 done, 1 what was asked for did not come about, 2 wrong usage or settings, 3 no daemon answers, "
    "4 not found, 5 refused (mistakes, conflict, wrong token), 130 stopped by Ctrl-C."
)


class CliError(Exception):
    """A command that ends without having done its work. `lines` go to standard error, one each."""

    def __init__(self, code: Exit, lines: str | Iterable[str]) -> None:
        self.code = code
        self.lines = (lines,) if isinstance(lines, str) else tuple(lines)
        super().__init__("; ".join(self.lines))

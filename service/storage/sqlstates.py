"""What to do after a statement failed, by its SQLSTATE (Postgres documentation, appendix A).

The longest prefix decides, so a code may differ from its class. Other codes are FAILED: no value is at fault, and
repeating may not help.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final


class SqlOutcome(Enum):
    """What to do after a statement failed."""

    RETRY = "retry"  # the same transaction may be run again
    UNSTORABLE = "unstorable"  # never run it again with these values
    APPEND_ONLY = "append-only"  # raised by the triggers of the migrations
    FAILED = "failed"  # report it


_OUTCOMES: Final[Mapping[str, SqlOutcome]] = {
    "": SqlOutcome.FAILED,
    "08": SqlOutcome.RETRY,  # connection
    "0A000": SqlOutcome.RETRY,  # a cached plan that a migration invalidated; a new connection has none
    "22": SqlOutcome.UNSTORABLE,
    "23": SqlOutcome.UNSTORABLE,
    "25": SqlOutcome.RETRY,  # read-only, or a transaction in a state that it should not be in
    "26": SqlOutcome.RETRY,  # a prepared statement that the server has lost
    "40": SqlOutcome.RETRY,  # serialization, deadlock
    "53": SqlOutcome.RETRY,  # disk full, too many connections, out of memory
    "54": SqlOutcome.UNSTORABLE,
    "55006": SqlOutcome.RETRY,  # in use
    "55P03": SqlOutcome.RETRY,  # a lock that was not available
    "57": SqlOutcome.RETRY,  # cancelled, shut down, starting up
    "58": SqlOutcome.RETRY,  # the server's disk
    "RC001": SqlOutcome.APPEND_ONLY,
}
#: After these no further transaction works on the connection.
_BREAK_THE_CONNECTION: Final = ("08", "0A000", "25", "26", "57P", "58", "XX")
READ_ONLY: Final = "25006"


def outcome_of(sqlstate: str) -> SqlOutcome:
    """What to do after a failure with this SQLSTATE, which may be any text."""
    for length in range(len(sqlstate), -1, -1):
        if (found := _OUTCOMES.get(sqlstate[:length])) is not None:
            return found
    raise AssertionError("unreachable: the empty prefix is in the table")


def breaks_connection(sqlstate: str) -> bool:
    """Whether the connection must not be used again after this SQLSTATE."""
    return sqlstate.startswith(_BREAK_THE_CONNECTION)

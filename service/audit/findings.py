"""What verification finds, in the words of the record."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

Kind = Literal[
    "changed", "removed", "inserted", "reordered", "cut off", "rewritten", "log changed", "checkpoint", "key", "file"
]

#: Examples of each notice that a report names.
NAMED: Final = 5


@dataclass(frozen=True, slots=True, order=True)
class Discrepancy:
    """Something that is not as it was sealed: at which leaf, what kind, and in words."""

    leaf: int
    kind: Kind
    text: str


@dataclass(slots=True)
class Examples:
    """How many rows a notice is about, and the first of them."""

    count: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.named) < NAMED:
            self.named.append(text)


@dataclass(slots=True)
class Report:
    """What verification found. The record is as it was sealed if `findings` is empty."""

    origin: str
    size: int
    signed_size: int = 0  #: leaves of the largest tree with a valid checkpoint
    checkpoints: int = 0  #: valid ones
    rows: int = 0
    findings: list[Discrepancy] = field(default_factory=list)
    more_findings: int = 0
    unsealed: Examples = field(default_factory=Examples)
    late: Examples = field(default_factory=Examples)
    struck_out: Examples = field(default_factory=Examples)  #: of an export: sealed, but it does not show all they held
    outside: int = 0  #: sealed rows that the export does not claim to have
    dropped: dict[str, int] = field(default_factory=dict)  #: rows by month of events that retention dropped

    @property
    def sound(self) -> bool:
        return not self.findings

    def add(self, finding: Discrepancy, *, most: int = 1000) -> None:
        if len(self.findings) < most:
            self.findings.append(finding)
        else:
            self.more_findings += 1


_WORDS: Final = {
    "events": "the event {2} of submission {0}, received at {1}",
    "transitions": "transition {2} of VM {0}.{1}",
    "calls": "the call {1} of submission {0}",
    "call_ends": "the end of call {1} of submission {0}",
    "assignments": "attempt {2} at the contract of VM {0}.{1}, at {3}",
    "actions": "the action {1} on submission {0}",
    "prices": "the price of {0}, read at {1}",
    "contract_discounts": "the discount of contract {0} on {1}, read at {2}",
    "log_keys": "the log's key {1}",
    "dropped_months": "the drop of the month {0}, at {1}",
}


def named(table: str, key: str) -> str:
    """A row in words, by its table and its key as the log stores it."""
    try:
        return _WORDS[table].format(*json.loads(key))
    except (KeyError, ValueError, IndexError, TypeError):  # a key that the log was made to name
        return f"the row {key[:200]} of {table}"


def moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%SZ}"

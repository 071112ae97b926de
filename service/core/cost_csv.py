"""A cost report as CSV (RFC 4180), the same from the API and from the command line."""

from collections.abc import Iterable, Mapping
from typing import Final

from service.core import csv_lines

#: The fields of a row, in their order.
COLUMNS: Final = (
    "key", "vms", "billed_seconds", "unknown_seconds", "estimate", "off_contract_seconds",
    "off_contract_unknown_seconds", "off_contract_estimate",
)  # fmt: skip


def to_csv(by: str, currency: str, rows: Iterable[Mapping[str, object]]) -> str:
    """The rows of a report, with a header that names the key by what the report is by."""
    lines = [[by, *COLUMNS[1:], "currency"]]
    lines += [[*(str(row[name]) for name in COLUMNS), currency] for row in rows]
    return "".join(map(csv_lines.line, lines))

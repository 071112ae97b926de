"""A cost report as CSV (RFC 4180), the same from the API and from the command line."""

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Final

#: The fields of a row, in their order.
COLUMNS: Final = (
    "key", "vms", "billed_seconds", "unknown_seconds", "estimate", "off_contract_seconds",
    "off_contract_unknown_seconds", "off_contract_estimate",
)  # fmt: skip

# A spreadsheet would run a cell that begins with one of these as a formula, and callers choose labels.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def to_csv(by: str, currency: str, rows: Iterable[Mapping[str, object]], *, header: bool = True) -> str:
    """The rows of a report, with a header that names the key by what the report is by."""
    written = io.StringIO()
    writer = csv.writer(written)
    if header:
        writer.writerow([by, *COLUMNS[1:], "currency"])
    writer.writerows([[*(_cell(row[name]) for name in COLUMNS), currency] for row in rows])
    return written.getvalue()


def _cell(value: object) -> str:
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text

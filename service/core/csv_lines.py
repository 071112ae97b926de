"""Lines of CSV (RFC 4180) that no spreadsheet runs as formulas: callers choose names and labels."""

from collections.abc import Iterable
from typing import Final

# What a spreadsheet takes for the beginning of a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def line(cells: Iterable[str]) -> str:
    """A line with its end. A cell that begins like a formula gets an apostrophe before it."""
    return ",".join(map(_cell, cells)) + "\r\n"


def _cell(text: str) -> str:
    safe = f"'{text}" if text.startswith(_FORMULA) else text
    return '"' + safe.replace('"', '""') + '"' if any(sign in safe for sign in ',"\r\n') else safe

"""Makes values from outside storable in Postgres: text is clipped, numbers out of range become None."""

from typing import Final

#: The most characters of a text from outside; no known one is longer.
LONGEST_TEXT: Final = 1000
_INT4: Final = 2**31
_INT8: Final = 2**63


def clean(value: str) -> str:
    """The text without NUL, and with lone surrogates replaced by U+FFFD: Postgres refuses both."""
    value = value.replace("\0", "")
    return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def text(value: str | None, *, longest: int = LONGEST_TEXT) -> str | None:
    """The clean text, at most `longest` characters; None if empty."""
    return clean(value[:longest]) or None if value else None


def int4(value: int | None) -> int | None:
    """The number, or None if a column of four bytes cannot hold it."""
    return value if value is not None and -_INT4 <= value < _INT4 else None


def int8(value: int | None) -> int | None:
    """The number, or None if a column of eight bytes cannot hold it."""
    return value if value is not None and -_INT8 <= value < _INT8 else None

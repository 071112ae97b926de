"""Values that Postgres takes, made from values that anybody may send: text is clipped, numbers out of range are dropped."""

from typing import Final

#: Characters of a text that the provider or a callback may bring; none that is known is longer.
LONGEST_TEXT: Final = 1000
_INT4: Final = 2**31
_INT8: Final = 2**63


def text(value: str | None, *, longest: int = LONGEST_TEXT) -> str | None:
    """The text without NUL and lone surrogates, which Postgres refuses, at most `longest` characters; None if empty."""
    if not value:
        return None
    clipped = value[:longest]
    if not clipped.isascii():
        clipped = clipped.encode("utf-8", "replace").decode()
    return clipped.replace("\0", "") or None


def int4(value: int | None) -> int | None:
    """The number, or None if a column of four bytes cannot hold it."""
    return value if value is not None and -_INT4 <= value < _INT4 else None


def int8(value: int | None) -> int | None:
    """The number, or None if a column of eight bytes cannot hold it."""
    return value if value is not None and -_INT8 <= value < _INT8 else None

"""Readers of single JSON values that take what the provider is known to send, and never raise.

Numbers come as text and text as numbers, nulls and empty strings stand for each other, and times come with and
without a zone (infrahub-api.md sections 3.4, 6 and 8). What cannot be read is None, or empty.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

# A database column of 64 or 32 bits must be able to hold what we read.
LARGEST = 2**63 - 1
LARGEST_SMALL = 2**31 - 1
# Of a number's digits and of its exponent: no price needs more, and arithmetic with 10^1000000 would never end.
_DIGITS = 60


def text(value: Any) -> str | None:
    """Text without surrounding space, or None where nothing is left. A number is its digits."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        return None
    return storable(value).strip() or None


def storable(value: str) -> str:
    """Text that Postgres can store: without NUL, and with lone surrogates replaced."""
    value = value.replace("\0", "") if "\0" in value else value
    if value.isascii():
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def whole(value: Any) -> int | None:
    """A whole number, also from "7", 7.0 and "7.0"."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) <= LARGEST else None
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        # Not by way of a float, which would change the last digits of a long id.
        return whole(int(value)) if len(value) < 40 else None
    number = decimal(value)
    if number is None or abs(number) >= LARGEST or number != number.to_integral_value():
        return None
    return int(number)


def positive(value: Any) -> int | None:
    """A whole number above zero: what an id is."""
    number = whole(value)
    return number if number is not None and number > 0 else None


def small(value: Any) -> int | None:
    """A whole number that fits into 32 bits."""
    number = whole(value)
    return number if number is not None and abs(number) <= LARGEST_SMALL else None


def small_positive(value: Any) -> int | None:
    """A whole number above zero that fits into 32 bits: a contract's id."""
    number = small(value)
    return number if number is not None and number > 0 else None


def decimal(value: Any) -> Decimal | None:
    """A finite number, exactly as written, also from text and from scientific notation ("1.9E-5").

    None for what has more digits, or is larger or smaller, than any price, percentage or id.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        # By way of its shortest text, so that the float 1.35 is 1.35 and not 1.350000000000000088817.
        number = Decimal(value.strip() if isinstance(value, str) else str(value))
    except (ValueError, InvalidOperation):
        return None
    return number if _is_plausible(number) else None


def _is_plausible(number: Decimal) -> bool:
    if not number.is_finite() or len(number.as_tuple().digits) > _DIGITS:
        return False
    return -_DIGITS <= int(number.as_tuple().exponent) <= _DIGITS


def flag(value: Any) -> bool | None:
    """True or false, also as a word."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return value if isinstance(value, bool) else None


def moment(value: Any) -> datetime | None:
    """A time in UTC. One without a zone is taken to be in UTC: both forms occur."""
    if not isinstance(value, str):
        return None
    try:
        read = datetime.fromisoformat(value.strip())
        return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def mapping(value: Any) -> Mapping[str, Any]:
    """An object, or an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list; its other items are left out."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def name(value: Any) -> str | None:
    """A name, also from an object that has one."""
    return text(value["name"]) if isinstance(value, dict) and "name" in value else text(value)


def names(value: Any) -> tuple[str, ...]:
    """The names in a list; one text alone is a list of one."""
    items = value if isinstance(value, list) else [value]
    return tuple(found for found in map(name, items) if found is not None)


def texts(value: Any) -> tuple[str, ...]:
    """Every text in a value of any shape, those of an object with their key ("name: too long"). For people to read."""
    return tuple(_texts(value, depth=5))


def _texts(value: Any, depth: int) -> Iterator[str]:
    # The depth is bounded because the parser allows more of it than the stack does.
    if depth == 0:
        return
    if isinstance(value, list):
        for item in value:
            yield from _texts(item, depth - 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (f"{key}: {found}" for found in _texts(item, depth - 1))
    elif (found := text(value)) is not None:
        yield found

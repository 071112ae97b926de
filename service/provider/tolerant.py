"""Readers of single JSON values from the provider. They never raise.

Numbers come as text and text as numbers, nulls and empty strings stand for each other, and times come with and
without a zone (infrahub-api.md sections 3.4, 6 and 8). What cannot be read becomes None, or empty.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from service.core import storable

# Of a number's digits and of its exponent: no price needs more, and arithmetic with 10^1000000 would never end.
_DIGITS = 60


def text(value: Any) -> str | None:
    """Text without surrounding space, or None if nothing is left. A number becomes its digits."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        return None
    return storable.clean(value).strip() or None


def whole(value: Any) -> int | None:
    """A whole number, also from "7", 7.0 and "7.0"."""
    if isinstance(value, int) and not isinstance(value, bool):
        return storable.int8(value)
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        # Not through a float, which would change the last digits of a long id.
        return whole(int(value)) if len(value) < 40 else None
    number = decimal(value)
    return storable.int8(int(number)) if number is not None and number == number.to_integral_value() else None


def positive(value: Any) -> int | None:
    """A whole number above zero, such as an id."""
    number = whole(value)
    return number if number is not None and number > 0 else None


def small(value: Any) -> int | None:
    """A whole number that fits into 32 bits."""
    return storable.int4(whole(value))


def small_positive(value: Any) -> int | None:
    """A whole number above zero that fits into 32 bits, such as a contract's id."""
    number = small(value)
    return number if number is not None and number > 0 else None


def decimal(value: Any) -> Decimal | None:
    """A finite number, exactly as written, also from text, in scientific notation too ("1.9E-5").

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
    """A time in UTC. A time without a zone is UTC: both forms occur."""
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
    """Every text in a value of any shape, for people; those of an object with their key ("name: too long")."""
    return tuple(_texts(value, depth=5))


def _texts(value: Any, depth: int) -> Iterator[str]:
    # The parser allows more depth than the stack does.
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

"""Amounts of money in requests: exact decimals, from numbers and from text such as "12.50"."""

from decimal import Decimal, InvalidOperation
from typing import Annotated, Final

from pydantic import BeforeValidator, WithJsonSchema

from service.core.create_body import wrong

_LARGEST: Final = Decimal(10**12)
_PLACES: Final = 9


def _amount(value: object) -> Decimal:
    try:
        number = Decimal(str(value).strip() if isinstance(value, int | float | str | Decimal) else "no number")
    except InvalidOperation:
        number = Decimal("NaN")
    if isinstance(value, bool) or not number.is_finite():
        raise wrong("must be an amount of money, such as 12.50")
    if not 0 < number <= _LARGEST:
        raise wrong(f"must be greater than 0 and at most {_LARGEST}")
    if number != round(number, _PLACES):
        raise wrong(f"must have at most {_PLACES} decimal places")
    return Decimal(f"{number.normalize():f}")  # the same text for 12.5, "12.50" and 1.25e1


#: An amount above 0. In JSON a number or text; shown as text, because a JSON number is read as a float.
Amount = Annotated[
    Decimal,
    BeforeValidator(_amount),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "examples": ["12.50"]}]}),
]

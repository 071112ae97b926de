"""Durations and moments as people write them: seconds, or text such as `30m`, `2h`, `1h30m` and `7d`; RFC 3339."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from service.core.create_body import wrong

_SECONDS: Final = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_NUMBER: Final = r"[0-9]{1,9}(\.[0-9]{1,6})?"
_PATTERN: Final = rf"^({_NUMBER}|({_NUMBER}[dhms])+)$"


def seconds_of(text: str) -> float | None:
    """The seconds that a duration stands for; None if it is not one. A number without a unit is in seconds."""
    text = text.strip().lower()
    if re.fullmatch(_PATTERN, text) is None:
        return None
    if text[-1] not in _SECONDS:
        return float(text)
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9.]+)([dhms])", text))


def text_of(seconds: float) -> str:
    """A duration as people write it: `2h`, `1h30m`, `90s`. Fractions of a second are left out of what is longer."""
    if seconds < 60:
        return f"{seconds:g}s"
    left, parts = round(seconds), []
    for unit, size in _SECONDS.items():
        number, left = divmod(left, int(size))
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts)


def read_duration(value: object) -> float | None:
    """The seconds that a number or a text stands for; None if it is no duration."""
    if isinstance(value, str):
        return seconds_of(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e12 else None


def _read(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    seconds = seconds_of(value)
    if seconds is None:
        raise wrong("must be a number of seconds, or a duration such as 30m, 2h or 7d")
    return seconds


class _NumberOrText:
    """The JSON schema of a duration that is given: a number within the field's bounds, or text, whose value no schema bounds."""

    @staticmethod
    def __get_pydantic_json_schema__(schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        number = handler(schema)
        if handler.mode == "serialization":
            return number
        return {"anyOf": [number, {"type": "string", "pattern": _PATTERN, "examples": ["2h"]}]}


#: Seconds, from a number or from text. It is stored and shown as a number.
Duration = Annotated[float, BeforeValidator(_read), _NumberOrText()]


_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def _moment(value: object) -> object:
    # Only RFC 3339 with its zone: pydantic would also accept a number of seconds, and a time without a zone.
    try:
        if isinstance(value, str) and _RFC3339.fullmatch(value):
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise wrong("must be a time with its zone, such as 2026-11-01T12:00:00Z; in a URL, + is written %2B")


#: A moment in UTC, from RFC 3339 text.
Moment = Annotated[datetime, BeforeValidator(_moment, json_schema_input_type=Annotated[datetime, Field()])]

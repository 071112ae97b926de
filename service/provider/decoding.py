"""JSON of the provider, decoded tolerantly: what no JSON parser should be given, and what Postgres cannot store.

Python's own parser takes what the strict one refuses (lone surrogates, NaN, integers of any length). Whatever the parser,
the text that comes out can be stored. The readers in `tolerant` see to it that single numbers fit their columns.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import orjson

from service.core.storable import clean

#: Beyond the unsigned 64-bit range orjson cannot write an integer.
_LARGEST: Final = 2**63 - 1
#: A value nested deeper is left out: the record's own parsers go no deeper, and neither does a person.
_DEEPEST: Final = 64


def decode(body: bytes) -> Any:
    """The value of a JSON text, None if it is none. Never raises; text in it can be stored by Postgres."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _decode_anyhow(body)
    # The strict parser takes no text that Postgres cannot store, save for the NUL, which it only takes in this form.
    return cleaned(value) if b"\\u0000" in body else value


def _decode_anyhow(body: bytes) -> Any:
    try:
        return cleaned(json.loads(body.decode("utf-8", errors="replace"), parse_int=_integer))
    except (ValueError, RecursionError):
        return None


def encode(value: Mapping[str, Any]) -> bytes:
    """The JSON text of an object that came out of `decode`, with sorted keys: the same value gives the same bytes."""
    return orjson.dumps(cleaned(dict(value)), option=orjson.OPT_SORT_KEYS)


def cleaned(value: Any, depth: int = _DEEPEST) -> Any:
    """A JSON value that Postgres can store: in text NUL is dropped and lone surrogates replaced; numbers that are not
    finite, or beyond 64 bits, and what is nested too deep become None.
    """
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(key): cleaned(item, depth - 1) for key, item in value.items()} if depth else None
    if isinstance(value, list):
        return [cleaned(item, depth - 1) for item in value] if depth else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) <= _LARGEST else None
    return value


def _integer(digits: str) -> int | None:
    # Python refuses to read very long integers, for the time that takes.
    return int(digits) if len(digits) < 20 else None

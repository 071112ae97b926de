"""Decodes the provider's JSON tolerantly, into values that Postgres can store.

Python's parser takes what orjson refuses: lone surrogates, NaN, long integers. `tolerant` makes numbers fit their columns.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from service.core.storable import clean

#: Beyond the unsigned 64-bit range orjson cannot write an integer.
_LARGEST: Final = 2**63 - 1
#: Values nested deeper become None.
_DEEPEST: Final = 64
#: Strings, which may hold brackets, and the brackets. A string that never ends is one token, so that this takes linear time.
_TOKENS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|$)|[\[\]{}]', re.DOTALL)


def decode(body: bytes) -> Any:
    """The value of a JSON text, None if it is invalid. Never raises; Postgres can store the value."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _decode_anyhow(body)
    # orjson accepts no text that Postgres cannot store, except NUL, and that only in this form.
    return cleaned(value) if b"\\u0000" in body else value


def _decode_anyhow(body: bytes) -> Any:
    try:
        return cleaned(_lenient(body))
    except RecursionError:  # Python's parser goes no deeper than its stack, and one deep value costs only itself
        return _decode_anyhow(_shallow(body))
    except ValueError:
        return None


def _lenient(body: bytes) -> Any:
    return json.loads(body.decode("utf-8", errors="replace"), parse_int=_integer)


def _shallow(body: bytes) -> bytes:
    """The JSON text with null in place of every value that is nested too deep; empty if its brackets do not match."""
    depth, end, parts = 0, 0, list[bytes]()
    for token in _TOKENS.finditer(body):
        match token[0]:
            case b"[" | b"{":
                depth += 1
                if depth == _DEEPEST + 1:
                    parts.append(body[end : token.start()] + b"null")
            case b"]" | b"}":
                depth -= 1
                if depth == _DEEPEST:
                    end = token.end()
    return b"".join((*parts, body[end:])) if not depth else b""


def encode(value: Mapping[str, Any]) -> bytes:
    """The JSON text of a decoded object, with sorted keys, so that equal objects give equal bytes."""
    return orjson.dumps(cleaned(dict(value)), option=orjson.OPT_SORT_KEYS)


def cleaned(value: Any, depth: int = _DEEPEST) -> Any:
    """A JSON value that Postgres can store: clean text; None for numbers that are not finite or beyond 64 bits, and for
    values nested too deep.
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
    # Python refuses very long integers, since converting them is slow.
    return int(digits) if len(digits) < 20 else None

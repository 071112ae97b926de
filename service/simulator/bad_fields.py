"""Replaces fields of a JSON answer with unexpected values, or removes them."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from service.simulator.faults import CallFaults
from service.simulator.http import HttpReply

#: Stands for a removed field.
MISSING = ""
#: JSON texts, since some of them (1e400) have no Python value.
DEFAULT_VALUES = (
    MISSING,
    "null",
    "true",
    "0",
    "-1",
    "3.5",
    "1e400",
    "9" * 400,
    '""',
    '"7"',
    r'"x \ud83d"',
    r'"a\u0000b"',
    r'"\u001b]0;x\u0007"',
    r'"\u202egnirts"',
    '"' + "x" * 100_000 + '"',
    "[]",
    "{}",
    '[null, {"id": null}]',
    "[" * 100 + "]" * 100,
    '{"a":' * 2_000 + "1" + "}" * 2_000,
)
_PLACEHOLDER = "\x00bad field {}\x00"

Slot = tuple[dict[str, Any], str, tuple[str, ...]]


def corrupt(reply: HttpReply, faults: CallFaults, rng: random.Random) -> HttpReply:
    """Replace `bad_field_count` fields of a JSON object. Other bodies, and errors, stay as they are."""
    if reply.status != 200 or not reply.body.startswith(b"{"):
        return reply
    content = reply.json()
    texts = {}
    for number in range(faults.bad_field_count):
        slots = [slot for slot in _slots(content, ()) if _selected(slot, faults.bad_field_names)]
        if not slots:
            break
        container, key, _ = rng.choice(slots)
        text = rng.choice(faults.bad_field_values or DEFAULT_VALUES)
        if text == MISSING:
            del container[key]
            continue
        placeholder = _PLACEHOLDER.format(number)
        container[key] = placeholder
        texts[json.dumps(placeholder).encode()] = text.encode()
    body = json.dumps(content).encode()
    for quoted, value in texts.items():
        body = body.replace(quoted, value)
    return replace(reply, body=body)


def _slots(content: Any, path: tuple[str, ...]) -> Iterator[Slot]:
    """Every field of every object, with its path. Positions in lists are not part of the path."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield content, key, (*path, key)
            yield from _slots(value, (*path, key))
    elif isinstance(content, list):
        for value in content:
            yield from _slots(value, path)


def _selected(slot: Slot, names: tuple[str, ...]) -> bool:
    path = slot[2]
    return not names or any(path[-len(parts) :] == parts for parts in (tuple(name.split(".")) for name in names))

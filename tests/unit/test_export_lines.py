"""Lines of an export hold no callback token, whatever stands around it, and all else as it was."""

import base64
import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson
from hypothesis import given
from hypothesis import strategies as st

from service.audit import export
from service.audit.leaf import leaf_of
from service.audit.merkle import leaf_hash
from service.core.token import CreationRef, mint, redact

TOKEN = mint(CreationRef(UUID(int=7), 1), b"a secret")
MAC = TOKEN[-32:]
#: Text in which tokens stand, among what JSON escapes and digits that might belong to one.
TEXTS = st.lists(
    st.sampled_from([TOKEN, TOKEN.upper(), TOKEN[:69], "/callbacks/", "\b", "\f", '"', "\\", "\\u00ab", "\x1f", "ä", "夜", "f", "0"])
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5),
    max_size=6,
).map("".join)  # fmt: skip
ROW: dict[str, Any] = {
    "submission_id": str(UUID(int=7)),
    "call_id": str(UUID(int=8)),
    "outcome": "refused",
    "ms": 3,
    "status_code": None,
}


def of_row(row: Mapping[str, Any]) -> bytes:
    """A row's members, as Postgres writes them."""
    return orjson.dumps(row)[1:-1]


@given(error=TEXTS)
def test_a_column_with_a_token_is_struck_out_and_the_row_can_still_be_found_in_the_log(error: str) -> None:
    row = {**ROW, "error": error, "ended_at": "2026-11-23T14:47:46.559102Z", "xact_id": 755}
    (line,) = export.lines_of("call_ends", [(of_row(row),)])
    shown = json.loads(line)
    assert MAC not in line.decode().lower()
    struck, hash_ = shown.pop("struck_out", None), shown.pop("leaf_hash", None)
    if struck is None:
        assert (shown, hash_) == (row, None)
    else:
        assert (struck, {**shown, "error": error}) == (["error"], row)
        assert hash_ == leaf_hash(leaf_of("call_ends", export_values(row))).hex()
    assert struck is not None or redact(error) == error


def export_values(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: export.value_of("call_ends", name, value) for name, value in row.items()}


@given(parts=st.lists(TEXTS.map(str.encode) | st.binary(max_size=4), max_size=5), header=TEXTS)
def test_a_body_keeps_all_bytes_but_those_of_a_token(parts: list[bytes], header: str) -> None:
    body = b"".join(parts)
    row = {"submission_id": ROW["submission_id"], "headers": {"referer": header}, "xact_id": 755}
    (line,) = export.lines_of("events", [(of_row(row), body)])
    shown = json.loads(line)
    is_text = shown["body_encoding"] == "utf-8"
    written = shown["body"].encode() if is_text else base64.b64decode(shown["body"])
    assert MAC.encode() not in written.lower()
    assert MAC not in line.decode().lower()
    if "body" in shown.get("struck_out", ()):
        assert written != body
    else:
        assert written == body
    assert ("headers" in shown.get("struck_out", ())) == (shown["headers"] != row["headers"]) == ("leaf_hash" in shown)
    assert b"\n" not in line[:-1]

"""Compressed callbacks are read like others, and bombs are not unpacked."""

import gzip
import zlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.content import MOST_BYTES, unpacked
from service.core.event import Callback, Unreadable, parse

BODY = orjson.dumps({"resource": {"id": 7}, "operation": {"name": "createInstance", "status": "SUCCESS"}})
PACK = [gzip.compress, *(lambda body, level=level: zlib.compress(body, level) for level in (0, 1, 6, 9))]


@pytest.mark.parametrize("pack", PACK)
def test_a_compressed_callback_claims_what_it_would_claim_plain(pack):
    assert parse(pack(BODY)) == parse(BODY)
    assert isinstance(parse(BODY), Callback)


@pytest.mark.parametrize("pack", PACK)
def test_a_bomb_is_unreadable_and_never_unpacked_as_a_whole(pack):
    bomb = pack(b" " * (64 * MOST_BYTES))
    found = parse(bomb)
    assert isinstance(found, Unreadable)
    assert "bytes when unpacked" in found.reason


@given(st.binary(max_size=500), st.sampled_from(PACK), st.integers(0, 600))
def test_what_is_damaged_or_breaks_off_is_unreadable_and_never_raises(body, pack, at):
    whole = pack(body)
    assert unpacked(whole) == body
    assert isinstance(parse(whole[:at]), Unreadable | Callback)
    assert isinstance(parse(whole[:2] + body), Unreadable | Callback)


def test_the_largest_body_is_unpacked():
    assert len(unpacked(gzip.compress(b" " * (MOST_BYTES - 1)))) == MOST_BYTES - 1

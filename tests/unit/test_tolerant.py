"""Readers of single JSON values: what they take, and that they never raise."""

import math
from datetime import UTC, datetime
from decimal import Decimal

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.provider import tolerant

NOON = datetime(2026, 8, 17, 9, 33, 46, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (" a ", "a"),
        ("", None),
        ("  ", None),
        (None, None),
        (7, "7"),
        (1.5, "1.5"),
        (True, None),
        ([], None),
        ("a\0b", "ab"),
    ],
)
def test_text(value, expected):
    assert tolerant.text(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7), ("7", 7), (" 7 ", 7), (7.0, 7), ("7.0", 7), ("-7", -7), (0, 0), ("9007199254740993", 9007199254740993),
        (2**63 - 1, 2**63 - 1), (2**63, None), (str(2**63), None), ("9" * 5000, None), (7.5, None), ("7.5", None),
        (1e300, None), (True, None), (None, None), ("", None), ("seven", None), ("²", None), ([7], None),
    ],
)  # fmt: skip
def test_a_whole_number(value, expected):
    assert tolerant.whole(value) == expected


def test_an_id_is_above_zero():
    assert [tolerant.positive(value) for value in ("7", 0, -7, None)] == [7, None, None, None]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1.9E-5", Decimal("0.000019")), ("0.000019", Decimal("0.000019")), (2, Decimal(2)), (1.35, Decimal("1.35")),
     ("1.350000000", Decimal("1.35")), (1e-7, Decimal("0.0000001")), (" 7 ", Decimal(7)), ("1E-400", None),
     ("1E999999999", None), ("1e400", None), ("9" * 5000, None), ("", None), ([], None), ("inf", None), (math.nan, None), (True, None), ("free", None),
     (10**400, None), (None, None)],
)  # fmt: skip
def test_a_decimal_number(value, expected):
    assert tolerant.decimal(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(True, True), (False, False), (" TRUE ", True), ("false", False), ("yes", None), (1, None)]
)
def test_a_flag(value, expected):
    assert tolerant.flag(value) is expected


@pytest.mark.parametrize(
    "value",
    ["2026-08-17T09:33:46", "2026-08-17T09:33:46Z", " 2026-08-17 09:33:46 ", "2026-08-17T11:33:46+02:00",
     "2026-08-17T09:33:46.000000000Z"],
)  # fmt: skip
def test_a_time_with_or_without_a_zone_is_in_utc(value):
    assert tolerant.moment(value) == NOON
    assert tolerant.moment(value).tzinfo is UTC


@pytest.mark.parametrize("value", ["", "soon", None, 0, 1787000000, [], "0001-01-01T00:00:00+14:00"])
def test_anything_else_is_no_time(value):
    assert tolerant.moment(value) is None


def test_a_name_may_be_within_an_object():
    assert tolerant.name({"name": "a"}) == tolerant.name("a") == "a"
    assert tolerant.name({"id": 3}) is None
    assert tolerant.names(["a", {"name": "b"}, None, []]) == ("a", "b")
    assert tolerant.names("a") == ("a",)
    assert tolerant.names(None) == ()


def test_texts_come_from_any_shape():
    assert tolerant.texts("a") == ("a",)
    assert tolerant.texts(["a", {"b": ["c", None, 3]}]) == ("a", "b: c", "b: 3")
    assert tolerant.texts([[[[["too deep"]]]]]) == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(JSON)
def test_no_reader_raises(value):
    for name in (
        "text",
        "whole",
        "positive",
        "decimal",
        "flag",
        "moment",
        "mapping",
        "mappings",
        "name",
        "names",
        "texts",
    ):
        getattr(tolerant, name)(value)


@given(st.integers(1, 1000))
def test_no_depth_raises(depth):
    tolerant.texts(orjson.loads(b'{"a":[' * (depth // 2) + b"1" + b"]}" * (depth // 2)))

"""Durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.duration import seconds_of, text_of
from service.core.submission import DAY, Policy, validate_submission
from service.errors import Invalid

BODY = {
    "name": "vm",
    "environment_name": "test1",
    "flavor_name": "n3-A100x1",
    "image_name": "Ubuntu",
    "key_name": "example-key",
    "count": 1,
}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("30m", 1800),
        ("2h", 7200),
        ("1h30m", 5400),
        ("7d", 7 * DAY),
        ("0.5h", 1800),
        ("2H", 7200),
    ],
)
def test_a_duration_is_read(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "2 h", "2w", "-1h", "1e3", "inf", "nan", "2h30", "٣h", "1" * 400])
def test_what_is_no_duration_is_none(text):
    assert seconds_of(text) is None


@given(st.integers(0, 10**9))
def test_whole_seconds_are_read_as_they_are_shown(seconds):
    assert seconds_of(text_of(seconds)) == seconds


def test_every_duration_of_a_policy_may_be_text_and_is_kept_in_seconds():
    durations = {name for name in Policy.model_fields if name.endswith("_seconds")}
    retry = {name for name in type(Policy().retry).model_fields if name.endswith("_seconds")}
    policy = validate_submission(
        {**BODY, "policy": {**dict.fromkeys(durations, "2h"), "retry": dict.fromkeys(retry, "30m")}}
    ).policy
    assert {policy.model_dump()[name] for name in durations} == {7200}
    assert {policy.retry.model_dump()[name] for name in retry} == {1800}


def test_a_duration_that_cannot_be_read_says_how_to_write_it():
    with pytest.raises(Invalid, match="30m, 2h or 7d"):
        validate_submission({**BODY, "policy": {"deadline_seconds": "tomorrow"}})

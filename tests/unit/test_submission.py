"""Reading a request for a submission, and cutting it into creations."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.submission import DAY, MAX_VMS, Policy, cut, validate_submission
from service.errors import Invalid

BODY = {
    "name": "vm",
    "environment_name": "test1",
    "flavor_name": "n3-A100x1",
    "image_name": "Ubuntu",
    "key_name": "example-key",
    "count": 1,
}


def field_errors(**changes: Any) -> dict[str, str]:
    with pytest.raises(Invalid) as caught:
        validate_submission({key: value for key, value in (BODY | changes).items() if value is not None})
    return {mistake.field: mistake.message for mistake in caught.value.field_errors}


def test_a_plain_request_has_the_policies_that_wait_and_report():
    policy = validate_submission(BODY).policy
    assert policy == Policy()
    assert (policy.on_contract_error, policy.on_orphan, policy.on_stuck) == ("retry", "report", "report")
    assert (policy.retry.means, policy.retry.then, policy.deadline_seconds) == ("auto", "keep", DAY)


def test_every_mistake_is_named_at_once():
    found = field_errors(
        name="x" * 51,
        flavor_name=None,
        count=0,
        contract_id=0,
        colour="red",
        policy={"on_orphan": "kill", "retry": {"attempts": 0, "speed": 1}, "deadline_seconds": -1},
        security_rules=[
            {"direction": "in", "protocol": "tcp", "ethertype": "IPv4", "remote_ip_prefix": "0.0.0.0/0"},
        ],
    )
    assert set(found) >= {
        "name",
        "flavor_name",
        "count",
        "contract_id",
        "colour",
        "policy.on_orphan",
        "policy.retry.attempts",
        "policy.retry.speed",
        "policy.deadline_seconds",
        "security_rules.0.direction",
    }
    assert all(found.values())


def test_a_callback_url_is_accepted_with_a_warning_and_goes_nowhere():
    request = validate_submission({**BODY, "callback_url": "https://mine.example/hook"})
    assert ["callback_url" in one for one in request.warnings] == [True]
    assert "mine.example" not in f"{request.warnings} {request!r} {request.spec().to_json()}"


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "labels": st.none() | st.lists(st.sampled_from("ab")),
            "contract_id": st.none() | st.integers(1, 9),
            "deadline_seconds": st.integers(1, 9),
        },
    )
)
def test_requests_that_mean_the_same_have_the_same_canonical_form(changes):
    deadline = changes.pop("deadline_seconds", None)
    policy = {} if deadline is None else {"policy": {"deadline_seconds": deadline}}
    as_float = {} if deadline is None else {"policy": {"deadline_seconds": float(deadline), "on_stuck": "report"}}
    written = validate_submission({**BODY, **changes, **policy})
    short = {name: value for name, value in changes.items() if value is not None}
    rewritten = validate_submission(dict(reversed({**BODY, **short, **as_float}.items())))
    assert written.canonical() == rewritten.canonical()
    assert written.canonical() != validate_submission({**BODY, **changes, **policy, "count": 77}).canonical()


def test_a_null_callback_url_is_as_good_as_none():
    assert validate_submission({**BODY, "callback_url": None}).callback_url is None


@pytest.mark.parametrize("count", [1, 20, 21, MAX_VMS])
def test_any_number_of_vms_may_be_asked_for(count):
    assert validate_submission({**BODY, "count": count}).count == count


@pytest.mark.parametrize("count", [0, -1, MAX_VMS + 1, "20", 1.5, True, [], None])
def test_what_is_no_such_number_is_a_mistake(count):
    assert set(field_errors(count=count)) == {"count"}


@pytest.mark.parametrize(
    "field", ["stuck_after_seconds", "deadline_seconds", "retry.deadline_seconds", "retry.first_wait_seconds"]
)
@pytest.mark.parametrize("value", [0, -1, 1e12, 1e300, float("inf"), float("nan"), "soon"])
def test_times_are_positive_and_no_longer_than_the_record_can_hold(field, value):
    policy: dict[str, Any] = {}
    *parents, last = field.split(".")
    inner = policy
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = value
    assert set(field_errors(policy=policy)) == {f"policy.{field}"}


def test_a_near_miss_is_suggested():
    assert "on_orphan" in field_errors(policy={"on_orphans": "delete"})["policy.on_orphans"]


@pytest.mark.parametrize("body", [None, [], "text", 5, {"name": "x"}])
def test_a_body_that_is_no_request_is_refused_and_never_raises_anything_else(body):
    with pytest.raises(Invalid):
        validate_submission(body)


def test_the_spec_is_what_each_vm_is_made_from():
    request = validate_submission(
        {**BODY, "count": 60, "contract_id": 41, "labels": ["a"], "policy": {"on_stuck": "replace"}}
    )
    spec = request.spec().to_json()
    assert spec == {key: BODY[key] for key in BODY if key != "count"} | {"contract_id": 41, "labels": ["a"]}


@given(st.integers(0, 500), st.integers(1, 1000))
def test_cutting_takes_every_vm_once_and_in_order(count, first):
    pieces = list(cut(count, first))
    assert [number for piece in pieces for number in piece] == list(range(first, first + count))
    assert all(1 <= len(piece) <= 20 for piece in pieces)
    assert len(pieces) == -(-count // 20)


def test_by_default_the_deadline_is_no_longer_than_the_lifetime():
    assert validate_submission({**BODY, "policy": {"lifetime": "2h"}}).policy.deadline_seconds == 7200
    assert validate_submission({**BODY, "policy": {"lifetime": "7d"}}).policy.deadline_seconds == DAY


def test_a_lifetime_that_contradicts_the_deadline_or_a_time_of_expiry_is_named_with_all_other_mistakes():
    policy = {"lifetime": "1h", "deadline_seconds": "2h", "expires_at": "2026-12-01T00:00:00Z", "on_stuck": "shoot"}
    found = field_errors(policy=policy, count=0)
    assert set(found) == {"policy.lifetime", "policy.expires_at", "policy.on_stuck", "count"}
    assert "shorter than the deadline of 2h" in found["policy.lifetime"]

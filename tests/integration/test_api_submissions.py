"""Submissions over HTTP: kept once for each key, cut into creations, refused with every mistake."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from operator_api import Api, body, serving

from service.runtime.runtime import Runtime
from service.storage import creations, vms
from service.storage.engine import begin


@pytest.fixture
async def api(runtime: Runtime) -> AsyncIterator[Api]:
    async with serving(runtime) as api:
        yield api


def fields(answer) -> dict[str, str]:
    assert answer.status == 422, answer
    return {mistake["field"]: mistake["message"] for mistake in answer.json["errors"]}


async def test_a_submission_is_kept_and_shown_with_its_counts(api: Api) -> None:
    answer = await api.request("POST", "/v1/submissions", body(count=45, contract_id=41))
    made = answer.json
    assert answer.status == 201
    assert made["state"] == "open"
    assert made["count"] == 45
    assert made["counts"] == {"REQUESTED": 45}
    assert made["reasons"] == []
    assert made["created_at"] == "2026-03-02T12:00:00Z"
    assert made["requested_by"] == "tests"
    assert answer.headers["Location"] == f"/v1/submissions/{made['submission_id']}"
    assert await api.get(f"/v1/submissions/{made['submission_id']}") == made


async def test_a_submission_becomes_creations_of_at_most_twenty(api: Api, runtime: Runtime) -> None:
    made = await api.submit(count=45, assign_floating_ip=True, contract_id=41)
    submission_id = UUID(made["submission_id"])
    async with begin(runtime.engine) as conn:
        due = await creations.claim_due(
            conn, now=runtime.clock.now(), lease=runtime.look.after(1, 0), token=runtime.uuid(), limit=10
        )
        third = await vms.of_creation(conn, submission_id, 3)
    assert [one.creation.vm_count for one in due] == [20, 20, 5]
    assert len({one.creation.name for one in due}) == 3
    assert [vm.vm_no for vm in third] == [41, 42, 43, 44, 45]
    assert {(vm.wants_address, vm.assignment, vm.contract_id, vm.flavor) for vm in third} == {
        (True, "wanted", 41, "n3-A100x1")
    }


async def test_a_large_submission_is_written_in_sets(api: Api) -> None:
    made = await api.submit(count=4501)
    assert made["counts"] == {"REQUESTED": 4501}


async def test_the_same_key_and_body_yield_the_first_submission(api: Api) -> None:
    first = await api.request("POST", "/v1/submissions", body(count=3), Idempotency_Key="k-1")
    again = await api.request("POST", "/v1/submissions", body(count=3), Idempotency_Key="k-1")
    assert (first.status, again.status) == (201, 200)
    assert again.json["submission_id"] == first.json["submission_id"]
    assert len(await api.every("/v1/submissions")) == 1


async def test_the_order_of_the_fields_makes_no_other_body(api: Api) -> None:
    first = await api.request("POST", "/v1/submissions", body(count=3), Idempotency_Key="k-1")
    turned = dict(reversed(body(count=3).items()))
    again = await api.request("POST", "/v1/submissions", turned, Idempotency_Key="k-1")
    assert again.status == 200
    assert again.json["submission_id"] == first.json["submission_id"]


@pytest.mark.parametrize(
    ("first", "again"),
    [
        ({"policy": {"deadline_seconds": 7200}}, {"policy": {"deadline_seconds": 7200.0}}),
        ({"contract_id": None}, {}),
        ({"labels": None, "policy": {}}, {}),
        ({"policy": {"on_stuck": "report"}}, {}),
        ({"policy": {"retry": {"attempts": 20}}}, {"policy": {"retry": {}}}),
        ({"flavor": {"ram": 120}}, {"flavor": {"ram": 120.0}}),
        ({"callback_url": None}, {}),
    ],
)
async def test_bodies_that_mean_the_same_are_the_same_for_a_key(api: Api, first: dict, again: dict) -> None:
    made = [
        await api.request("POST", "/v1/submissions", {**body(), **changes}, Idempotency_Key="k-1")
        for changes in (first, again)
    ]
    assert [one.status for one in made] == [201, 200]
    assert made[0].json["submission_id"] == made[1].json["submission_id"]


@pytest.mark.parametrize("key", ["nächtlich", "夜", "a	b", "x" * 256])
async def test_a_key_that_is_not_printable_ascii_is_refused(api: Api, key: str) -> None:
    answer = await api.request("POST", "/v1/submissions", body(), Idempotency_Key=key)
    assert answer.status == 422
    assert list(fields(answer)) == ["Idempotency-Key"]


async def test_the_same_key_with_another_body_is_a_conflict(api: Api) -> None:
    first = await api.request("POST", "/v1/submissions", body(count=3), Idempotency_Key="k-1")
    other = await api.request("POST", "/v1/submissions", body(count=4), Idempotency_Key="k-1")
    assert other.status == 409
    assert other.json["type"] == "/problems/idempotency-conflict"
    assert first.json["submission_id"] in other.json["detail"]


async def test_one_key_sent_many_times_at_once_makes_one_submission(api: Api) -> None:
    sent = [api.request("POST", "/v1/submissions", body(count=2), Idempotency_Key="k-1") for _ in range(8)]
    answers = await asyncio.gather(*sent)
    assert sorted(one.status for one in answers) == [200] * 7 + [201]
    assert len({one.json["submission_id"] for one in answers}) == 1


async def test_a_refused_request_does_not_use_up_its_key(api: Api) -> None:
    refused = await api.request("POST", "/v1/submissions", body(count=0), Idempotency_Key="k-1")
    mended = await api.request("POST", "/v1/submissions", body(count=1), Idempotency_Key="k-1")
    assert (refused.status, mended.status) == (422, 201)


async def test_every_mistake_is_named_at_once(api: Api) -> None:
    rule = {"direction": "sideways", "ethertype": "IPv4", "protocol": "tcp", "remote_ip_prefix": "0.0.0.0/0"}
    wrong = body(
        name="x" * 51,
        count=0,
        flavour_name="n3",
        flavor_name=None,
        security_rules=[rule],
        policy={"on_orphan": "shoot"},
    )
    field_errors = fields(await api.request("POST", "/v1/submissions", wrong, Idempotency_Key=""))
    assert field_errors.keys() >= {
        "Idempotency-Key",
        "name",
        "count",
        "flavor_name",
        "flavour_name",
        "security_rules.0.direction",
        "policy.on_orphan",
    }


async def test_the_providers_own_body_is_accepted_with_its_callback_url_and_a_warning(api: Api) -> None:
    made = await api.submit(callback_url="https://example.com/mine?secret=of-a-user")
    assert [one for one in made["warnings"] if "callback_url" in one] == [
        "callback_url is not used: Rollcall gives each create call one of its own, and relays no events to yours"
    ]
    assert "of-a-user" not in str(made)
    null = await api.request("POST", "/v1/submissions", {**body(), "callback_url": None})
    assert null.status == 201
    assert not [one for one in null.json["warnings"] if "callback_url" in one]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b'{"name": "\\ud800"}', "is not JSON"),
        (b"[]", "must be a JSON object"),
        (b"", "is not JSON"),
    ],
)
async def test_what_is_no_json_object_is_said_to_be_none(api: Api, content: bytes, words: str) -> None:
    assert words in fields(await api.request("POST", "/v1/submissions", content))["body"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"contract_id": 2**31}, "contract_id"),
        ({"policy": {"deadline_seconds": 1e300}}, "policy.deadline_seconds"),
        ({"policy": {"retry": {"max_wait_seconds": 1e12}}}, "policy.retry.max_wait_seconds"),
        ({"user_data": "a\0b"}, "user_data"),
        ({"labels": ["fine", "a\0b"]}, "labels.1"),
    ],
)
async def test_what_the_record_cannot_hold_is_a_mistake_and_no_failure(api: Api, changes: dict, field: str) -> None:
    assert fields(await api.request("POST", "/v1/submissions", body(**changes))).keys() == {field}


async def test_a_body_over_the_limit_is_refused_in_json(api: Api) -> None:
    answer = await api.request("POST", "/v1/submissions", body(user_data="x" * 1_100_000))
    assert answer.status == 413
    assert answer.json["type"] == "/problems/too-large"


async def test_user_data_is_kept_and_never_shown(api: Api) -> None:
    made = await api.submit(user_data="#cloud-config secret-of-a-user")
    listed = await api.get("/v1/submissions")
    assert "secret-of-a-user" not in str(made) + str(listed)
    assert made["spec"]["user_data"].startswith("30 bytes, sha256 ")


async def test_submissions_are_listed_newest_first_in_pages(api: Api, runtime: Runtime) -> None:
    made = []
    for _ in range(5):
        made.append((await api.submit())["submission_id"])
        runtime.clock.advance(1)
    first = await api.get("/v1/submissions?limit=2")
    assert [one["submission_id"] for one in first["items"]] == made[:2:-1]
    assert first["next"] == made[3]
    listed = await api.every("/v1/submissions?limit=2&state=open")
    assert [one["submission_id"] for one in listed] == made[::-1]
    assert (await api.get("/v1/submissions?state=ready"))["items"] == []


async def test_a_submission_is_found_by_a_prefix_of_its_id_and_by_its_name(api: Api, runtime: Runtime) -> None:
    first = await api.submit(name="train")
    runtime.clock.advance(60)
    second = await api.submit(name="serve")
    for made in (first, second):
        id_ = made["submission_id"]
        for ref in (id_, id_.upper(), id_.replace("-", ""), id_[:13], id_[:14], made["name"]):
            assert (await api.get(f"/v1/submissions/{ref}"))["submission_id"] == id_


async def test_an_ambiguous_submission_lists_what_it_could_be(api: Api, runtime: Runtime) -> None:
    made = []
    for _ in range(7):
        made.append((await api.submit(name="train"))["submission_id"])
        runtime.clock.advance(0.01)
    for ref in ("train", made[0][:8]):
        answer = await api.request("POST", f"/v1/submissions/{ref}/cancel")
        assert answer.status == 422
        message = fields(answer)["submission"]
        assert all(f"{one} (train)" in message for one in made[:1:-1])
        assert made[0] not in message
        assert message.endswith("and more")
    assert {one["state"] for one in await api.every("/v1/submissions")} == {"open"}


async def test_a_submission_says_when_its_next_attempt_is_due(api: Api) -> None:
    made = await api.submit()
    assert made["next_attempt_at"] == made["created_at"]
    await api.request("POST", f"/v1/submissions/{made['submission_id']}/cancel")
    assert (await api.get(f"/v1/submissions/{made['submission_id']}"))["next_attempt_at"] is None


@pytest.mark.parametrize(
    "name", ["00000000-0000-7000-8000-000000000000", "nonsense", "12", "ffffff", "a%00b", "%F0%9F"]
)
async def test_a_submission_nobody_made_is_not_found(api: Api, name: str) -> None:
    shown = await api.request("GET", f"/v1/submissions/{name}")
    cancelled = await api.request("POST", f"/v1/submissions/{name}/cancel")
    assert (shown.status, cancelled.status) == (404, 404)
    assert shown.json["type"] == "/problems/not-found"


async def test_cancelling_withdraws_what_was_not_sent_and_wishes_the_rest_away(api: Api, runtime: Runtime) -> None:
    made = await api.submit(count=25, contract_id=41)
    now, soon = runtime.clock.now(), runtime.look.after(1, 0.5)
    async with begin(runtime.engine) as conn:  # the first creation is being sent
        await creations.claim_due(conn, now=now, lease=soon, token=runtime.uuid(), limit=1)
    answer = await api.request("POST", f"/v1/submissions/{made['submission_id']}/cancel")
    assert answer.status == 202
    assert answer.json["state"] == "cancelled"
    assert answer.json["counts"] == {"CANCELLED": 5, "REQUESTED": 20}
    sent = await api.every(f"/v1/vms?submission_id={made['submission_id']}&state=REQUESTED")
    assert {(vm["desired_state"], vm["deletion_reason"]) for vm in sent} == {
        ("deleted", "submission cancelled by tests")
    }


async def test_cancelling_twice_changes_nothing_more(api: Api) -> None:
    made = await api.submit(count=3)
    path = f"/v1/submissions/{made['submission_id']}/cancel"
    first, again = await api.request("POST", path), await api.request("POST", path)
    assert first.json == again.json

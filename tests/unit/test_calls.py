"""Each call as it goes out: its method, its target, its body, and whether it may be made again."""

import json

import pytest

from service import errors
from service.core.create_body import CreateBody
from service.provider import calls

BODY = CreateBody(name="n", environment_name="e", image_name="i", flavor_name="f", key_name="k", count=2, user_data="é")
ROUTE = calls.ReassignRoute(method="PATCH", path="/core/virtual-machines/{vm_id}/contracts/{contract_id}")
VM = "/core/virtual-machines/5"

READING = [
    (calls.list_vms(page=2, page_size=100), "/core/virtual-machines?page=2&pageSize=100"),
    (
        calls.list_vms(page=1, page_size=10, search="a b&c"),
        "/core/virtual-machines?page=1&pageSize=10&search=a%20b%26c",
    ),
    (calls.get_vm(5), VM),
    (calls.vm_events(5), f"{VM}/events"),
    (calls.name_availability("a/b ?", count=3), "/core/virtual-machines/name-availability/a%2Fb%20%3F?count=3"),
    (calls.contracts(page=1, per_page=50), "/pricebook/contracts?page=1&per_page=50"),
    (calls.contract(41), "/pricebook/contracts/41"),
    (
        calls.contract_vms(41, page=1, page_size=9),
        "/core/virtual-machines/contract/41/virtual-machines?page=1&pageSize=9",
    ),
    (calls.flavors(), "/core/flavors"),
    (calls.flavors(region="CANADA-1"), "/core/flavors?region=CANADA-1"),
    (calls.images(region="CANADA-1"), "/core/images?region=CANADA-1"),
    (calls.environments(page=1, page_size=10), "/core/environments?page=1&pageSize=10"),
    (calls.keypairs(page=1, page_size=10, search="k"), "/core/keypairs?page=1&pageSize=10&search=k"),
    (calls.sg_rules_protocols(), "/core/sg-rules-protocols"),
    (calls.stocks(), "/core/stocks"),
    (calls.pricebook(), "/pricebook"),
]
CHANGING = [
    (calls.create(BODY), "POST", "/core/virtual-machines", BODY.to_json()),
    (calls.delete_vm(5), "DELETE", VM, None),
    (calls.set_labels(5, ("é", "b")), "PUT", f"{VM}/label", {"labels": ["é", "b"]}),
    (calls.attach_callback(5, "https://x"), "POST", f"{VM}/attach-callback", {"url": "https://x"}),
    (calls.update_callback(5, "https://x"), "PUT", f"{VM}/update-callback", {"url": "https://x"}),
    (calls.delete_callback(5), "DELETE", f"{VM}/delete-callback", None),
    (calls.reassign_contract(ROUTE, 5, 41), "PATCH", f"{VM}/contracts/41", {"contract_id": 41}),
]


@pytest.mark.parametrize(("call", "target"), READING, ids=[call.operation for call, _ in READING])
def test_a_reading_is_a_get_that_is_safe_to_repeat(call, target):
    assert (call.method, call.target, call.body, call.safe) == ("GET", target, None, True)


@pytest.mark.parametrize(("call", "method", "target", "body"), CHANGING, ids=[call.operation for call, *_ in CHANGING])
def test_a_change_is_not_safe_to_repeat(call, method, target, body):
    assert (call.method, call.target, call.safe) == (method, target, False)
    assert body is None if call.body is None else json.loads(call.body) == body


def test_every_call_has_an_operation_of_its_own():
    built = {call.operation for call, *_ in [*READING, *CHANGING]}
    assert {name for name in vars(calls) if name in built} == built


def test_not_found_is_a_missing_vm_only_where_the_path_names_nothing_else():
    gone = {call.operation for call, *_ in [*READING, *CHANGING] if call.not_found is errors.VmNotFound}
    assert gone == {
        "get_vm", "vm_events", "delete_vm", "set_labels", "attach_callback", "update_callback", "delete_callback",
    }  # fmt: skip


def test_a_body_is_in_no_repr():
    assert "user_data" not in repr(calls.create(BODY))


@pytest.mark.parametrize(
    ("method", "path", "field_errors"),
    [("GET", "/x/{vm_id}", 1), ("PUT", "x/{vm_id}", 1), ("PUT", "/x", 1), ("DELETE", "", 2)],
)
def test_a_reassign_route_that_cannot_work_is_a_mistake_in_the_settings(method, path, field_errors):
    with pytest.raises(errors.ConfigError) as caught:
        calls.ReassignRoute(method=method, path=path)
    assert len(caught.value.field_errors) == field_errors

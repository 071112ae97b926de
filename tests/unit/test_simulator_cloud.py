import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import VMS, Caller, refusal

from service.simulator.endpoints import ENDPOINTS
from service.simulator.http import HttpRequest


@pytest.mark.parametrize("key", [None, ""])
def test_a_call_without_a_key_is_unauthorized(key):
    assert refusal(Caller().call("GET", "/core/stocks", key=key))[:2] == (401, "unauthorized")


def test_only_listed_keys_are_accepted_when_some_are_listed():
    caller = Caller(api_keys=["good"])
    assert caller.call("GET", "/core/stocks", key="good").status == 200
    assert caller.call("GET", "/core/stocks", key="bad").status == 401


@pytest.mark.parametrize("path", ["/core/unheard-of", "/core/virtual-machines/1/unheard-of", "/", ""])
def test_an_unknown_path_is_not_found(path):
    assert refusal(Caller().call("GET", path))[:2] == (404, "not_found")


@pytest.mark.parametrize("route", ENDPOINTS, ids=lambda route: f"{route.method} {route.path}")
def test_another_method_of_a_known_path_is_not_allowed(route):
    path = route.path.replace("{id}", "1").replace("{rule_id}", "1").replace("{name}", "x")
    assert refusal(Caller().call("PATCH", path))[:2] == (405, "not_allowed")


@pytest.mark.parametrize(
    "route", [route for route in ENDPOINTS if "{id}" in route.path], ids=lambda route: f"{route.method} {route.path}"
)
@pytest.mark.parametrize("vm_id", ["1", "abc", "99999999999999999999999", "-1", "%20"])
def test_an_id_that_nobody_has_is_not_found(route, vm_id):
    path = route.path.replace("{id}", vm_id).replace("{rule_id}", "1")
    assert refusal(Caller().call(route.method, path, {}))[:2] == (404, "not_found")


def test_the_limit_is_for_each_source_and_until_the_window_is_over():
    caller = Caller(rate_limit=3, rate_window=60)
    caller.now = 30
    statuses = [caller.call("GET", "/core/stocks", source="a").status for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    assert caller.call("GET", "/core/stocks", source="b").status == 200
    caller.wait(29.9)
    assert caller.call("GET", "/core/stocks", source="a").status == 429
    caller.wait(0.1)
    assert caller.call("GET", "/core/stocks", source="a").status == 200


def test_calls_that_are_refused_count_towards_the_limit():
    caller = Caller(rate_limit=2)
    assert [caller.call("GET", "/core/stocks", key=None).status for _ in range(3)] == [401, 401, 429]


def test_no_limit_is_no_limit():
    caller = Caller(rate_limit=0)
    assert {caller.call("GET", "/core/stocks").status for _ in range(1000)} == {200}


def test_private_calls_are_not_counted_and_need_no_key():
    caller = Caller(rate_limit=1)
    for _ in range(5):
        assert caller.private("GET", "healthz").status == 200
    assert caller.call("GET", "/core/stocks").status == 200
    assert caller.private("GET", "stats").json()["busiest_window"] == 1


def test_time_never_goes_backwards():
    caller = Caller()
    (vm_id,) = caller.made()
    caller.wait(100)
    caller.now = 0
    assert caller.vm(vm_id)["status"] == "ACTIVE"


def test_what_is_due_next_is_known():
    caller = Caller(timing={"callback": 0, "creating": 7, "security_rule": 9})
    assert caller.cloud.next_due() is None
    caller.made()
    assert caller.cloud.next_due() == 0
    caller.wait(0)
    assert caller.cloud.next_due() == 7


def test_going_by_the_dues_is_the_same_as_waiting_long():
    stepped, waited = Caller(), Caller()
    for caller in (stepped, waited):
        caller.made(count=3, assign_floating_ip=True)
    out = []
    while (due := stepped.cloud.next_due()) is not None:
        out += stepped.wait(due - stepped.now)
    assert out == waited.wait(1000)


@pytest.mark.parametrize("zoned", [True, False])
def test_times_have_a_zone_or_not(zoned):
    created_at = Caller(zoned_times=zoned).create().json()["instances"][0]["created_at"]
    assert created_at == "2026-08-17T09:33:46" + ("Z" if zoned else "")


def test_every_call_is_on_record_whatever_became_of_it():
    caller = Caller(faults={"create": {"lost": [1]}, "read": {"cut": [1]}})
    caller.create()
    caller.get(1)
    caller.call("GET", "/nowhere", key=None)
    lost, cut, refused = caller.private("GET", "calls").json()["calls"]
    assert (lost["fate"], lost["status"], lost["faults"], len(lost["created_vms"])) == ("lost", 200, ["lost"], 1)
    assert (cut["fate"], cut["status"], cut["path"]) == ("cut", 0, "/v1/core/virtual-machines/1")
    assert (refused["fate"], refused["status"], refused["number"]) == ("normal", 401, 3)
    assert caller.truth(lost["created_vms"][0])["create_call"] == lost["number"]


@pytest.mark.parametrize(
    ("price_format", "value"), [("number", 1.35), ("decimal", "1.350000000"), ("scientific", "1.350000E+00")]
)
def test_a_price_is_a_string_or_a_number(price_format, value):
    first = Caller(price_format=price_format).call("GET", "/pricebook").json()[0]
    assert (first["value"], first["original_value"]) == (value, value)


def test_prices_are_strings_in_both_notations_by_default():
    flavors = [{"name": f"cpu-{number}"} for number in range(20)]
    values = [entry["value"] for entry in Caller(flavors=flavors).call("GET", "/pricebook").json()]
    assert {type(value) for value in values} == {str}
    assert {"E" in value for value in values} == {True, False}


@pytest.mark.parametrize(("header", "status"), [("api_key", 200), ("api-key", 200), ("x-api-key", 401)])
def test_the_key_may_come_in_either_header(header, status):
    cloud = Caller(api_keys=["good"]).cloud
    request = HttpRequest(method="GET", path="/v1/core/stocks", headers={header: "good"})
    assert cloud.handle(request, 0).status == status


def test_the_headers_of_the_key_are_configurable():
    cloud = Caller(api_key_headers=["api_key"]).cloud
    request = HttpRequest(method="GET", path="/v1/core/stocks", headers={"api-key": "good"})
    assert cloud.handle(request, 0).status == 401


def test_the_catalogue_can_be_narrowed_to_a_region():
    caller = Caller(flavors=[{"name": "here"}, {"name": "there", "region": "NORWAY-1"}])
    data = caller.call("GET", "/core/flavors?region=NORWAY-1").json()["data"]
    assert [flavor["name"] for group in data for flavor in group["flavors"]] == ["there"]
    assert [group["region_name"] for group in caller.call("GET", "/core/images").json()["images"]] == [
        "CANADA-1",
        "NORWAY-1",
    ]
    assert len(caller.call("GET", "/core/images?region=NORWAY-1").json()["images"]) == 1


def test_environments_and_keypairs_are_paged_and_searched():
    caller = Caller(
        environments=[{"name": "one"}, {"name": "two"}, {"name": "three"}],
        keypairs=["k1", {"name": "k2", "environment": "two"}],
        count_means="total",
    )
    page = caller.call("GET", "/core/environments?page=2&pageSize=2").json()
    assert ([entry["name"] for entry in page["environments"]], page["count"]) == (["three"], 3)
    found = caller.call("GET", "/core/keypairs?search=K2").json()
    assert [(entry["name"], entry["environment"]["name"]) for entry in found["keypairs"]] == [("k2", "two")]
    everything = caller.call("GET", "/core/keypairs").json()["keypairs"]
    assert [(entry["name"], entry["environment"]["name"]) for entry in everything[:3]] == [
        ("k1", "one"),
        ("k1", "two"),
        ("k1", "three"),
    ]


def test_the_console_can_do_what_the_api_refuses():
    caller = Caller()
    (vm_id,) = caller.made()
    assert caller.private("POST", f"vms/{vm_id}/stop").status == 409
    assert caller.private("POST", f"vms/{vm_id}/error", {"silent": True}).json()["vm"]["status"] == "ERROR"
    assert caller.private("POST", f"vms/{vm_id}/stop", {"silent": True}).json()["vm"]["status"] == "STOPPING"
    assert len(caller.wait(20)) == 1
    assert caller.private("POST", f"vms/{vm_id}/delete").status == 200
    assert len(caller.wait(20)) == 2
    for action in ("vanish", "error", "stop", "delete"):
        assert caller.private("POST", f"vms/{vm_id}/{action}").status == 404


def test_a_vm_that_vanishes_sends_no_callback():
    caller = Caller()
    vm_id = caller.active()
    assert caller.private("POST", f"vms/{vm_id}/vanish").json()["vm"]["ended"] == "vanished"
    assert caller.wait(100) == []
    assert caller.get(vm_id).status == 404


def test_a_contract_can_be_changed_from_outside():
    caller = Caller()
    assert caller.private("POST", "contracts/41", {"remaining_count": 1}).status == 200
    assert caller.left() == 1
    assert caller.private("POST", "contracts/999", {"remaining_count": 1}).status == 404
    assert caller.private("POST", "contracts/41", {"remaining": 1}).status == 400


def test_private_paths_that_are_not_there_say_so():
    caller = Caller()
    assert caller.private("GET", "nowhere").status == 404
    assert caller.private("GET", "faults").status == 405


FAULTS = {
    "create": {"lost": 0.2, "error_after": 0.2, "cut": 0.2},
    "callbacks": {"lost": 0.2, "repeated": 0.2, "delayed": 0.2, "reordered": 0.2, "garbage": 0.1},
    "vms": {"boot_error": 0.2, "vanish": 0.1},
    "partial": 0.2,
    "late": 0.2,
}
STEPS = st.one_of(
    st.tuples(st.just("create"), st.integers(1, 4)),
    st.tuples(st.just("wait"), st.integers(0, 60)),
    st.tuples(st.just("delete"), st.integers(0, 5)),
)


def play(seed, steps):
    caller = Caller(seed=seed, faults=FAULTS, callback_variety=0.5, timing={})
    seen = []
    for what, number in steps:
        if what == "create":
            seen.append(caller.create(count=number, contract_id=41))
        elif what == "delete":
            seen.append(caller.call("DELETE", f"{VMS}/{caller.cloud.config.first_vm_id + number}"))
        else:
            seen.append(caller.wait(number))
    return seen, caller.wait(5000), caller.cloud.truth()


@given(st.integers(0, 99), st.lists(STEPS, max_size=12))
@settings(max_examples=60)
def test_the_same_seed_and_calls_give_the_same_behaviour(seed, steps):
    assert play(seed, steps) == play(seed, steps)

import pytest
from simulated import IMAGE, Caller, body, refusal


def test_a_created_vm_looks_as_the_seed_page_shows_it():
    (shown,) = Caller().create(assign_floating_ip=True, labels=["a"]).json()["instances"]
    assert shown["status"] == "CREATING"
    assert shown["image"] == {"name": IMAGE}
    assert shown["floating_ip_status"] == "ATTACHING"
    assert shown["port_randomization_status"] == "ENABLING"
    assert (shown["power_state"], shown["vm_state"], shown["fixed_ip"], shown["floating_ip"]) == (None,) * 4
    assert shown["labels"] == ["a"]
    assert shown["created_at"] == "2026-08-17T09:33:46"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("{name}-{i}", ["vm-1", "vm-2"]), ("{name}{i}", ["vm1", "vm2"]), ("{name}", ["vm", "vm"])],
)
def test_vms_of_one_call_are_named_by_the_pattern(pattern, names):
    caller = Caller(name_pattern=pattern)
    assert [vm["name"] for vm in caller.create(count=2).json()["instances"]] == names


def test_a_single_vm_has_the_name_itself():
    assert Caller().create().json()["instances"][0]["name"] == "vm"


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"name": None}, 400, "bad_request"),
        ({"name": ""}, 400, "bad_request"),
        ({"name": "x" * 51}, 400, "bad_request"),
        ({"name": 3}, 400, "bad_request"),
        ({"count": None}, 400, "bad_request"),
        ({"count": 0}, 400, "bad_request"),
        ({"count": 21}, 400, "bad_request"),
        ({"count": True}, 400, "bad_request"),
        ({"count": "2"}, 400, "bad_request"),
        ({"flavor_name": "unheard-of"}, 404, "not_found"),
        ({"environment_name": "unheard-of"}, 404, "not_found"),
        ({"key_name": "unheard-of"}, 404, "not_found"),
        ({"image_name": "unheard-of"}, 400, "not_found"),
        ({"image_name": None}, 400, "bad_request"),
        ({"volume_name": "boot-volume"}, 400, "bad_request"),
        ({"image_name": None, "volume_name": "unheard-of"}, 400, "bad_request"),
        ({"image_name": None, "volume_name": "boot-volume", "create_bootable_volume": True}, 400, "bad_request"),
        ({"callback_url": "http://h/" + "x" * 242}, 400, "bad_request"),
        ({"callback_url": "not an address"}, 400, "bad_request"),
        ({"labels": ["a", 1]}, 400, "bad_request"),
        ({"labels": "a"}, 400, "bad_request"),
        ({"contract_id": "41"}, 400, "bad_request"),
        ({"assign_floating_ip": "yes"}, 400, "bad_request"),
        ({"profile": {}}, 400, "bad_request"),
        ({"security_rules": [{}]}, 400, "bad_request"),
        ({"security_rules": ["ssh"]}, 400, "bad_request"),
    ],
)
def test_a_broken_rule_is_refused_and_makes_nothing(change, status, reason):
    caller = Caller()
    assert refusal(caller.create(**change))[:2] == (status, reason)
    assert caller.cloud.truth() == []


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_a_bad_request(raw):
    assert Caller().call("POST", "/core/virtual-machines", raw).status == 400


def test_the_longest_name_and_url_and_the_largest_count_are_accepted():
    url = "http://h/" + "x" * 241
    assert len(Caller().made(name="x" * 50, callback_url=url, count=20)) == 20


def test_an_existing_bootable_volume_takes_the_place_of_the_image():
    (shown,) = Caller().create(image_name=None, volume_name="boot-volume").json()["instances"]
    assert shown["image"] is None


@pytest.mark.parametrize(
    ("rule", "status"),
    [
        ({}, 200),
        ({"protocol": "icmp", "port_range_min": None, "port_range_max": None}, 200),
        ({"port_range_min": None}, 400),
        ({"port_range_max": 70000}, 400),
        ({"direction": "inwards"}, 400),
        ({"ethertype": "ipv4"}, 400),
        ({"protocol": "carrier-pigeon"}, 400),
        ({"remote_ip_prefix": "everywhere"}, 400),
        ({"remote_ip_prefix": None}, 400),
    ],
)
def test_security_rules_keep_to_the_seed_pages_list(rule, status):
    good = {"direction": "ingress", "protocol": "tcp", "ethertype": "IPv4", "remote_ip_prefix": "0.0.0.0/0"}
    assert Caller().create(security_rules=[good | {"port_range_min": 22, "port_range_max": 22} | rule]).status == status


def test_a_security_rule_is_pending_and_then_works():
    caller = Caller()
    rule = {"direction": "ingress", "protocol": "any", "ethertype": "IPv4", "remote_ip_prefix": "0.0.0.0/0"}
    (vm_id,) = caller.made(security_rules=[rule])
    assert [rule["status"] for rule in caller.vm(vm_id)["security_rules"]] == ["pending"] * 3
    caller.wait(10)
    assert [rule["status"] for rule in caller.vm(vm_id)["security_rules"]] == ["SUCCESS"] * 3


def test_only_the_query_of_a_callback_url_is_lower_cased():
    (shown,) = Caller().create(callback_url="http://Callbacks.example/AbC?Token=XyZ").json()["instances"]
    assert shown["callback_url"] == "http://Callbacks.example/AbC?token=xyz"


TAKEN = (400, "bad_request", "This name is not available")


def test_a_name_in_use_is_refused():
    caller = Caller()
    caller.made(count=2)
    assert refusal(caller.create(name="vm-2")) == TAKEN
    assert caller.create(name="vm-3").status == 200


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_base_name_in_use_is_refused_whatever_the_count(count):
    caller = Caller(name_pattern="{i}-{name}")
    caller.made(count=2)
    assert refusal(caller.create(count=count)) == TAKEN


def test_a_taken_name_may_be_the_documented_conflict():
    caller = Caller(taken_name="conflict")
    caller.made()
    assert refusal(caller.create())[:2] == (409, "already_exist")


def test_names_may_be_used_twice_if_they_need_not_be_unique():
    caller = Caller(unique_names=False)
    assert len({*caller.made(), *caller.made()}) == 2


NORWAY = {"name": "oslo", "region": "NORWAY-1"}


def test_a_flavor_of_another_region_is_refused():
    settings = {"environments": [{"name": "test1"}, NORWAY], "flavors": [{"name": "n3-A100x1"}]}
    assert refusal(Caller(**settings).create(environment_name="oslo"))[:2] == (400, "bad_request")
    assert Caller(**settings, enforce_scopes=False).create(environment_name="oslo").status == 200


def test_a_flavor_that_two_regions_have_is_taken_from_the_environments_region():
    flavors = [{"name": "n3-A100x1"}, {"name": "n3-A100x1", "region": "NORWAY-1", "cpu": 7}]
    caller = Caller(environments=[{"name": "test1"}, NORWAY], flavors=flavors)
    (vm,) = caller.create(environment_name="oslo").json()["instances"]
    assert (vm["flavor"]["cpu"], vm["environment"]["region"]) == (7, "NORWAY-1")


def test_a_keypair_of_another_environment_is_refused():
    settings = {"keypairs": [{"name": "example-key", "environment": "default-CANADA-1"}]}
    assert refusal(Caller(**settings).create())[:2] == (400, "bad_request")
    assert Caller(**settings).create(environment_name="default-CANADA-1").status == 200
    assert Caller(**settings, enforce_scopes=False).create().status == 200


KEY = {"name": "mine", "environment_name": "test1", "public_key": "ssh-ed25519 AAAAC3 me@example"}


def test_an_imported_keypair_can_be_used_in_its_environment():
    caller = Caller()
    reply = caller.call("POST", "/core/keypairs", KEY)
    assert (reply.status, reply.json()["message"]) == (200, "Keypair is imported successfully")
    assert reply.json()["keypair"]["environment"]["name"] == "test1"
    listed = caller.call("GET", "/core/keypairs?search=mine").json()["keypairs"]
    assert listed == [reply.json()["keypair"]]
    assert refusal(caller.create(key_name="mine", environment_name="default-CANADA-1"))[0] == 400
    assert caller.create(key_name="mine").status == 200


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"name": ""}, 400),
        ({"name": 1}, 400),
        ({"name": "x" * 51}, 400),
        ({"public_key": None}, 400),
        ({"public_key": "no key"}, 400),
        ({"environment_name": "unheard-of"}, 404),
        ({"name": "example-key"}, 409),
    ],
)
def test_a_keypair_that_cannot_be_imported_is_refused(change, status):
    caller = Caller()
    before = caller.call("GET", "/core/keypairs").json()["keypairs"]
    assert caller.call("POST", "/core/keypairs", KEY | change).status == status
    assert caller.call("GET", "/core/keypairs").json()["keypairs"] == before


def test_a_new_vm_has_two_rules_that_allow_all_egress():
    (vm,) = Caller().create().json()["instances"]
    rules = vm["security_rules"]
    assert [(rule["direction"], rule["protocol"], rule["ethertype"]) for rule in rules] == [
        ("egress", "any", "IPv4"),
        ("egress", "any", "IPv6"),
    ]
    assert len({rule["id"] for rule in rules}) == 2
    assert Caller(default_rules=False).create().json()["instances"][0]["security_rules"] == []


FEATURES = {"network_optimised", "no_reboot", "no_hibernation", "no_snapshot", "local_storage_only", "api_only"}


def test_a_flavor_has_six_boolean_features():
    caller = Caller()
    (vm,) = caller.create(flavor_name="n1-cpu-small").json()["instances"]
    assert set(vm["flavor"]["features"]) == FEATURES
    assert [name for name, value in vm["flavor"]["features"].items() if value] == ["no_hibernation"]
    listed = caller.call("GET", "/core/flavors").json()["data"]
    assert {frozenset(flavor["features"]) for group in listed for flavor in group["flavors"]} == {frozenset(FEATURES)}
    some = Caller(flavor_features="some").create(flavor_name="n1-cpu-small").json()["instances"][0]
    assert some["flavor"]["features"] == {"no_hibernation": True}


def test_an_instance_has_features_and_undocumented_fields():
    caller = Caller()
    (vm,) = caller.create().json()["instances"]
    assert vm["features"] == {"network_optimised": False, "green_status": "GREEN"}
    extra = {"is_snapshotting": False, "enhanced_metrics": {"enabled": False}, "dedicated_inference_id": None}
    assert extra.items() <= vm.items()
    assert ("excluded_billing" in vm, "excluded_billing" in caller.vm(vm["id"])) == (False, True)
    assert "excluded_billing" not in caller.listing()["instances"][0]
    plain = Caller(instance_features="empty", extra_fields=["is_snapshotting"])
    (vm_id,) = plain.made()
    assert plain.vm(vm_id)["features"] == {}
    assert {"excluded_billing", "enhanced_metrics", "dedicated_inference_id"}.isdisjoint(plain.vm(vm_id))
    assert "is_snapshotting" in plain.vm(vm_id)


def test_a_deleted_vm_gives_its_name_back():
    caller = Caller()
    vm_id = caller.active()
    caller.call("DELETE", f"/core/virtual-machines/{vm_id}")
    caller.wait(20)
    assert caller.create().status == 200


def test_stock_comes_and_goes():
    caller = Caller(
        flavors=[{"name": "n3-A100x1", "gpu": "A100-80G-PCIe", "gpu_count": 1, "stock": 2}],
        stock_changes=[{"at": 100, "flavor": "n3-A100x1", "stock": 3}],
    )
    no_more = (400, "bad_request", "Not Enough Stock of A100-80G-PCIe. Unable to launch virtual-machines.")
    assert refusal(caller.create(count=3)) == no_more
    caller.made(count=2)
    assert refusal(caller.create(name="third")) == no_more
    caller.wait(100)
    assert caller.create(name="third").status == 200
    assert refusal(caller.create(name="fourth")) == no_more


def test_a_deleted_vm_gives_its_stock_back():
    caller = Caller(flavors=[{"name": "n3-A100x1", "gpu": "A100-80G-PCIe", "gpu_count": 1, "stock": 1}])
    vm_id = caller.active()
    assert caller.create(name="other").status == 400
    caller.call("DELETE", f"/core/virtual-machines/{vm_id}")
    caller.wait(20)
    assert caller.create().status == 200


@pytest.mark.parametrize(("phantom", "reported"), [(False, "0"), (True, "10+")])
def test_phantom_stock_is_said_to_be_there_and_is_not(phantom, reported):
    caller = Caller(
        flavors=[{"name": "n3-A100x1", "gpu": "A100-80G-PCIe", "gpu_count": 1, "stock": 0}],
        faults={"phantom_stock": phantom},
    )
    (region,) = caller.call("GET", "/core/stocks").json()["stocks"]
    assert region["models"][0]["available"] == reported
    assert caller.create().status == 400


def test_unknown_keys_are_ignored():
    assert Caller().call("POST", "/core/virtual-machines", body() | {"idempotency_key": "x"}).status == 200

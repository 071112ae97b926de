"""The create body: the page's own example, each of its rules, and properties over what people might send."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.core.create_body import CreateBody, VmSpec, validate, validate_create
from service.core.validation import field_errors_of
from service.errors import Invalid

# The curl example of the create page, as it stands there.
PAGE_EXAMPLE = """{
"name": "example-vm",
"environment_name": "test1",
"image_name": "Ubuntu Server 22.04 LTS R535 CUDA 12.2",
"flavor_name": "n3-A100x1",
"key_name": "example-key",
"assign_floating_ip": true,
"enable_port_randomization": true,
"count": 1
}"""

RULE = {"direction": "ingress", "protocol": "tcp", "ethertype": "IPv4", "remote_ip_prefix": "0.0.0.0/0"}
SSH = RULE | {"port_range_min": 22, "port_range_max": 22}
EVERYTHING = {
    "security_rules": [
        SSH,
        RULE | {"direction": "egress", "protocol": "any", "ethertype": "IPv6", "remote_ip_prefix": "::/0"},
    ],
    "create_bootable_volume": True,
    "user_data": "#cloud-config\npassword: hunter2\n",
    "callback_url": "https://rollcall.example.com:8443/callbacks/0123456789abcdef",
    "profile": {"name": "training", "description": "eight at once"},
    "labels": ["team-a", ""],
    "contract_id": 41,
    "flavor": {"cpu": 28, "ram": 120.0, "disk": 100, "gpu": "A100-80G-PCIe", "gpu_count": 1},
    "enhanced_monitoring_enabled": False,
}


def page(**changes):
    body = json.loads(PAGE_EXAMPLE) | changes
    return {field: value for field, value in body.items() if value is not ...}


def field_errors(**changes):
    with pytest.raises(Invalid) as caught:
        validate_create(page(**changes))
    return dict(caught.value.field_errors)


def only_mistake(field, **changes):
    found = field_errors(**changes)
    assert list(found) == [field]
    return found[field]


def body_or_mistakes(data):
    try:
        return validate_create(data), ()
    except Invalid as invalid:
        return None, invalid.field_errors


def rule_mistakes(**changes):
    return field_errors(security_rules=[SSH | changes])


def test_the_example_of_the_page_is_sent_as_it_stands():
    assert json.loads(validate_create(page()).to_bytes()) == json.loads(PAGE_EXAMPLE)


def test_every_field_of_the_page_is_sent_as_given():
    assert json.loads(validate_create(page(**EVERYTHING)).to_bytes()) == page(**EVERYTHING)


def test_a_field_that_is_unset_or_null_is_not_sent():
    nulls = dict.fromkeys([*EVERYTHING, "volume_name"])
    assert json.loads(validate_create(page(**nulls)).to_bytes()) == page()


def test_a_whole_number_of_gigabytes_is_sent_as_a_whole_number():
    sent = validate_create(page(flavor={"ram": 120.0})).to_bytes()
    assert b'"ram":120}' in sent
    assert validate_create(page(flavor={"ram": 0.5})).to_json()["flavor"] == {"ram": 0.5}


@pytest.mark.parametrize("field", ["name", "environment_name", "flavor_name", "key_name"])
def test_a_required_name_may_be_neither_missing_nor_empty_nor_anything_but_text(field):
    assert only_mistake(field, **{field: ...}).startswith("is missing (")
    assert only_mistake(field, **{field: " "}) == "must not be empty"
    assert only_mistake(field, **{field: 7}).startswith("must be text, not a number")
    assert only_mistake(field, **{field: None}).startswith("must be text, not null")


def test_a_name_has_at_most_fifty_characters():
    assert validate_create(page(name="n" * 50)).name == "n" * 50
    assert only_mistake("name", name="n" * 51) == "has 51 characters, may have 50 (the VM's name)"


@pytest.mark.parametrize("count", [1, 20])
def test_one_to_twenty_vms_may_be_asked_for(count):
    assert validate_create(page(count=count)).count == count


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, "is 0, must be at least 1"),
        (21, "is 21, must be at most 20"),
        ("3", "must be a whole number, not text"),
        (True, "must be a whole number, not true"),
        (3.0, "must be a whole number, not a number"),
        ([], "must be a whole number, not a list"),
        ({}, "must be a whole number, not an object"),
        (..., "is missing"),
    ],
)
def test_any_other_count_is_a_mistake(count, message):
    assert only_mistake("count", count=count) == f"{message} (how many VMs to create, 1 to 20 in one call)"


def test_an_image_is_required_without_a_volume():
    assert "name the operating system image" in only_mistake("image_name", image_name=...)
    assert only_mistake("image_name", image_name="") == "must not be empty"


def test_an_existing_volume_takes_the_place_of_the_image():
    assert validate_create(page(image_name=..., volume_name="boot")).to_json()["volume_name"] == "boot"
    assert validate_create(page(image_name=..., volume_name="boot", create_bootable_volume=False)).image_name is None


def test_an_existing_volume_and_an_image_exclude_each_other():
    assert "left out with volume_name" in only_mistake("image_name", volume_name="boot")


def test_a_bootable_volume_is_either_new_or_existing():
    assert "which exists" in only_mistake(
        "create_bootable_volume", image_name=..., volume_name="boot", create_bootable_volume=True
    )


def test_a_new_bootable_volume_needs_an_image():
    assert validate_create(page(create_bootable_volume=True)).create_bootable_volume
    assert only_mistake("image_name", image_name=..., create_bootable_volume=True)


def test_port_randomization_without_a_floating_ip_has_no_effect_and_is_no_mistake():
    body = validate_create(page(assign_floating_ip=False, enable_port_randomization=True))
    assert body.enable_port_randomization


def test_a_boolean_is_not_a_word():
    assert "must be true or false, not text" in only_mistake("assign_floating_ip", assign_floating_ip="yes")


@pytest.mark.parametrize("contract_id", [0, -1])
def test_a_contract_id_is_positive(contract_id):
    assert "must be more than 0" in only_mistake("contract_id", contract_id=contract_id)


def test_labels_are_a_list_of_text():
    assert "must be a list, not text" in only_mistake("labels", labels="team-a")
    assert only_mistake("labels.1", labels=["team-a", 3]) == "must be text, not a number"


def test_a_profile_needs_a_name():
    assert only_mistake("profile.name", profile={"description": "x"}) == "is missing (the profile's name)"
    assert "must be an object" in only_mistake("profile", profile="training")


def test_a_custom_flavor_has_sensible_sizes():
    found = field_errors(flavor={"cpu": 0, "ram": float("inf"), "disk": -1, "gpu": None, "gpu_count": 1.5})
    assert set(found) == {"flavor.cpu", "flavor.ram", "flavor.disk", "flavor.gpu_count"}


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1:8080/callbacks/1f", "https://example.com/c?token=1f", "https://example.com/" + "a" * 230]
)
def test_a_callback_url_is_a_web_address(url):
    assert validate_create(page(callback_url=url)).callback_url == url


@pytest.mark.parametrize(
    "url",
    ["", "example.com/callbacks", "ftp://example.com/", "https:///callbacks", "https://[::1/", "http://h:99999/",
     "https://example.com/a b", "https://example.com/\n", "https://exämple.com/"],
)  # fmt: skip
def test_anything_else_is_no_callback_url(url):
    assert "http or https" in only_mistake("callback_url", callback_url=url)


def test_a_callback_url_has_at_most_250_characters():
    url = "https://example.com/" + "a" * 231
    assert "has 251 characters, may have 250" in only_mistake("callback_url", callback_url=url)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"direction": "inbound"}, "direction", 'is "inbound"; use one of ingress, egress'),
        ({"direction": "Ingress"}, "direction", 'is "Ingress"; did you mean ingress?'),
        ({"ethertype": "ipv4"}, "ethertype", 'is "ipv4"; did you mean IPv4?'),
        ({"ethertype": 4}, "ethertype", "must be text, not a number (the kind of addresses)"),
        ({"protocol": "TCP"}, "protocol", 'is "TCP"; did you mean tcp?'),
        (
            {"remote_ip_prefix": "::/0"},
            "remote_ip_prefix",
            '"::/0" is not an IPv4 address range; write it like 203.0.113.0/24',
        ),
        ({"port_range_min": -1}, "port_range_min", "is -1, must be at least 0 (the lowest port)"),
        ({"port_range_min": 0}, "port_range_min", "is 0, but tcp ports begin at 1"),
        ({"port_range_max": 65536}, "port_range_max", "is 65536, must be at most 65535 (the highest port)"),
        ({"port_range_max": 21}, "port_range_max", "is 21, below port_range_min 22; swap them"),
        ({"port_range_max": None}, "port_range_max", "is missing: tcp needs both ports"),
        ({"port_range_min": None}, "port_range_min", "is missing: tcp needs both ports"),
        ({"protocol": "any", "port_range_min": None}, "port_range_min", "is missing: give both ports or none"),
        ({"port": 22}, "port", "is not a known field; leave it out"),
        ({"port_min": 22}, "port_min", "is not a known field; did you mean port_range_min?"),
    ],
)
def test_a_security_rule_says_what_is_wrong_with_it(changes, field, message):
    assert rule_mistakes(**changes) == {f"security_rules.0.{field}": message}


@pytest.mark.parametrize(
    "prefix", ["10.0.0.1", "10.0.0.0/33", "10.0.0.0/255.0.0.0", "10.0.0.0/", "/8", "", "10.0.0.0/²"]
)
def test_an_ipv4_range_is_written_as_a_cidr(prefix):
    assert list(rule_mistakes(remote_ip_prefix=prefix)) == ["security_rules.0.remote_ip_prefix"]


@pytest.mark.parametrize("prefix", ["fe80::1%eth0/64", "2001:db8::/129", "10.0.0.0/8"])
def test_an_ipv6_range_is_written_as_a_cidr(prefix):
    found = rule_mistakes(ethertype="IPv6", remote_ip_prefix=prefix)
    assert "write it like 2001:db8::/32" in found["security_rules.0.remote_ip_prefix"]


def test_a_range_is_judged_even_where_the_ethertype_is_wrong():
    assert len(rule_mistakes(ethertype="v4", remote_ip_prefix="everyone")) == 2
    assert len(rule_mistakes(ethertype="v4", remote_ip_prefix="::/0")) == 1


def test_a_protocol_without_ports_needs_none():
    rule = RULE | {"protocol": "icmp"}
    assert validate_create(page(security_rules=[rule])).to_json()["security_rules"] == [rule]


def test_every_mistake_is_reported_at_once():
    found = field_errors(
        name="", count=0, image_name=..., labels=[1], callbackurl="x", security_rules=[{"direction": "in"}]
    )
    assert set(found) == {
        "name", "count", "image_name", "labels.0", "callbackurl", "security_rules.0.direction", "security_rules.0.protocol",
        "security_rules.0.ethertype", "security_rules.0.remote_ip_prefix",
    }  # fmt: skip
    assert found["callbackurl"] == "is not a known field; did you mean callback_url?"


def test_a_body_that_is_no_object_is_one_mistake():
    with pytest.raises(Invalid) as caught:
        validate(CreateBody, [page()])
    assert caught.value.field_errors == (("body", "must be an object, not a list"),)


def test_a_key_that_is_no_text_is_a_mistake():
    with pytest.raises(Invalid, match="7: Keys should be strings"):
        validate(CreateBody, page() | {7: "seven"})


def test_a_spec_leaves_count_and_callback_url_to_others():
    spec = validate(VmSpec, page(count=...))
    assert CreateBody.of(spec, count=3, name="unit-1") == validate_create(page(count=3, name="unit-1"))
    with pytest.raises(Invalid, match="count: is not a known field"):
        validate(VmSpec, page())


def test_secrets_are_in_no_repr_and_no_error():
    body = validate_create(page(**EVERYTHING))
    assert "hunter2" not in repr(body)
    assert "0123456789abcdef" not in repr(body)
    with pytest.raises(ValidationError) as caught:
        CreateBody.model_validate(page(**EVERYTHING, count="1", surprise="hunter2") | {"user_data": ["hunter2"]})
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in str(field_errors_of(caught.value, CreateBody))


def test_a_listing_shows_neither_user_data_nor_the_token():
    shown = validate_create(page(**EVERYTHING)).redacted()
    assert shown["user_data"] == "32 bytes, sha256 fd2dccab4801…"
    assert shown["callback_url"] == "https://rollcall.example.com:8443/callbacks/…"
    assert shown["labels"] == ["team-a", ""]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.com", "https://example.com/…"),
        ("https://example.com/a/secret/", "https://example.com/a/…"),
        ("https://user:secret@example.com/a/secret?token=secret#secret", "https://example.com/a/…"),
    ],
)
def test_whatever_the_form_of_the_url_its_secrets_are_not_listed(url, shown):
    assert validate_create(page(callback_url=url)).redacted()["callback_url"] == shown


def test_a_body_without_secrets_is_listed_as_it_is():
    assert validate_create(page()).redacted() == page()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=60),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
SOME_FIELD = st.sampled_from([*CreateBody.model_fields, *SSH, "cpu", "unheard_of"])
RULES = st.dictionaries(st.sampled_from([*SSH]), JSON | st.sampled_from([*SSH.values(), "udp", 80, 0]), max_size=6)


# The machine may be busy, and hypothesis builds its tables of characters at first use.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(SOME_FIELD, JSON | st.lists(RULES, max_size=2)))
def test_whatever_people_send_is_a_body_or_a_list_of_mistakes(changes):
    body, wrong = body_or_mistakes(page(**changes))
    assert (body is None) == bool(wrong)
    assert all(mistake.field and mistake.message for mistake in wrong)
    assert body is None or validate_create(json.loads(body.to_bytes())) == body


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50).filter(str.strip),
    st.integers(1, 20),
)
def test_a_good_body_survives_the_way_to_bytes_and_back(name, count):
    body = validate_create(page(name=name, count=count))
    assert validate_create(json.loads(body.to_bytes())) == body

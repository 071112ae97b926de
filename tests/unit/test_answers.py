"""From the samples of the provider's answers, and from their many variations, to values."""

import json
import pathlib
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.core.observation import Discount, Flavor
from service.provider import answers
from service.provider.answers import Listed, NameAvailability, Stock

SAMPLES = pathlib.Path(__file__).parent.parent / "samples"


def sample(name):
    return json.loads((SAMPLES / f"{name}.json").read_text())


def vm(**changes):
    return answers.vm({"instance": {"id": 7} | changes})


def test_a_create_answers_with_its_vms_and_why_the_contract_failed():
    answer = answers.created(sample("create"))
    (made,) = answer.vms
    assert (made.provider_id, made.status, made.contract_id, made.floating_ip) == (507279, "CREATING", None, None)
    assert answer.message == "VM is scheduled for creation."
    assert answer.contract_errors == ("Contract with ID: 41 not found.",)
    assert answer.raw == sample("create")


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        (None, ()),
        ({}, ()),
        ({"contract": None}, ()),
        ({"contract": ["not enough GPUs", "wrong model"]}, ("not enough GPUs", "wrong model")),
        ({"contract": {"507279": "not enough GPUs"}}, ("507279: not enough GPUs",)),
        ("no contract", ("no contract",)),
        (["no contract"], ("no contract",)),
        ({"profile": "taken"}, ()),
    ],
)
def test_contract_errors_are_read_in_any_shape(errors, expected):
    assert answers.created(sample("create") | {"errors": errors}).contract_errors == expected


@pytest.mark.parametrize(
    "instances",
    [None, [], {}, "x", 3, [{"id": 1}, {"name": "without an id"}], [{"id": 1}, None], [{"id": 0}], [{"id": True}]],
)
def test_a_create_answer_that_would_lose_a_vm_is_none(instances):
    assert answers.created({"status": True, "instances": instances}) is None


def test_a_vm_is_read_whole():
    seen = answers.vm(sample("get_vm"))
    assert (seen.provider_id, seen.name, seen.status, seen.power_state, seen.vm_state) == (
        507279, "demo-vm", "ACTIVE", "RUNNING", "active",
    )  # fmt: skip
    assert (seen.environment, seen.region) == ("demo-env", "CANADA-1")
    assert (seen.flavor, seen.gpu_model, seen.gpu_count) == ("n3-A100x1", "A100-80G-PCIe", 1)
    assert (seen.fixed_ip, seen.floating_ip, seen.floating_ip_status) == ("10.0.1.7", "203.0.113.10", "ATTACHED")
    assert (seen.callback_url, seen.labels) == ("https://rollcall.example.com/callbacks/1f", ("rollcall-1f",))
    assert (seen.contract_id, seen.locked) == (41, True)
    assert seen.created_at == datetime(2026, 8, 17, 9, 33, 46, tzinfo=UTC)
    assert seen.raw == sample("get_vm")["instance"]


def test_the_oldest_form_of_a_vm_is_read_too():
    seen = answers.vm_page(sample("list_vms")).vms[0]
    assert (seen.provider_id, seen.status, seen.region) == (2786, "SHUTOFF", None)
    assert (seen.floating_ip, seen.callback_url, seen.labels, seen.locked) == (None, None, (), False)
    assert (seen.gpu_model, seen.gpu_count) == (None, 0)
    assert seen.created_at == datetime(2024, 6, 17, 9, 33, 46, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "expected"),
    [("active", "ACTIVE"), (" Build ", "BUILD"), ("", None), (None, None), (3, None), (["ACTIVE"], None)],
)
def test_a_status_is_upper_case_text_or_none(status, expected):
    assert vm(status=status).status == expected


@pytest.mark.parametrize(("given", "expected"), [(41, 41), ("41", 41), (41.0, 41), (0, None), ("", None), (None, None)])
def test_a_contract_id_is_there_only_where_the_assignment_is(given, expected):
    assert vm(contract_id=given).contract_id == expected


def test_names_may_come_without_their_objects():
    seen = vm(environment="demo-env", flavor="n3-A100x1", gpu_count="2")
    assert (seen.environment, seen.flavor, seen.gpu_count, seen.region) == ("demo-env", "n3-A100x1", 2, None)


@pytest.mark.parametrize("document", [None, [], {}, {"instance": None}, {"instance": []}, {"instance": {"id": "x"}}])
def test_a_vm_without_an_id_is_none(document):
    assert answers.vm(document) is None


def test_a_page_says_what_the_provider_said_of_it():
    page = answers.vm_page(sample("list_vms"))
    assert [seen.provider_id for seen in page.vms] == [2786, 507279, 507279]
    assert (page.count, page.page, page.page_size) == (3, 1, 10)


def test_a_page_leaves_out_what_has_no_id():
    page = answers.vm_page({"instances": [{"name": "x"}, None, {"id": 7}], "count": None, "page": None})
    assert [seen.provider_id for seen in page.vms] == [7]
    assert (page.count, page.page, page.page_size) == (None, None, None)


@pytest.mark.parametrize("document", [None, [], {}, {"instances": None}, {"instances": {}}, {"virtual_machines": []}])
def test_a_list_without_its_key_is_none_and_not_empty(document):
    assert answers.vm_page(document) is None
    assert answers.contract_vms(document, contract_id=41) is None


def test_the_vms_of_a_contract_are_on_it():
    (seen,) = answers.contract_vms(sample("contract_vms"), contract_id=41).vms
    assert (seen.provider_id, seen.contract_id, seen.flavor, seen.gpu_count) == (507279, 41, "n3-A100x1", 1)


@pytest.mark.parametrize("key", ["instance_events", "virtual_machine_events"])
def test_a_history_is_read_under_either_name(key):
    first, second = answers.history({key: sample("vm_events")["instance_events"]})
    assert first.at == datetime(2026, 8, 17, 9, 33, 46, tzinfo=UTC)
    assert (first.reason, first.kind) == ("InstanceCreationRequest", "normal")
    assert first.message == "Instance demo-vm Creation Request Sent."
    assert (second.reason, second.message, second.raw["user_id"]) == ("InstanceCreationSuccess", "", None)


def test_a_history_that_is_not_there_is_none_and_an_empty_one_is_empty():
    assert answers.history({}) is None
    assert answers.history({"instance_events": []}) == ()
    assert answers.history({"instance_events": [{}]})[0].at is None


@pytest.mark.parametrize("wrap", [{"contract": 0}, {"contracts": 0}, {"contract": None, "contracts": 0}])
@pytest.mark.parametrize("listed", [False, True])
def test_one_contract_is_read_under_either_name(wrap, listed):
    item = sample("contract")["contracts"]
    contract = answers.contract(
        {key: None if value is None else [item] if listed else item for key, value in wrap.items()}
    )
    assert (contract.contract_id, contract.status, contract.expiration_policy) == (41, "active", 1)
    assert (contract.description, contract.raw["org_id"]) == ("8x A100 one year", 112)
    assert (contract.start_date, contract.end_date) == (
        datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC),
    )  # fmt: skip
    assert contract.discounts == (
        Discount(resource_name="A100-80G-PCIe", resource_count=8, remaining_count=3, status="active",
                 discount_type="percent", percent=20.0),
    )  # fmt: skip


def test_the_old_form_of_a_discount_is_read_too():
    contract = answers.contract(
        {"contract": {"id": "41", "discounts": [{"resource": {"name": "H100"}, "discount_amount": "1E1"}]}}
    )
    assert contract.discounts == (Discount(resource_name="H100", amount=10.0),)


@pytest.mark.parametrize(
    "document", [None, {}, {"contracts": []}, {"contract": {}}, {"contracts": [{"id": 1}, {"id": 2}]}]
)
def test_no_contract_and_several_are_not_one_contract(document):
    assert answers.contract(document) is None


def test_contracts_are_listed():
    assert [found.contract_id for found in answers.contracts(sample("contracts"))] == [41]
    assert answers.contracts({"contracts": [{}]}) == ()
    assert answers.contracts({}) is None


@pytest.mark.parametrize("wrapped", [lambda book: book, lambda book: {"pricebook": book}, lambda book: {"data": book}])
def test_prices_are_read_from_text_in_any_notation(wrapped):
    found = answers.prices(wrapped([*sample("pricebook"), {"name": "free"}, {"value": 1}, None]))
    assert [(price.name, price.value) for price in found] == [
        ("A100-80G-PCIe", Decimal("1.35")),
        ("Cloud-SSD", Decimal("0.000096")),
    ]
    assert found[0].raw["id"] == 12


def test_flavors_come_out_of_their_groups():
    assert answers.flavors(sample("flavors")) == (
        Flavor(name="n3-A100x1", region="CANADA-1", gpu_model="A100-80G-PCIe", gpu_count=1, stock_available=True),
        Flavor(name="n1-cpu-small", region="NORWAY-1"),
    )
    assert answers.flavors({"data": [{"flavors": [{}]}]}) == ()


def test_the_rest_of_the_catalogue_is_names_and_where_they_are():
    assert answers.images(sample("images")) == (Listed("Ubuntu Server 22.04 LTS R535 CUDA 12.2", "CANADA-1"),)
    assert answers.images({"images": [{"region_name": "NORWAY-1", "images": [{"name": "a"}, {}]}]}) == (
        Listed("a", "NORWAY-1"),
    )
    assert answers.environments(sample("environments")) == (Listed("demo-env", "CANADA-1"),)
    assert answers.keypairs(sample("keypairs")) == (Listed("demo-key", "demo-env"),)
    assert answers.keypairs({"keypairs": [{"name": "k", "environment": "e"}, {}]}) == (Listed("k", "e"),)
    assert answers.protocols(sample("sg_rules_protocols")) == ("any", "icmp", "tcp", "udp")


def test_stock_is_a_number_or_more():
    assert answers.stocks(sample("stocks")) == (
        Stock("CANADA-1", "A100-80G-PCIe", 10, more=True),
        Stock("CANADA-1", "RTX-A4000", 0, more=False),
    )
    lines = [
        {"model": "H100", "available": 5},
        {"model": "H100"},
        {"available": "5"},
        {"model": "H100", "available": "many"},
    ]
    assert answers.stocks({"stocks": [{"models": lines}]}) == (Stock(None, "H100", 5, more=False),)


def test_a_name_is_available_or_not():
    assert answers.name_availability(sample("name_availability")) == NameAvailability(True, "This name is available")
    assert answers.name_availability({"available": "false"}) == NameAvailability(False, "")
    assert answers.name_availability({"available": None}) is None


@pytest.mark.parametrize("parse", [answers.flavors, answers.images, answers.environments, answers.keypairs, answers.stocks,
                                   answers.protocols, answers.prices])  # fmt: skip
@pytest.mark.parametrize("document", [None, {}, "x"])
def test_a_catalogue_that_is_not_there_is_none_and_not_empty(parse, document):
    assert parse(document) is None


def test_a_yes_is_an_object():
    assert answers.done({}) is True
    assert answers.done([]) is None


PARSERS = [
    answers.contract, answers.contracts, answers.created, answers.done, answers.environments, answers.flavors,
    answers.history, answers.images, answers.keypairs, answers.name_availability, answers.prices, answers.protocols,
    answers.stocks, answers.vm, answers.vm_page,
]  # fmt: skip
KEYS = [
    "id", "name", "status", "instances", "instance", "errors", "contract", "contracts", "discounts", "environment",
    "flavor", "labels", "data", "flavors", "images", "models", "stocks", "protocols", "available", "environments",
    "keypairs", "instance_events", "time", "pricebook", "value", "created_at", "model", "message",
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just("7"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=15,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(JSON)
def test_no_document_raises(document):
    for parse in PARSERS:
        parse(document)
    answers.contract_vms(document, contract_id=41)

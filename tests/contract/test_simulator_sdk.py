"""The provider's own SDK, which nobody here wrote, takes the simulator for the provider."""

import json
from datetime import datetime
from types import SimpleNamespace

import hyperstack
import pytest
from hyperstack import models
from hyperstack.exceptions import (
    ApiException,
    BadRequestException,
    NotFoundException,
    ServiceException,
    UnauthorizedException,
)
from pydantic import ValidationError
from simulated import IMAGE
from simulator_thread import simulator

SSH = {"direction": "ingress", "protocol": "tcp", "ethertype": "IPv4", "remote_ip_prefix": "0.0.0.0/0"} | {
    "port_range_min": 22,
    "port_range_max": 22,
}

BEING_CREATED = (
    "VM demo is currently being created and cannot be deleted yet. "
    "Please wait until the creation process is finished before attempting deletion."
)


class Sdk:
    """The SDK's APIs by their names, all on one blocking client."""

    def __init__(self, url, key="a key"):
        self.client = hyperstack.ApiClient(hyperstack.Configuration(host=url, api_key={"apiKey": key}, retries=0))
        self.vms = hyperstack.VirtualMachineApi(self.client)
        self.events = hyperstack.VirtualMachineEventsApi(self.client)
        self.callbacks = hyperstack.CallbacksApi(self.client)
        self.contracts = hyperstack.CustomerContractApi(self.client)
        self.addresses = hyperstack.FloatingIpApi(self.client)

    def create(self, **changes):
        payload = {
            "name": "vm",
            "environment_name": "test1",
            "flavor_name": "n3-A100x1",
            "image_name": IMAGE,
            "key_name": "example-key",
            "count": 1,
        }
        return self.vms.create_vms(models.CreateInstancesPayload.from_dict(payload | changes))

    def close(self):
        self.client.rest_client.pool_manager.clear()


@pytest.fixture
def cloud():
    with simulator() as running:
        yield running


@pytest.fixture
def sdk(cloud):
    client = Sdk(cloud.url)
    yield client
    client.close()


@pytest.fixture
def active(cloud, sdk):
    """The id of a VM with an address."""
    vm_id = sdk.create(assign_floating_ip=True).instances[0].id
    cloud.pass_seconds(60)
    return vm_id


@pytest.fixture
def configured():
    """An SDK on a cloud with these settings."""
    opened = []

    def open_(**settings):
        block = simulator(**settings)
        running = block.__enter__()
        client = Sdk(running.url)
        opened.append((block, client))
        return SimpleNamespace(sdk=client, cloud=running)

    yield open_
    for block, client in opened:
        client.close()
        block.__exit__(None, None, None)


def error(caught):
    """The typed error body; where the SDK has no model for the status, the bare one."""
    data = caught.value.data
    if data is None:
        data = models.ErrorResponseModel.from_json(caught.value.body)
    return caught.value.status, data.error_reason, data.message


def raw(answer):
    return json.loads(answer.raw_data)


def test_create_answers_with_every_vm(sdk):
    answer = sdk.create(count=3, labels=["fleet"], assign_floating_ip=True, security_rules=[SSH])
    assert (answer.status, answer.message) == (True, "VM is scheduled for creation.")
    assert [vm.name for vm in answer.instances] == ["vm-1", "vm-2", "vm-3"]
    first = answer.instances[0]
    assert (first.status, first.power_state, first.vm_state) == ("CREATING", None, None)
    assert (first.flavor.gpu, first.flavor.gpu_count, first.flavor.ram) == ("A100-80G-PCIe", 1, 120.0)
    assert (first.environment.name, first.environment.region) == ("test1", "CANADA-1")
    assert (first.keypair.name, first.image.name, first.labels) == ("example-key", IMAGE, ["fleet"])
    assert [rule.status for rule in first.security_rules] == ["pending"] * 3
    assert first.created_at == datetime(2026, 8, 17, 9, 33, 46)  # noqa: DTZ001 - the provider says no zone


def test_an_instance_has_the_keys_that_the_sdk_knows_and_two_more(sdk, active):
    shown = raw(sdk.vms.get_vm_with_http_info(active))["instance"]
    known = set(models.InstanceFields.model_fields)
    assert known <= set(shown)
    # These are in the documentation's examples and in no schema (infrahub-api.md section 10).
    assert set(shown) - known == {"is_snapshotting", "excluded_billing"}
    assert set(shown["flavor"]) == set(models.InstanceFlavorFields.model_fields)
    assert set(shown["environment"]) == set(models.InstanceEnvironmentFields.model_fields)


@pytest.mark.parametrize(
    ("change", "caught", "reason"),
    [
        ({"count": 21}, BadRequestException, "bad_request"),
        ({"count": 0}, BadRequestException, "bad_request"),
        ({"image_name": None}, BadRequestException, "bad_request"),
        ({"image_name": "unheard-of"}, BadRequestException, "not_found"),
        ({"volume_name": "unheard-of", "image_name": None}, BadRequestException, "bad_request"),
        ({"flavor_name": "unheard-of"}, NotFoundException, "not_found"),
        ({"environment_name": "unheard-of"}, NotFoundException, "not_found"),
        ({"key_name": "unheard-of"}, NotFoundException, "not_found"),
    ],
)
def test_create_refuses(sdk, change, caught, reason):
    with pytest.raises(caught) as refused:
        sdk.create(**change)
    assert error(refused)[1] == reason


@pytest.mark.parametrize("unique", [True, False])
def test_create_refuses_a_name_in_use_if_names_are_unique(configured, unique):
    sdk = configured(unique_names=unique).sdk
    sdk.create()
    if not unique:
        assert len(sdk.create().instances) == 1
        return
    with pytest.raises(BadRequestException) as refused:
        sdk.create()
    assert error(refused) == (400, "bad_request", "This name is not available")


def test_create_may_refuse_a_name_in_use_as_documented(configured):
    sdk = configured(taken_name="conflict").sdk
    sdk.create()
    with pytest.raises(ApiException) as refused:
        sdk.create()
    assert error(refused)[:2] == (409, "already_exist")


def test_create_refuses_a_flavor_of_another_region(configured):
    sdk = configured(environments=[{"name": "test1"}, {"name": "oslo", "region": "NORWAY-1"}]).sdk
    with pytest.raises(BadRequestException) as refused:
        sdk.create(environment_name="oslo")
    assert error(refused)[:2] == (400, "bad_request")


def test_a_keypair_is_imported_and_used_in_its_environment(sdk):
    payload = models.ImportKeypairPayload(environment_name="test1", name="mine", public_key="ssh-ed25519 AAAA me")
    answer = hyperstack.KeypairApi(sdk.client).import_key_pair(payload)
    assert (answer.status, answer.message) == (True, "Keypair is imported successfully")
    assert (answer.keypair.name, answer.keypair.environment.name) == ("mine", "test1")
    with pytest.raises(BadRequestException) as refused:
        sdk.create(key_name="mine", environment_name="default-CANADA-1")
    assert error(refused)[:2] == (400, "bad_request")
    assert sdk.create(key_name="mine").instances[0].keypair.name == "mine"
    with pytest.raises(ApiException) as refused:
        hyperstack.KeypairApi(sdk.client).import_key_pair(payload)
    assert error(refused)[:2] == (409, "already_exist")


def test_a_new_vm_has_flavor_features_and_egress_rules(sdk):
    (vm,) = sdk.create().instances
    assert len(vm.flavor.features) == 6
    assert vm.features == {"network_optimised": False, "green_status": "GREEN"}
    assert vm.enhanced_metrics.enabled is False
    assert [(rule.direction, rule.protocol, rule.ethertype) for rule in vm.security_rules] == [
        ("egress", "any", "IPv4"),
        ("egress", "any", "IPv6"),
    ]


def test_a_delete_while_another_is_processed_conflicts(sdk, active):
    sdk.vms.delete_vm(active)
    with pytest.raises(ApiException) as refused:
        sdk.vms.delete_vm(active)
    assert error(refused)[0] == 409


def test_a_restored_vm_has_another_address(cloud, sdk, active):
    before = sdk.vms.get_vm(active).instance.floating_ip
    sdk.vms.hibernate_vm(active)
    cloud.pass_seconds(20)
    sdk.vms.restore_vm_from_hibernation(active)
    cloud.pass_seconds(30)
    after = sdk.vms.get_vm(active).instance.floating_ip
    assert after
    assert after != before


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("no_balance", "Insufficient balance to create the resource"),
        ("no_stock", "Not Enough Stock of A100-80G-PCIe. Unable to launch virtual-machines."),
    ],
)
def test_create_refuses_for_money_and_stock(configured, fault, text):
    with pytest.raises(BadRequestException) as refused:
        configured(faults={fault: 1}).sdk.create()
    assert error(refused) == (400, "bad_request", text)


def test_a_key_that_is_not_accepted_is_unauthorized_everywhere(configured):
    there = configured(api_keys=["another"])
    for call in (there.sdk.create, there.sdk.vms.list_vms, there.sdk.contracts.list_customer_contracts):
        with pytest.raises(UnauthorizedException) as refused:
            call()
        assert error(refused)[:2] == (401, "unauthorized")


def test_get_shows_the_vm_and_not_found(sdk, active):
    answer = sdk.vms.get_vm(active)
    assert (answer.status, answer.message) == (True, "Getting VM detail successful")
    vm = answer.instance
    assert (vm.status, vm.power_state, vm.vm_state) == ("ACTIVE", "RUNNING", "active")
    assert (vm.floating_ip_status, vm.requires_public_ip) == ("ATTACHED", True)
    assert vm.floating_ip
    with pytest.raises(NotFoundException) as refused:
        sdk.vms.get_vm(1)
    assert error(refused) == (404, "not_found", "VM 1 does not exists.")


def test_list_is_paged_and_searched(configured):
    sdk = configured(count_means="total").sdk
    sdk.create(name="alpha", count=3)
    sdk.create(name="beta", environment_name="default-CANADA-1")
    everything = sdk.vms.list_vms()
    assert (everything.page, everything.page_size, everything.count) == (None, None, 4)
    page = sdk.vms.list_vms(page=2, page_size=3)
    assert (page.page, page.page_size, page.count, page.message) == (2, 3, 4, "Getting VMs successful")
    assert [vm.name for vm in page.instances] == ["beta"]
    assert len(sdk.vms.list_vms(search="ALPHA").instances) == 3
    assert len(sdk.vms.list_vms(environment="default").instances) == 1
    assert sdk.vms.list_vms(environment="default", exact_environment_match=True).instances == []
    with pytest.raises(BadRequestException):
        sdk.vms.list_vms(page=0)


def test_delete_is_refused_while_creating_and_then_works(cloud, sdk):
    vm_id = sdk.create(name="demo").instances[0].id
    with pytest.raises(BadRequestException) as refused:
        sdk.vms.delete_vm(vm_id)
    assert error(refused)[1:] == (
        "bad_request",
        BEING_CREATED,
    )
    cloud.pass_seconds(30)
    assert sdk.vms.delete_vm(vm_id).message == "Instance is being deleted."
    assert sdk.vms.get_vm(vm_id).instance.status == "DELETING"
    cloud.pass_seconds(10)
    for call in (sdk.vms.get_vm, sdk.vms.delete_vm):
        with pytest.raises(NotFoundException):
            call(vm_id)


def test_stop_start_and_reboot(cloud, sdk, active):
    for call, on_the_way, end, verb in (
        (sdk.vms.stop_vm, "STOPPING", "SHUTOFF", "stop"),
        (sdk.vms.start_vm, "STARTING", "ACTIVE", "start"),
        (sdk.vms.hard_reboot_vm, "REBOOTING", "ACTIVE", "reboot"),
    ):
        assert call(active).message == f"VM vm is scheduled to {verb}."
        assert sdk.vms.get_vm(active).instance.status == on_the_way
        cloud.pass_seconds(10)
        assert sdk.vms.get_vm(active).instance.status == end


def test_hibernate_and_restore(cloud, sdk, active):
    assert sdk.vms.hibernate_vm(active, retain_ip="true").message == "VM vm is scheduled to hibernate."
    with pytest.raises(BadRequestException) as refused:
        sdk.vms.restore_vm_from_hibernation(active)
    assert error(refused)[2] == "The VM hibernation process is still going on. Please try later."
    cloud.pass_seconds(10)
    hibernated = sdk.vms.get_vm(active).instance
    assert (hibernated.status, hibernated.power_state, hibernated.vm_state) == (
        "HIBERNATED",
        "SHUTDOWN",
        "shelved_offloaded",
    )
    assert hibernated.floating_ip
    assert sdk.vms.restore_vm_from_hibernation(active).message == "VM vm is scheduled to restore."
    cloud.pass_seconds(10)
    assert sdk.vms.get_vm(active).instance.status == "ACTIVE"


@pytest.mark.parametrize(
    "call", ["start_vm", "stop_vm", "hard_reboot_vm", "hibernate_vm", "restore_vm_from_hibernation"]
)
def test_an_operation_is_refused_in_the_wrong_state_and_for_nobody(sdk, call):
    vm_id = sdk.create().instances[0].id
    with pytest.raises(BadRequestException) as refused:
        getattr(sdk.vms, call)(vm_id)
    assert error(refused)[:2] == (400, "bad_request")
    with pytest.raises(NotFoundException):
        getattr(sdk.vms, call)(1)


def test_resize_is_disabled(sdk, active):
    with pytest.raises(BadRequestException) as refused:
        sdk.vms.resize_vm(active, models.InstanceResizePayload(flavor_name="n3-A100x4"))
    assert error(refused)[2] == "This feature is currently disabled"


def test_events_tell_the_vms_history(sdk, active):
    answer = sdk.events.list_vm_events(active)
    assert answer.message == "Getting VM events success"
    first = answer.instance_events[0]
    assert (first.instance_id, first.object, first.type) == (active, "vm", "normal")
    assert first.message == "Instance vm Creation Request Sent."
    assert [event.reason for event in answer.instance_events] == [
        "InstanceCreationRequest",
        "InstanceCreationSuccess",
        "AttachFloatingIPToInstanceRequest",
        "AttachFloatingIPToInstanceSuccess",
    ]
    with pytest.raises(NotFoundException):
        sdk.events.list_vm_events(1)


def test_labels_are_replaced(sdk, active):
    payload = models.EditLabelOfAnExistingVMPayload(labels=["a", "b"])
    assert sdk.vms.add_vm_label(active, payload).message == "labels for VM: vm is set to: ['a', 'b']"
    assert sdk.vms.get_vm(active).instance.labels == ["a", "b"]
    with pytest.raises(NotFoundException):
        sdk.vms.add_vm_label(1, payload)


def test_callbacks_are_attached_updated_and_deleted(sdk, active):
    answer = sdk.callbacks.attach_callback_to_vm(active, models.AttachCallbackPayload(url="http://h/A?B=C"))
    assert answer.url == "http://h/A?b=c"
    assert answer.message.startswith("Callback URL successfully attached to VM 'vm'. Any action events")
    answer = sdk.callbacks.update_vm_callback(active, models.AttachCallbackPayload(url="http://h/b"))
    assert (answer.url, answer.message) == ("http://h/b", "Callback URL successfully updated in VM vm.")
    assert sdk.vms.get_vm(active).instance.callback_url == "http://h/b"
    assert sdk.callbacks.delete_vm_callback(active).message == "Callback URL deleted successfully in VM vm."
    assert sdk.vms.get_vm(active).instance.callback_url is None
    with pytest.raises(BadRequestException):
        sdk.callbacks.delete_vm_callback(active)
    with pytest.raises(BadRequestException):
        sdk.callbacks.attach_callback_to_vm(active, models.AttachCallbackPayload(url="http://h/" + "x" * 250))
    with pytest.raises(NotFoundException):
        sdk.callbacks.update_vm_callback(1, models.AttachCallbackPayload(url="http://h/b"))


def test_addresses_are_detached_and_attached(cloud, sdk, active):
    answer = sdk.addresses.detach_public_ip_from_vm(active)
    assert answer.message == "Public IP will be detached from the VM vm."
    assert sdk.vms.get_vm(active).instance.floating_ip_status == "DETACHING"
    cloud.pass_seconds(10)
    with pytest.raises(BadRequestException):
        sdk.addresses.detach_public_ip_from_vm(active)
    answer = sdk.addresses.attach_public_ipto_vm(active)
    assert answer.message == "A Public IP will be assigned to VM vm."
    cloud.pass_seconds(10)
    assert sdk.vms.get_vm(active).instance.floating_ip_status == "ATTACHED"
    with pytest.raises(NotFoundException):
        sdk.addresses.attach_public_ipto_vm(1)


def test_an_address_costs_money(configured):
    there = configured(faults={"no_balance": [2]})
    vm_id = there.sdk.create().instances[0].id
    there.cloud.pass_seconds(30)
    with pytest.raises(ApiException) as refused:
        there.sdk.addresses.attach_public_ipto_vm(vm_id)
    assert error(refused) == (402, None, "Insufficient balance to create the resource")


def test_security_rules_are_added_and_deleted(cloud, sdk, active):
    answer = sdk.vms.create_firewall_rule_for_vm(active, models.CreateSecurityRulePayload.from_dict(SSH))
    assert (answer.message, answer.security_rule.status) == ("Security Rule created successfully", "pending")
    cloud.pass_seconds(10)
    *_, rule = sdk.vms.get_vm(active).instance.security_rules
    assert (rule.id, rule.status, rule.port_range_max) == (answer.security_rule.id, "SUCCESS", 22)
    assert sdk.vms.delete_firewall_rule_for_vm(active, rule.id).status is True
    with pytest.raises(NotFoundException):
        sdk.vms.delete_firewall_rule_for_vm(active, rule.id)
    young = sdk.create(name="young").instances[0].id
    with pytest.raises(BadRequestException):
        sdk.vms.create_firewall_rule_for_vm(young, models.CreateSecurityRulePayload.from_dict(SSH))


def test_a_names_availability(configured):
    sdk = configured(unique_names=True).sdk
    free = sdk.vms.check_vm_name_availability("vm", count="2")
    assert (free.name, free.available, free.message) == ("vm", True, "This name is available")
    sdk.create(count=2)
    assert sdk.vms.check_vm_name_availability("vm", count="2").available is False
    with pytest.raises(BadRequestException):
        sdk.vms.check_vm_name_availability("vm", count="0")


def test_contracts_are_listed_and_shown(sdk):
    listed = sdk.contracts.list_customer_contracts(page=1, per_page=10)
    assert (listed.count, listed.message) == (1, "Getting customer contracts list successful")
    contract = sdk.contracts.retrieve_contract(41).contracts
    assert contract == listed.contracts[0]
    assert (contract.id, contract.status, contract.expiration_policy) == (41, "active", 1)
    (discount,) = contract.discounts
    assert (discount.resource_name, discount.resource_count, discount.remaining_count) == ("A100-80G-PCIe", 64, 64)
    assert (discount.discount_type, discount.discount_percent, discount.discount_status) == ("percent", 20, "active")
    with pytest.raises(NotFoundException) as refused:
        sdk.contracts.retrieve_contract(1)
    assert error(refused)[:2] == (404, "not_found")


def on_contract(cloud, sdk):
    """Create on the contract; the SDK's payload has no such field (infrahub-api.md section 3.4), so it is added."""
    payload = {
        "name": "vm",
        "environment_name": "test1",
        "flavor_name": "n3-A100x1",
        "image_name": IMAGE,
        "key_name": "example-key",
        "count": 2,
        "contract_id": 41,
    }
    sdk.client.call_api(
        "POST", f"{cloud.url}/core/virtual-machines", {"api_key": "k", "Content-Type": "application/json"}, payload
    ).read()


def test_the_vms_of_a_contract_and_its_graph(cloud, sdk):
    on_contract(cloud, sdk)
    cloud.pass_seconds(60)
    answer = sdk.vms.get_contract_vms(41, page="1", page_size="10")
    assert [vm.name for vm in answer.instances] == ["vm-1", "vm-2"]
    first = answer.instances[0]
    assert (first.flavor_name, first.gpu_count, first.total_usage_time) == ("n3-A100x1", 1, 60)
    assert (first.status, first.termination_time, first.cluster) == ("ACTIVE", None, None)
    assert len(sdk.vms.get_contract_vms(41, search="VM-2").instances) == 1
    graph = sdk.contracts.get_contract_gpu_allocation_graph(41).contract
    assert (graph.id, graph.total_gpu_allocation) == ("41", 64)
    assert [point.value for point in graph.allocated_gpu_count_graph] == [0, 2]
    for call in (sdk.vms.get_contract_vms, sdk.contracts.get_contract_gpu_allocation_graph):
        with pytest.raises(NotFoundException):
            call(1)
    with pytest.raises(BadRequestException):
        sdk.contracts.get_contract_gpu_allocation_graph(41, start_date="yesterday")


def test_the_catalogue(configured):
    sdk = configured(count_means="total", price_format="number").sdk
    flavors = hyperstack.FlavorApi(sdk.client).list_flavors(region="CANADA-1").data
    assert {flavor.name for group in flavors for flavor in group.flavors} >= {"n3-A100x1", "n3-H100x1"}
    assert flavors[0].flavors[0].stock_available is True
    images = hyperstack.ImageApi(sdk.client).list_images().images
    assert IMAGE in {image.name for group in images for image in group.images}
    environments = hyperstack.EnvironmentApi(sdk.client).list_environments(page="1", page_size="1")
    assert (environments.count, len(environments.environments)) == (2, 1)
    assert hyperstack.KeypairApi(sdk.client).list_key_pairs().keypairs[0].name == "example-key"
    assert "tcp" in hyperstack.SecurityRulesApi(sdk.client).list_firewall_rule_protocols().protocols
    assert hyperstack.RegionApi(sdk.client).list_regions().regions[0].name == "CANADA-1"
    prices = hyperstack.PricebookApi(sdk.client).get_pricebook()
    assert {price.name: price.value for price in prices}["A100-80G-PCIe"] == 1.35


def test_the_price_book_has_strings_which_the_sdk_cannot_read(sdk):
    with pytest.raises(ValidationError):
        hyperstack.PricebookApi(sdk.client).get_pricebook()
    prices = json.loads(hyperstack.PricebookApi(sdk.client).get_pricebook_without_preload_content().data)
    assert {price["name"]: float(price["value"]) for price in prices}["A100-80G-PCIe"] == 1.35
    assert {type(price["value"]) for price in prices} == {str}


def test_stock_in_words_and_numbers(configured):
    sdk = configured(flavors=[{"name": "f", "gpu": "L40", "gpu_count": 4, "stock": 3}]).sdk
    (region,) = hyperstack.StockApi(sdk.client).get_gpu_stock().stocks
    assert (region.region, region.stock_type) == ("CANADA-1", "GPU")
    (model,) = region.models
    assert (model.model, model.available, model.configurations.var_4x) == ("L40", "10+", 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: hyperstack.FlavorApi(client).list_flavors(),
        lambda client: hyperstack.ImageApi(client).list_images(),
        lambda client: hyperstack.EnvironmentApi(client).list_environments(),
        lambda client: hyperstack.KeypairApi(client).list_key_pairs(),
        lambda client: hyperstack.SecurityRulesApi(client).list_firewall_rule_protocols(),
        lambda client: hyperstack.RegionApi(client).list_regions(),
        lambda client: hyperstack.StockApi(client).get_gpu_stock(),
        lambda client: hyperstack.PricebookApi(client).get_pricebook(),
    ],
)
def test_the_catalogue_wants_a_key_too(configured, call):
    with pytest.raises(UnauthorizedException):
        call(configured(api_keys=["another"]).sdk.client)


def test_the_limit_is_reached_and_says_429(configured):
    sdk = configured(rate_limit=2).sdk
    sdk.vms.list_vms()
    sdk.vms.list_vms()
    with pytest.raises(ApiException) as refused:
        sdk.vms.list_vms()
    assert error(refused)[:2] == (429, None)


def test_a_5xx_is_a_service_exception(configured):
    sdk = configured(faults={"read": {"error_before": 1}}).sdk
    with pytest.raises(ServiceException):
        sdk.vms.list_vms()


def test_endpoints_that_are_not_simulated_are_not_found(sdk):
    with pytest.raises(NotFoundException) as refused:
        hyperstack.GpuApi(sdk.client).list_gpus()
    assert error(refused)[:2] == (404, "not_found")

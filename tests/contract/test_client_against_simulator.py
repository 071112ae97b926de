"""The client against the simulated cloud, in process and over a socket: the same expectations of both."""

from contextlib import asynccontextmanager
from decimal import Decimal

import pytest
from pydantic import SecretStr
from simulated import START, STEADY, body

from service import errors
from service.core.create_body import validate_create
from service.provider.aiohttp_transport import AiohttpTransport
from service.provider.answers import Listed, NameAvailability
from service.provider.calls import ReassignRoute
from service.provider.client import Client
from service.provider.wire import HttpResponse
from service.simulator.cloud import Cloud
from service.simulator.http import HttpRequest
from service.simulator.loading import parse_config, parse_faults
from service.simulator.server import running

KEY = "the-api-key"
HEAR = "http://127.0.0.1:9/callbacks/abc"
ROUTE = ReassignRoute(method="PUT", path="/_sim/virtual-machines/{vm_id}/contract")


class InProcess:
    """A transport without a socket: what the network would do to a call, done to it at once."""

    def __init__(self, cloud):
        self.cloud = cloud
        self.now = 0.0

    async def send(self, method, url, headers, body, within, /):
        path = url.removeprefix("http://provider.example")
        reply = self.cloud.handle(HttpRequest(method=method, path=path, headers=headers, body=body or b""), self.now)
        if reply.fate != "normal":
            raise errors.Unconfirmed(reply.fate)
        return HttpResponse(status=reply.status, headers=reply.headers, body=reply.body)

    async def pass_seconds(self, seconds):
        self.now += seconds
        self.cloud.advance(self.now)


@asynccontextmanager
async def in_process(config):
    transport = InProcess(Cloud(config, start=START))
    yield transport, "http://provider.example/v1", transport.cloud, transport.pass_seconds


@asynccontextmanager
async def over_a_socket(config):
    transport = AiohttpTransport()
    async with running(config, speed=0.0, start=START) as simulator:
        yield transport, simulator.url, simulator.cloud, simulator.advance
        await transport.close()


class Provider:
    """A client, the cloud that it speaks to, and the passing of the cloud's time."""

    def __init__(self, transport, url, cloud, pass_seconds):
        self.client = self.speaking(transport, url)
        self.other_key = self.speaking(transport, url, key="another")
        self.wrong_url = self.speaking(transport, url.replace("/v1", "/v2"))
        self.cloud = cloud
        self.pass_seconds = pass_seconds

    @staticmethod
    def speaking(transport, url, key=KEY):
        return Client(transport, base_url=url, api_key=SecretStr(key), reassign=ROUTE, timeout=0.5, create_timeout=0.5)


@pytest.fixture(params=[in_process, over_a_socket], ids=["in process", "over a socket"])
async def provider(request):
    settings = {"timing": STEADY, "api_keys": [KEY]} | getattr(request.function, "settings", {})
    async with request.param(parse_config(settings)) as parts:
        yield Provider(*parts)


def cloud(**settings):
    def mark(test):
        test.settings = settings
        return test

    return mark


def wanted(**changes):
    return validate_create(body(callback_url=None, **changes))


@cloud(count_means="total")
async def test_a_fleet_is_created_read_listed_and_deleted(provider):
    spec = wanted(count=3, labels=["rollcall-1f"], assign_floating_ip=True)
    made = await provider.client.create(spec)
    assert [vm.status for vm in made.vms] == ["CREATING"] * 3
    assert {vm.labels for vm in made.vms} == {("rollcall-1f",)}
    first = made.vms[0]
    with pytest.raises(errors.NotYet):
        await provider.client.delete_vm(first.provider_id)

    await provider.pass_seconds(60)
    seen = await provider.client.get_vm(first.provider_id)
    assert (seen.status, seen.power_state, seen.vm_state) == ("ACTIVE", "RUNNING", "active")
    assert (seen.environment, seen.flavor, seen.gpu_model) == ("test1", "n3-A100x1", "A100-80G-PCIe")
    assert seen.floating_ip is not None
    assert seen.created_at == START

    page = await provider.client.list_vms(page=2, page_size=2, search=spec.name)
    assert [vm.provider_id for vm in page.vms] == [made.vms[2].provider_id]
    assert (page.count, page.page, page.page_size) == (3, 2, 2)

    await provider.client.delete_vm(first.provider_id)
    assert (await provider.client.get_vm(first.provider_id)).status == "DELETING"
    await provider.pass_seconds(60)
    for gone in (provider.client.get_vm, provider.client.delete_vm, provider.client.vm_events):
        with pytest.raises(errors.VmNotFound, match="does not exists"):
            await gone(first.provider_id)


async def test_a_vms_history_is_told(provider):
    (vm,) = (await provider.client.create(wanted())).vms
    await provider.pass_seconds(60)
    history = await provider.client.vm_events(vm.provider_id)
    assert history[0].reason == "InstanceCreationRequest"
    assert history[0].at == START
    assert history[-1].reason == "InstanceCreationSuccess"


async def test_every_field_of_the_body_is_accepted(provider):
    rule = {"direction": "ingress", "protocol": "tcp", "ethertype": "IPv4", "remote_ip_prefix": "0.0.0.0/0",
            "port_range_min": 22, "port_range_max": 22}  # fmt: skip
    everything = {
        "security_rules": [rule, rule | {"protocol": "icmp", "port_range_min": None, "port_range_max": None}],
        "create_bootable_volume": True,
        "user_data": "#cloud-config\n",
        "profile": {"name": "training"},
        "flavor": {"cpu": 4, "ram": 16.0, "disk": 100},
        "enhanced_monitoring_enabled": True,
        "enable_port_randomization": False,
        "contract_id": 41,
    }
    (vm,) = (await provider.client.create(wanted(**everything))).vms
    assert (vm.contract_id, vm.raw["port_randomization"]) == (41, False)
    from_volume = wanted(name="from-a-volume", image_name=None, volume_name="boot-volume")
    assert (await provider.client.create(from_volume)).vms


@cloud(environments=[{"name": "test1"}], images=["an image"])
async def test_what_is_not_there_is_refused_and_no_vm_is_missed(provider):
    for changes in ({"image_name": "nope"}, {"image_name": "an image", "flavor_name": "nope"}):
        with pytest.raises(errors.Refused) as caught:
            await provider.client.create(wanted(**changes))
        assert type(caught.value) is errors.Refused
    assert provider.cloud.truth() == []


async def test_labels_and_callback_urls_are_changed(provider):
    (vm,) = (await provider.client.create(wanted())).vms
    client, vm_id = provider.client, vm.provider_id
    await client.set_labels(vm_id, ["a", "b"])
    await client.attach_callback(vm_id, HEAR)
    seen = await client.get_vm(vm_id)
    assert (seen.labels, seen.callback_url) == (("a", "b"), HEAR)
    await client.update_callback(vm_id, HEAR + "d")
    assert (await client.get_vm(vm_id)).callback_url == HEAR + "d"
    await client.delete_callback(vm_id)
    assert (await client.get_vm(vm_id)).callback_url is None
    with pytest.raises(errors.Refused, match="No callback URL"):
        await client.delete_callback(vm_id)


@cloud(contracts=[{"id": 41, "discounts": [{"resource_name": "A100-80G-PCIe", "resource_count": 2}]}, {"id": 7}])
async def test_a_contract_that_cannot_be_had_is_seen_from_the_answer_and_can_be_changed(provider):
    client = provider.client
    (on_demand,) = (answer := await client.create(wanted(contract_id=1))).vms
    assert (on_demand.contract_id, answer.contract_errors) == (None, ("Contract with ID: 1 not found.",))
    await client.reassign_contract(on_demand.provider_id, 41)
    assert (await client.get_vm(on_demand.provider_id)).contract_id == 41
    (line,) = (await client.contract(41)).discounts
    assert (line.resource_name, line.resource_count, line.remaining_count) == ("A100-80G-PCIe", 2, 1)
    (listed,) = (await client.contract_vms(41)).vms
    assert (listed.provider_id, listed.contract_id, listed.flavor) == (on_demand.provider_id, 41, "n3-A100x1")
    assert [contract.contract_id for contract in await client.contracts()] == [41, 7]
    for refused in (client.reassign_contract(on_demand.provider_id, 99), client.contract(99), client.contract_vms(99)):
        with pytest.raises(errors.Refused, match="Contract with ID: 99 not found") as caught:
            await refused
        assert (type(caught.value), caught.value.reason) == (errors.Refused, "not_found")
    with pytest.raises(errors.VmNotFound):
        await client.reassign_contract(1, 41)


@cloud(
    contract_key="contract", contract_errors="list", zoned_times=True, empty_address="text", price_format="scientific"
)
async def test_the_other_reading_of_the_docs_is_understood_as_well(provider):
    answer = await provider.client.create(wanted(contract_id=1))
    assert answer.contract_errors == ("Contract with ID: 1 not found.",)
    assert (answer.vms[0].created_at, answer.vms[0].fixed_ip, answer.vms[0].floating_ip) == (START, None, None)
    assert (await provider.client.contract(41)).contract_id == 41
    assert {price.name: price.value for price in await provider.client.pricebook()}["A100-80G-PCIe"] == Decimal("1.35")


async def test_the_catalogue_is_read(provider):
    client = provider.client
    assert {flavor.name: flavor.gpu_count for flavor in await client.flavors(region="CANADA-1")}["n3-A100x4"] == 4
    assert await client.flavors(region="NORWAY-1") == ()
    assert Listed("Ubuntu Server 22.04 LTS R535 CUDA 12.2", "CANADA-1") in await client.images()
    assert Listed("test1", "CANADA-1") in await client.environments(search="TEST")
    assert await client.keypairs() == (Listed("example-key", "default-CANADA-1"), Listed("example-key", "test1"))
    assert "tcp" in await client.sg_rules_protocols()
    assert "A100-80G-PCIe" in {stock.gpu_model for stock in await client.stocks()}
    assert {price.name: price.value for price in await client.pricebook()}["A100-80G-PCIe"] == Decimal("1.35")
    assert await client.name_availability("a name, with ?", count=2) == NameAvailability(True, "This name is available")


@cloud(unique_names=True, flavors=[{"name": "n3-A100x1", "gpu": "A100-80G-PCIe", "gpu_count": 1, "stock": 2}])
async def test_a_taken_name_and_an_empty_stock_are_told_apart(provider):
    await provider.client.create(wanted(name="one"))
    assert not (await provider.client.name_availability("one")).available
    with pytest.raises(errors.AlreadyExists):
        await provider.client.create(wanted(name="one"))
    await provider.client.create(wanted(name="two"))
    with pytest.raises(errors.NoCapacity):
        await provider.client.create(wanted(name="three"))


@cloud(faults={"no_balance": 1})
async def test_an_empty_account_is_recognised(provider):
    with pytest.raises(errors.NoBalance):
        await provider.client.create(wanted())


@cloud(rate_limit=1, faults={"retry_after": [2], "retry_after_seconds": 9})
async def test_the_rate_limit_says_when_to_return(provider):
    await provider.client.flavors()
    for expected in (60, 9):
        with pytest.raises(errors.RateLimited) as caught:
            await provider.client.create(wanted())
        assert caught.value.retry_after == expected


@cloud(faults={"no_reason": 1})
async def test_an_omitted_reason_does_not_hide_that_a_vm_is_gone(provider):
    with pytest.raises(errors.VmNotFound):
        await provider.client.get_vm(1)


async def test_another_key_is_rejected_and_a_wrong_url_does_not_say_that_the_vm_is_gone(provider):
    (vm,) = (await provider.client.create(wanted())).vms
    with pytest.raises(errors.CredentialsRejected):
        await provider.other_key.get_vm(vm.provider_id)
    # Not the provider's own words, so it says nothing about the VM.
    with pytest.raises(errors.TryLater):
        await provider.wrong_url.get_vm(vm.provider_id)


@pytest.mark.parametrize(
    ("fault", "done"),
    [("cut", 0), ("error_before", 0), ("hang_before", 0), ("lost", 1), ("error_after", 1), ("hang_after", 1), ("unreadable", 1)],
)  # fmt: skip
async def test_a_create_without_a_clear_answer_is_unconfirmed_whether_it_was_done_or_not(provider, fault, done):
    provider.cloud.set_faults(parse_faults({"create": {fault: 1}}))
    with pytest.raises(errors.Unconfirmed):
        await provider.client.create(wanted())
    assert len(provider.cloud.truth()) == done
    assert len(provider.cloud.log) == 1


@pytest.mark.parametrize("fault", ["cut", "error_before", "hang_before", "lost", "error_after", "unreadable"])
async def test_a_reading_without_a_clear_answer_can_be_made_again_and_was_made_once(provider, fault):
    provider.cloud.set_faults(parse_faults({"read": {fault: 1}}))
    with pytest.raises(errors.TryLater):
        await provider.client.list_vms()
    assert len(provider.cloud.log) == 1


@cloud(faults={"read": {"unreadable": 1}})
async def test_a_reading_that_cannot_be_read_can_be_made_again(provider):
    for reading in (provider.client.list_vms, provider.client.flavors, provider.client.pricebook):
        with pytest.raises(errors.TryLater):
            await reading()


@cloud(repeated_delete="accepted", faults={"change": {"lost": [1], "unreadable": [2], "error_after": [3]}})
async def test_a_change_without_a_clear_answer_is_unconfirmed_and_was_made_once(provider):
    (vm,) = (await provider.client.create(wanted())).vms
    await provider.pass_seconds(60)
    for _ in range(3):
        with pytest.raises(errors.Unconfirmed):
            await provider.client.delete_vm(vm.provider_id)
    assert len(provider.cloud.log) == 4
    assert (await provider.client.get_vm(vm.provider_id)).status == "DELETING"

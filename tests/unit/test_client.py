"""The client over a transport that only records: one request for each method, and errors as the wire says."""

import json
import pathlib

import pytest
from pydantic import SecretStr

from service import errors
from service.core.create_body import CreateBody
from service.provider.calls import ReassignRoute
from service.provider.client import CREATE_TIMEOUT, TIMEOUT, Client
from service.provider.wire import HttpResponse

SAMPLES = pathlib.Path(__file__).parent.parent / "samples"
KEY = "the-api-key"
BODY = CreateBody(name="n", environment_name="e", image_name="i", flavor_name="f", key_name="k", count=1)
ROUTE = ReassignRoute(method="PUT", path="/core/virtual-machines/{vm_id}/contract")
SAFE = [
    ("list_vms", {}, "list_vms"),
    ("get_vm", {"vm_id": 5}, "get_vm"),
    ("vm_events", {"vm_id": 5}, "vm_events"),
    ("name_availability", {"name": "n"}, "name_availability"),
    ("contracts", {}, "contracts"),
    ("contract", {"contract_id": 41}, "contract"),
    ("contract_vms", {"contract_id": 41}, "contract_vms"),
    ("flavors", {}, "flavors"),
    ("images", {}, "images"),
    ("environments", {}, "environments"),
    ("keypairs", {}, "keypairs"),
    ("sg_rules_protocols", {}, "sg_rules_protocols"),
    ("stocks", {}, "stocks"),
    ("pricebook", {}, "pricebook"),
]
UNSAFE = [
    ("create", {"body": BODY}, "create"),
    ("delete_vm", {"vm_id": 5}, "delete_vm"),
    ("set_labels", {"vm_id": 5, "labels": ["a"]}, "set_labels"),
    ("attach_callback", {"vm_id": 5, "url": "https://x"}, "attach_callback"),
    ("update_callback", {"vm_id": 5, "url": "https://x"}, "attach_callback"),
    ("delete_callback", {"vm_id": 5}, "attach_callback"),
    ("reassign_contract", {"vm_id": 5, "contract_id": 41}, "attach_callback"),
]


class Recorder:
    def __init__(self, outcome):
        self.sent = []
        self.outcome = outcome

    async def send(self, method, url, headers, body, within, /):
        self.sent.append((method, url, headers, body, within))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def client(outcome, *, base_url="https://provider.example/v1", api_key=KEY, reassign=ROUTE):
    transport = Recorder(outcome)
    return Client(transport, base_url=base_url, api_key=SecretStr(api_key), reassign=reassign), transport


def ok(sample):
    return HttpResponse(status=200, headers={}, body=(SAMPLES / f"{sample}.json").read_bytes())


@pytest.mark.parametrize(
    ("method", "arguments", "sample"), [*SAFE, *UNSAFE], ids=[name for name, *_ in [*SAFE, *UNSAFE]]
)
async def test_each_method_sends_one_request_and_reads_its_answer(method, arguments, sample):
    asked, transport = client(ok(sample))
    value = await getattr(asked, method)(**arguments)
    ((verb, url, headers, body, within),) = transport.sent
    assert url.startswith("https://provider.example/v1/")
    assert headers["api_key"] == KEY
    assert ("content-type" in headers) == (body is not None)
    assert (verb == "GET") == ((method, arguments, sample) in SAFE)
    assert (value is None) == (verb != "GET" and method != "create")
    assert within == (CREATE_TIMEOUT if method == "create" else TIMEOUT)


@pytest.mark.parametrize(("method", "arguments", "sample"), SAFE, ids=[name for name, *_ in SAFE])
@pytest.mark.parametrize("outcome", [errors.Unconfirmed("cut"), HttpResponse(status=503, headers={}, body=b"cut")])
async def test_a_reading_without_a_clear_answer_can_be_made_again(method, arguments, sample, outcome):
    asked, transport = client(outcome)
    with pytest.raises(errors.TryLater, match="cut"):
        await getattr(asked, method)(**arguments)
    assert len(transport.sent) == 1, sample


@pytest.mark.parametrize(("method", "arguments", "sample"), UNSAFE, ids=[name for name, *_ in UNSAFE])
@pytest.mark.parametrize("outcome", [errors.Unconfirmed("cut"), HttpResponse(status=503, headers={}, body=b"cut")])
async def test_a_change_without_a_clear_answer_is_unconfirmed_and_not_repeated(method, arguments, sample, outcome):
    asked, transport = client(outcome)
    with pytest.raises(errors.Unconfirmed, match="cut"):
        await getattr(asked, method)(**arguments)
    assert len(transport.sent) == 1, sample


async def test_what_was_certainly_not_sent_stays_so():
    asked, _ = client(errors.TryLater("refused"))
    with pytest.raises(errors.TryLater, match="refused"):
        await asked.create(BODY)


async def test_a_create_sends_the_bytes_of_the_body():
    asked, transport = client(ok("create"), base_url="https://provider.example/v1/")
    answer = await asked.create(BODY)
    assert answer.vms[0].provider_id == 507279
    assert transport.sent[0][:2] == ("POST", "https://provider.example/v1/core/virtual-machines")
    assert transport.sent[0][3] == BODY.to_bytes()


async def test_reassigning_uses_the_configured_route():
    asked, transport = client(ok("set_labels"))
    assert asked.can_reassign
    await asked.reassign_contract(5, 41)
    verb, url, _, body, _ = transport.sent[0]
    assert (verb, url) == ("PUT", "https://provider.example/v1/core/virtual-machines/5/contract")
    assert json.loads(body) == {"contract_id": 41}


async def test_reassigning_without_a_route_is_refused_before_anything_is_sent():
    asked, transport = client(ok("set_labels"), reassign=None)
    assert not asked.can_reassign
    with pytest.raises(errors.Refused, match="configured"):
        await asked.reassign_contract(5, 41)
    assert transport.sent == []


async def test_the_key_is_in_no_error_and_no_repr():
    asked, _ = client(HttpResponse(status=401, headers={}, body=b'{"message": "bad key the-api-key"}'))
    with pytest.raises(errors.CredentialsRejected) as caught:
        await asked.get_vm(5)
    assert str(caught.value) == "bad key [api key]"
    assert KEY not in repr(vars(asked))


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "schlüssel"])
def test_a_key_that_cannot_be_a_header_is_a_mistake_in_the_settings(key):
    with pytest.raises(errors.ConfigError, match="api_key"):
        client(ok("create"), api_key=key)

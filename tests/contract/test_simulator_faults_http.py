"""The faults that only show on the wire, or matter most there, through a real HTTP client."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, ClientTimeout
from simulated import STEADY, body

from service.simulator.loading import parse_config
from service.simulator.server import running

VMS = "/core/virtual-machines"
# The calls by the name of their faults.
OPERATIONS = {
    "create": ("POST", VMS),
    "list": ("GET", VMS),
    "get": ("GET", VMS + "/{id}"),
    "delete": ("DELETE", VMS + "/{id}"),
}


class Client:
    """Calls a running simulator whose time stands still, and which has one ACTIVE VM."""

    def __init__(self, simulator, session):
        self.simulator = simulator
        self.session = session
        self.vm_id = 0
        self._names = iter(range(1000))

    async def call(self, operation, *, vm_id=None, within=30):
        """The status, the headers and the bytes of the answer."""
        method, path = OPERATIONS[operation]
        content = body(name=f"vm{next(self._names)}", callback_url=None) if operation == "create" else None
        url = self.simulator.url + path.format(id=vm_id or self.vm_id)
        async with self.session.request(
            method, url, json=content, allow_redirects=False, timeout=ClientTimeout(total=within)
        ) as answer:
            return answer.status, answer.headers, await answer.read()

    async def private(self, path, content):
        async with self.session.post(f"{self.simulator.private_url}/{path}", json=content) as answer:
            return answer.status, await answer.json()

    async def create(self, count=1):
        """The ids of new VMs, which are ACTIVE."""
        content = body(name=f"fleet{next(self._names)}", callback_url=None, count=count)
        async with self.session.post(self.simulator.url + VMS, json=content) as answer:
            ids = [vm["id"] for vm in (await answer.json())["instances"]]
        await self.simulator.advance(60)
        return ids

    async def set_faults(self, **faults):
        assert await self.private("faults", faults) == (200, {"status": True})

    def truth(self, vm_id=None):
        return next(vm for vm in self.simulator.cloud.truth() if vm["id"] == (vm_id or self.vm_id))


@asynccontextmanager
async def connected(*, speed=0, **settings):
    config = parse_config({"timing": STEADY, "callback_variety": 0, "rate_limit": 0, **settings})
    async with running(config, speed=speed) as simulator, ClientSession(headers={"api_key": "k"}) as session:
        client = Client(simulator, session)
        (client.vm_id,) = await client.create()
        yield client


@pytest.fixture
async def client():
    async with connected() as there:
        yield there


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_hanging_call_is_answered_after_its_seconds(client, operation):
    await client.set_faults(**{operation: {"hang": [1], "hang_seconds": 70}})
    calls = len(client.simulator.cloud.log)
    hanging = asyncio.create_task(client.call(operation))
    while len(client.simulator.cloud.log) == calls:
        assert not hanging.done()
        await asyncio.sleep(0)
    others = [name for name in OPERATIONS if name not in {operation, "delete"}]
    assert [(await client.call(other))[0] for other in others] == [200] * len(others)
    await client.simulator.advance(69)
    assert not hanging.done()
    await client.simulator.advance(1)
    assert (await hanging)[0] == 200


async def test_a_hanging_call_is_answered_as_time_passes_by_itself():
    async with connected(speed=5000) as client:
        await client.set_faults(list={"hang": [1], "hang_seconds": 100})
        assert (await client.call("list"))[0] == 200


async def test_the_work_of_a_hanging_create_is_done_although_the_caller_gives_up(client):
    await client.set_faults(create={"hang": 1})
    with pytest.raises(TimeoutError):
        await client.call("create", within=0.1)
    assert len(client.simulator.cloud.truth()) == 2


@pytest.mark.parametrize(
    ("status", "fault", "created"),
    [(302, "gateway", 1), (404, "gateway", 1), (502, "gateway", 1), (404, "gateway_after", 2)],
)
async def test_a_gateway_answers_with_html(client, status, fault, created):
    await client.set_faults(create={fault: [1], "gateway_statuses": [status]})
    answered, headers, content = await client.call("create")
    assert (answered, headers["Content-Type"]) == (status, "text/html")
    assert content.startswith(b"<html>")
    assert ("Location" in headers) is (status == 302)
    assert len(client.simulator.cloud.truth()) == created
    assert (await client.call("create"))[0] == 200


async def test_a_gateway_answers_with_any_of_its_statuses(client):
    await client.set_faults(get={"gateway": 1})
    assert {(await client.call("get"))[0] for _ in range(40)} == {302, 404, 502}
    assert (await client.call("list"))[0] == 200


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_one_operation_is_out_for_a_while(client, operation):
    others = [name for name in OPERATIONS if name not in {operation, "delete"}]
    assert (await client.private("outage", {"seconds": 30, "calls": [operation]}))[0] == 200
    assert {(await client.call(operation))[0] // 100 for _ in range(10)} == {5}
    assert [(await client.call(other))[0] for other in others] == [200] * len(others)
    await client.simulator.advance(30)
    assert (await client.call(operation))[0] == 200


async def test_an_outage_of_one_operation_can_be_planned():
    outage = {"probability": 1, "since": 100, "until": 200}
    async with connected(faults={"delete": {"error_before": outage}}) as client:
        await client.simulator.advance(50)
        assert (await client.call("delete"))[0] >= 500
        assert (await client.call("get"))[0] == 200
        await client.simulator.advance(100)
        assert (await client.call("delete"))[0] == 200


@pytest.mark.parametrize(
    "content", [{}, {"seconds": -1}, {"seconds": 1, "calls": ["lists"]}, {"seconds": 1, "calls": 3}]
)
async def test_an_outage_that_cannot_be_is_refused(client, content):
    assert (await client.private("outage", content))[0] == 400


@pytest.mark.parametrize("operation", ["create", "list", "get"])
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("null", None),
        ('"7"', "7"),
        ("3.5", 3.5),
        ("1e400", float("inf")),
        ("9" * 400, int("9" * 400)),
        (r'"x \ud83d"', "x \ud83d"),
        ("[" * 100 + "]" * 100, None),
    ],
)
async def test_a_field_has_a_value_that_nobody_expects(client, operation, value, shown):
    faults = {"bad_fields": 1, "bad_field_names": ["instances.id", "instance.id"], "bad_field_values": [value]}
    await client.set_faults(**{operation: faults})
    status, _, content = await client.call(operation)
    assert status == 200
    assert f'"id": {value}'.encode() in content
    decoded = json.loads(content)
    (vm, *_) = decoded.get("instances") or [decoded["instance"]]
    assert vm["id"] == shown or value.startswith("[")


async def test_a_field_is_missing(client):
    faults = {"bad_fields": 1, "bad_field_names": ["instances.id"], "bad_field_values": [""]}
    await client.set_faults(list=faults)
    (vm,) = json.loads((await client.call("list"))[2])["instances"]
    assert "id" not in vm
    assert vm["name"]


async def test_bad_fields_hit_any_field_with_any_kind_of_value(client):
    expected = json.loads((await client.call("list"))[2])
    await client.set_faults(list={"bad_fields": 1})
    bodies = [(await client.call("list"))[2] for _ in range(800)]
    differing = [decoded for content in bodies if (decoded := decode(content)) != expected]
    assert len(differing) > 700
    assert any(b"\\ud83d" in content for content in bodies)
    assert any(b"1e400" in content for content in bodies)
    assert any(b"9" * 400 in content for content in bodies)
    assert any(content.count(b'{"a":') == 2000 for content in bodies)
    objects = [decoded for decoded in differing if isinstance(decoded, dict)]
    assert {key for decoded in objects for key in expected if decoded.get(key) != expected[key]} == set(expected)


async def test_several_fields_may_be_bad(client):
    await client.set_faults(
        get={"bad_fields": 1, "bad_field_count": 2, "bad_field_names": ["name"], "bad_field_values": [""]}
    )
    good = json.loads(json.dumps(client.simulator.cloud.truth()))
    vm = json.loads((await client.call("get"))[2])["instance"]
    named = [part for part in (vm, vm["flavor"], vm["environment"], vm["image"], vm["keypair"]) if "name" in part]
    assert len(named) == 3
    assert client.simulator.cloud.truth() == good


async def test_an_error_has_no_bad_fields(client):
    await client.set_faults(get={"bad_fields": 1})
    status, _, content = await client.call("get", vm_id=1)
    assert (status, json.loads(content)["error_reason"]) == (404, "not_found")


async def test_a_name_with_a_lone_surrogate_is_listed(client):
    raw = json.dumps(body(callback_url=None)).replace('"vm"', r'"x \ud83d"')
    headers = {"Content-Type": "application/json"}
    async with client.session.post(client.simulator.url + VMS, data=raw, headers=headers) as answer:
        assert answer.status == 200
    assert rb'"x \ud83d"' in (await client.call("list"))[2]


async def test_a_crowd_vanishes_at_once(client):
    ids = await client.create(count=20)
    status, content = await client.private("vanish", {"count": 15})
    assert (status, content["vanished"]) == (200, [client.vm_id, *ids[:14]])
    listed = json.loads((await client.call("list"))[2])["instances"]
    assert [vm["id"] for vm in listed] == ids[14:]
    for content in ({}, {"count": -1}, {"count": True}):
        assert (await client.private("vanish", content))[0] == 400


async def test_a_crowd_vanishes_some_time_after_a_create(client):
    await client.set_faults(vms={"vanish_crowd": [20], "vanish_after": 100, "crowd_size": 12})
    ids = await client.create(count=20)
    await client.simulator.advance(39)
    assert len(json.loads((await client.call("list"))[2])["instances"]) == 21
    await client.simulator.advance(1)
    listed = json.loads((await client.call("list"))[2])["instances"]
    assert [vm["id"] for vm in listed] == ids[11:]


async def test_a_vm_reports_an_unknown_status_for_a_while(client):
    faults = {"unknown_status": [1], "unknown_statuses": ["WEIRD"], "unknown_after": 100, "unknown_seconds": 50}
    await client.set_faults(vms=faults)
    (vm_id,) = await client.create()

    async def reported():
        listed = json.loads((await client.call("list"))[2])["instances"][-1]
        shown = json.loads((await client.call("get", vm_id=vm_id))[2])["instance"]
        assert listed["status"] == shown["status"]
        return shown["status"]

    assert await reported() == "ACTIVE"
    await client.simulator.advance(40)
    assert await reported() == "WEIRD"
    assert (client.truth(vm_id)["status"], client.truth(vm_id)["reported_status"]) == ("ACTIVE", "WEIRD")
    await client.simulator.advance(50)
    assert await reported() == "ACTIVE"


async def test_a_delete_conflicts_with_an_earlier_one_that_fails(client):
    await client.set_faults(delete_conflict=[1])
    assert (await client.call("delete"))[0] == 409
    assert json.loads((await client.call("get"))[2])["instance"]["status"] == "DELETING"
    await client.simulator.advance(10)
    assert json.loads((await client.call("get"))[2])["instance"]["status"] == "ACTIVE"
    assert (await client.call("delete"))[0] == 200
    await client.simulator.advance(10)
    assert (await client.call("get"))[0] == 404


def decode(content):
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None

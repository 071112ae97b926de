"""A simulated cloud without sockets: a client that controls the time."""

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from service.simulator import private
from service.simulator.callback_sender import CallbackDelivery
from service.simulator.cloud import Cloud
from service.simulator.http import HttpReply, HttpRequest
from service.simulator.loading import parse_config

START = datetime(2026, 8, 17, 9, 33, 46, tzinfo=UTC)
IMAGE = "Ubuntu Server 22.04 LTS R535 CUDA 12.2"
VMS = "/core/virtual-machines"

# Every step takes ten seconds, so a test knows the status of a VM.
STEADY = {
    "callback": 0,
    **dict.fromkeys(("creating", "build", "address", "starting", "stopping", "rebooting"), 10),
    **dict.fromkeys(("hibernating", "restoring", "deleting", "security_rule"), 10),
}


def body(**changes: Any) -> dict[str, Any]:
    """A valid create body. Fields set to None are left out."""
    full = {
        "name": "vm",
        "environment_name": "test1",
        "flavor_name": "n3-A100x1",
        "image_name": IMAGE,
        "key_name": "example-key",
        "count": 1,
        "callback_url": "http://callbacks.example/callbacks/abc",
    }
    return {name: value for name, value in (full | changes).items() if value is not None}


class Caller:
    """Calls a cloud at time `now`. Settings are those of `CloudConfig`, as plain data."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("timing", STEADY)
        settings.setdefault("callback_variety", 0)
        self.cloud = Cloud(parse_config(settings), start=START)
        self.now = 0.0

    def call(
        self, method: str, path: str, content: Any = None, *, key: str | None = "key", source: str = ""
    ) -> HttpReply:
        raw = b"" if content is None else content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {} if key is None else {"API_KEY": key}
        request = HttpRequest(method=method, path="/v1" + path, headers=headers, body=raw, source=source)
        return self.cloud.handle(request, self.now)

    def create(self, **changes: Any) -> HttpReply:
        return self.call("POST", VMS, body(**changes))

    def made(self, **changes: Any) -> list[int]:
        """The ids of the VMs of a successful create."""
        reply = self.create(**changes)
        assert reply.status == 200, reply
        return [vm["id"] for vm in reply.json()["instances"]]

    def active(self, **changes: Any) -> int:
        """The id of a new VM that is ACTIVE. Its callbacks are discarded."""
        (vm_id,) = self.made(**changes)
        self.wait(40)
        assert self.vm(vm_id)["status"] == "ACTIVE"
        return vm_id

    def get(self, vm_id: int) -> HttpReply:
        return self.call("GET", f"{VMS}/{vm_id}")

    def vm(self, vm_id: int) -> dict[str, Any]:
        reply = self.get(vm_id)
        assert reply.status == 200, reply
        return reply.json()["instance"]

    def listing(self, **query: Any) -> dict[str, Any]:
        reply = self.call("GET", f"{VMS}?{urlencode(query)}")
        assert reply.status == 200, reply
        return reply.json()

    def names(self, **query: Any) -> list[str]:
        return [vm["name"] for vm in self.listing(**query)["instances"]]

    def contract(self, contract_id: int = 41) -> dict[str, Any]:
        return self.call("GET", f"/pricebook/contracts/{contract_id}").json()["contracts"]

    def left(self, contract_id: int = 41) -> int:
        return self.contract(contract_id)["discounts"][0]["remaining_count"]

    def wait(self, seconds: float) -> list[CallbackDelivery]:
        """Let time pass and return the callbacks that became due."""
        self.now += seconds
        return self.cloud.advance(self.now)

    def truth(self, vm_id: int) -> dict[str, Any]:
        return next(vm for vm in self.cloud.truth() if vm["id"] == vm_id)

    def private(self, method: str, path: str, content: Any = None) -> HttpReply:
        raw = b"" if content is None else json.dumps(content).encode()
        return private.handle(self.cloud, HttpRequest(method=method, path="/_sim/" + path, body=raw), self.now)


def statuses_of(deliveries: list[CallbackDelivery]) -> list[tuple[str, str | None, str | None]]:
    """For each callback: the operation, its status, and the status in data."""
    return [
        (content["operation"]["name"], content["operation"]["status"], content.get("data", {}).get("status"))
        for content in (json.loads(delivery.body) for delivery in deliveries)
    ]


def refusal(reply: HttpReply) -> tuple[int, str, str]:
    content = reply.json()
    assert content["status"] is False
    return reply.status, content["error_reason"], content["message"]

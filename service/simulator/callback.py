"""The bodies of callbacks, in all the forms that have been seen: infrahub-api.md sections 1.2 to 1.5. Only bodies."""

import json
import random
from dataclasses import dataclass
from typing import Any, Literal

from service.simulator.config import CloudConfig
from service.simulator.lifecycle import FAILED_NAMES, OPERATIONS, OperationName
from service.simulator.vm import Vm

Course = Literal["progress", "success", "failed"]


@dataclass(frozen=True, slots=True)
class News:
    """What a callback tells: a step of an operation, or how the operation ended.

    `status` is the resource status that the docs pair with it: of the VM, or of its public address.
    """

    operation: OperationName
    status: str
    course: Course


def body(vm: Vm, news: News, config: CloudConfig, luck: random.Random, *, nulled: bool = False) -> bytes:
    """The bytes to post. `nulled` takes the operation's status out, as was seen on 2026-01-02, and at times the VM's."""
    operation_status: str | None = None if nulled else _operation_status(vm, news)
    content: dict[str, Any] = {
        "resource": {"id": _id(vm, config, luck), "name": vm.name, "type": "virtual_machine"},
        "operation": {"name": operation_name(vm, news), "status": operation_status},
        "data": _data(vm, news),
    }
    if nulled and luck.random() < 0.5:
        content["data"]["status"] = None
    _depart(content, news, config.callback_variety, luck)
    return json.dumps(content).encode()


def stranger(luck: random.Random) -> tuple[int, bytes]:
    """A callback about a VM of somebody else: an id from long before ours, and the body."""
    vm_id = luck.randint(1, 99_999)
    content = {
        "resource": {"id": str(vm_id), "name": "somebody-elses", "type": "virtual_machine"},
        "operation": {"name": "createInstance", "status": "ACTIVE"},
        "data": {"id": vm_id, "status": "ACTIVE", "floating_ip": "203.0.113.99"},
    }
    return vm_id, json.dumps(content).encode()


def garbage(luck: random.Random) -> bytes:
    return luck.choice((b"", b"{", b"null", b"<html>502 Bad Gateway</html>", b"\xff\xfe{}", b'{"resource": {"id":'))


def operation_name(vm: Vm, news: News) -> str:
    name = OPERATIONS[news.operation].names[vm.family]
    if vm.family == "C":
        # "...Success" goes with every step on the way too (section 1.6).
        return name + ("Failed" if news.course == "failed" else "Success")
    if news.course == "failed":
        return FAILED_NAMES.get((news.operation, vm.family), name)
    return name


def _operation_status(vm: Vm, news: News) -> str:
    if news.course == "failed":
        return news.status if vm.family == "C" else "FAILED"
    if news.course == "success" and vm.family == "A":
        return "SUCCESS"
    # Seen on the wire beside the documented BUILD (section 1.2).
    return "building" if vm.family == "B" and news.status == "BUILD" else news.status


def _id(vm: Vm, config: CloudConfig, luck: random.Random) -> int | str:
    as_number = config.callback_ids == "number" or (config.callback_ids == "mixed" and luck.random() < 0.25)
    return vm.id if as_number else str(vm.id)


def _data(vm: Vm, news: News) -> dict[str, Any]:
    data: dict[str, Any] = {
        "id": vm.id,
        "name": vm.name,
        "status": vm.status,
        "floating_ip": vm.floating_ip or "",
        "fixed_ip": vm.fixed_ip,
    }
    if news.operation in {"attach_ip", "detach_ip"}:
        data["floating_ip_status"] = vm.floating_ip_status
    return data


def _depart(content: dict[str, Any], news: News, variety: float, luck: random.Random) -> None:
    """Leave out what may be left out, and spell statuses as somebody else would."""
    resource, operation = content["resource"], content["operation"]
    for key in ("name", "type"):
        if luck.random() < variety:
            del resource[key]
    if luck.random() < variety:
        content["user_payload"] = None
    respell = luck.choice((str.lower, str.capitalize)) if luck.random() < variety else str
    if isinstance(operation["status"], str):
        operation["status"] = respell(operation["status"])
    if isinstance(content["data"]["status"], str):
        content["data"]["status"] = respell(content["data"]["status"])
    # Without data an address is never told, so that the address events keep theirs.
    if luck.random() < variety and news.operation not in {"attach_ip", "detach_ip"}:
        del content["data"]

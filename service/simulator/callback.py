"""Callback bodies in every known form: infrahub-api.md sections 1.2 to 1.5."""

import json
import random
from dataclasses import dataclass
from typing import Any, Literal

from service.simulator.config import CloudConfig
from service.simulator.lifecycle import FAILED_NAMES, OPERATIONS, OperationName
from service.simulator.vm import SimulatedVm

Phase = Literal["progress", "success", "failed"]


@dataclass(frozen=True, slots=True)
class CallbackContent:
    """A step of an operation, or its result. `status` is the status of the VM or of its public address."""

    operation: OperationName
    status: str
    phase: Phase


def body(
    vm: SimulatedVm, content: CallbackContent, config: CloudConfig, rng: random.Random, *, nulled: bool = False
) -> bytes:
    """The bytes to post. `nulled` nulls the operation's status, as seen on 2026-01-02, and sometimes the VM's."""
    fields: dict[str, Any] = {
        "resource": {"id": _id(vm, config, rng), "name": vm.name, "type": "virtual_machine"},
        "operation": {
            "name": operation_name(vm, content),
            "status": None if nulled else _operation_status(vm, content),
        },
        "data": _data(vm, content),
    }
    if nulled and rng.random() < 0.5:
        fields["data"]["status"] = None
    _vary(fields, content, config.callback_variety, rng)
    return json.dumps(fields).encode()


def unmatched(rng: random.Random) -> tuple[int, bytes]:
    """A callback about a VM of another account: its id, lower than any id of the simulator, and the body."""
    vm_id = rng.randint(1, 99_999)
    fields = {
        "resource": {"id": str(vm_id), "name": "somebody-elses", "type": "virtual_machine"},
        "operation": {"name": "createInstance", "status": "ACTIVE"},
        "data": {"id": vm_id, "status": "ACTIVE", "floating_ip": "203.0.113.99"},
    }
    return vm_id, json.dumps(fields).encode()


def garbage(rng: random.Random) -> bytes:
    return rng.choice((b"", b"{", b"null", b"<html>502 Bad Gateway</html>", b"\xff\xfe{}", b'{"resource": {"id":'))


def operation_name(vm: SimulatedVm, content: CallbackContent) -> str:
    name = OPERATIONS[content.operation].names[vm.family]
    if vm.family == "C":
        # "...Success" is also the name of the intermediate steps (section 1.6).
        return name + ("Failed" if content.phase == "failed" else "Success")
    if content.phase == "failed":
        return FAILED_NAMES.get((content.operation, vm.family), name)
    return name


def _operation_status(vm: SimulatedVm, content: CallbackContent) -> str:
    if content.phase == "failed":
        return content.status if vm.family == "C" else "FAILED"
    if content.phase == "success" and vm.family == "A":
        return "SUCCESS"
    # Seen on the wire in addition to the documented BUILD (section 1.2).
    return "building" if vm.family == "B" and content.status == "BUILD" else content.status


def _id(vm: SimulatedVm, config: CloudConfig, rng: random.Random) -> int | str:
    as_number = config.callback_ids == "number" or (config.callback_ids == "mixed" and rng.random() < 0.25)
    return vm.id if as_number else str(vm.id)


def _data(vm: SimulatedVm, content: CallbackContent) -> dict[str, Any]:
    data: dict[str, Any] = {
        "id": vm.id,
        "name": vm.name,
        "status": vm.reported_status or vm.status,
        "floating_ip": vm.floating_ip or "",
        "fixed_ip": vm.fixed_ip,
    }
    if content.operation in {"attach_ip", "detach_ip"}:
        data["floating_ip_status"] = vm.floating_ip_status
    return data


def _vary(fields: dict[str, Any], content: CallbackContent, variety: float, rng: random.Random) -> None:
    """Drop optional fields and change the case of statuses, each with probability `variety`."""
    resource, operation = fields["resource"], fields["operation"]
    for key in ("name", "type"):
        if rng.random() < variety:
            del resource[key]
    if rng.random() < variety:
        fields["user_payload"] = None
    respell = rng.choice((str.lower, str.capitalize)) if rng.random() < variety else str
    if isinstance(operation["status"], str):
        operation["status"] = respell(operation["status"])
    if isinstance(fields["data"]["status"], str):
        fields["data"]["status"] = respell(fields["data"]["status"])
    # The address is only in `data`, so callbacks about addresses keep it.
    if rng.random() < variety and content.operation not in {"attach_ip", "detach_ip"}:
        del fields["data"]

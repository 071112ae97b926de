"""What really is, for those who compare a record with it: VMs, callbacks and calls as plain data. It changes nothing.

All times are simulated seconds since the start.
"""

from typing import Any

from service.simulator.outbox import Receipt
from service.simulator.routes import Logged
from service.simulator.vm import Vm


def vm(one: Vm) -> dict[str, Any]:
    """A VM, there or gone. `ended` is deleted, vanished or null; `create_call` the number in /_sim/calls."""
    return {
        "id": one.id,
        "name": one.name,
        "status": one.status,
        "history": [{"at": at, "status": status} for at, status in one.history],
        "create_call": one.create_call,
        "created_at": one.created_at,
        "deleted_at": one.deleted_at,
        "ended": one.ended,
        "wanted_contract": one.wanted_contract,
        "contract_id": one.contract_id,
        "callback_url": one.callback_url,
        "labels": list(one.labels),
        "fixed_ip": one.fixed_ip,
        "floating_ip": one.floating_ip,
        "floating_ip_status": one.floating_ip_status,
        "flavor": one.flavor.name,
        "environment": one.environment.name,
        "family": one.family,
        "stuck": one.stuck,
    }


def delivery(receipt: Receipt) -> dict[str, Any]:
    """A callback: `fate` as in `Receipt`, and the `faults` that it suffered. The body is text as far as it is any."""
    sent = receipt.delivery
    return {
        "id": sent.delivery_id,
        "vm_id": sent.vm_id,
        "url": sent.url,
        "body": sent.body.decode(errors="replace"),
        "at": sent.at,
        "faults": list(sent.faults),
        "fate": receipt.fate,
        "status": receipt.status,
        "answered_at": receipt.answered_at,
    }


def call(logged: Logged) -> dict[str, Any]:
    """A call as it was received: `made` are the ids of the VMs that it made, `status` what it was answered.

    With another `fate` than normal nobody saw that answer; the status is 0 where there would have been none.
    """
    one, request = logged.call, logged.call.request
    return {
        "number": one.number,
        "at": one.now,
        "method": request.method,
        "path": request.path,
        "source": request.source,
        "body": request.body.decode(errors="replace"),
        "status": logged.reply.status,
        "fate": logged.reply.fate,
        "faults": list(one.faults),
        "made": list(one.made),
    }

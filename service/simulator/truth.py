"""The ground truth about VMs, callbacks and calls as plain data, to compare a record with.

All times are simulated seconds since the start.
"""

from typing import Any

from service.simulator.callback_sender import DeliveryRecord
from service.simulator.routes import LoggedCall
from service.simulator.vm import SimulatedVm


def vm(one: SimulatedVm) -> dict[str, Any]:
    """A VM, existing or not. `ended` is deleted, vanished or null; `create_call` is a number from /_sim/calls.

    `reported_status` is what the provider's answers show, which differs from `status` during the fault unknown_status.
    """
    return {
        "id": one.id,
        "name": one.name,
        "status": one.status,
        "reported_status": one.reported_status or one.status,
        "history": [{"at": at, "status": status} for at, status in one.history],
        "create_call": one.create_call,
        "created_at": one.created_at,
        "listed_from": one.listed_from,
        "deleted_at": one.deleted_at,
        "ended": one.ended,
        "contract_requested": one.contract_requested,
        "contract_id": one.contract_id,
        "contract_history": [{"at": at, "contract_id": contract_id} for at, contract_id in one.contract_history],
        "callback_url": one.callback_url,
        "labels": list(one.labels),
        "fixed_ip": one.fixed_ip,
        "floating_ip": one.floating_ip,
        "floating_ip_status": one.floating_ip_status,
        "flavor": one.flavor.name,
        "priced_as": one.flavor.gpu or one.flavor.name,
        "price_units": one.flavor.gpu_count if one.flavor.gpu else 1,
        "environment": one.environment.name,
        "family": one.family,
        "stuck": one.stuck,
    }


def delivery(record: DeliveryRecord) -> dict[str, Any]:
    """A callback: `fate` as in `DeliveryRecord`, `faults` those injected. Undecodable bytes of the body are replaced."""
    sent = record.delivery
    return {
        "id": sent.delivery_id,
        "vm_id": sent.vm_id,
        "url": sent.url,
        "body": sent.body.decode(errors="replace"),
        "at": sent.at,
        "faults": list(sent.faults),
        "fate": record.fate,
        "status": record.status,
        "answered_at": record.answered_at,
    }


def call(logged: LoggedCall) -> dict[str, Any]:
    """A call: `created_vms` are the ids of the VMs it created, `status` the HTTP status of its answer.

    If `fate` is not normal, the caller never saw that answer; `status` is 0 if there was none.
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
        "created_vms": list(one.created_vms),
    }

"""Endpoints of one VM: infrahub-api.md sections 2.1, 2.3 and 5.2 to 5.5."""

from collections.abc import Mapping
from typing import Any

from service.simulator.create_body import MAX_URL, normalize_callback_url, parse_rule
from service.simulator.creation import names_are_free, new_rule
from service.simulator.fleet import SimulatedFleet
from service.simulator.http import ApiError, HttpReply, json_reply, success
from service.simulator.lifecycle import BEING_CREATED, OPERATIONS, OperationName
from service.simulator.routes import ApiCall, Handler
from service.simulator.vm import SimulatedVm, instance


def get(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    vm = get_visible_vm(fleet, call)
    item = instance(vm, fleet.config, fleet.calendar)
    if fleet.rng.fires("labels_emptied", fleet.faults.labels_emptied, call.now):
        item["labels"] = []
    if "excluded_billing" in fleet.config.extra_fields:
        item["excluded_billing"] = False
    return success("Getting VM detail successful", instance=item)


def delete(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    """Refused while the VM is being created (section 2.3) or being deleted (section 10)."""
    vm = get_visible_vm(fleet, call)
    if vm.status in BEING_CREATED:
        wait = "Please wait until the creation process is finished before attempting deletion."
        raise ApiError(400, f"VM {vm.name} is currently being created and cannot be deleted yet. {wait}")
    if vm.status not in {"DELETING", "DELETED"}:
        _require(vm, "delete")
        conflict = fleet.rng.fires("delete_conflict", fleet.faults.delete_conflict, call.now)
        if conflict:
            call.add_fault("delete_conflict")
        fleet.start(vm, "delete", call.now, fails=conflict)
    else:
        conflict = vm.status == "DELETING" and fleet.config.repeated_delete == "conflict"
    if conflict:
        raise ApiError(409, f"VM {vm.name} is already being deleted.")
    return success("Instance is being deleted.")


def events(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    return success("Getting VM events success", instance_events=get_visible_vm(fleet, call).events)


def operation(name: OperationName, verb: str) -> Handler:
    """A handler for start, stop and similar operations, which differ in the verb of their message."""

    def handler(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
        vm = get_visible_vm(fleet, call)
        if name == "restore" and vm.status == "HIBERNATING":
            raise ApiError(400, "The VM hibernation process is still going on. Please try later.")
        _require(vm, name)
        fleet.start(vm, name, call.now)
        return success(f"VM {vm.name} is scheduled to {verb}.")

    return handler


def hibernate(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    """The VM keeps its public address only with retain_ip=true (section 2.2)."""
    vm = get_visible_vm(fleet, call)
    if vm.flavor.no_hibernation:
        raise ApiError(400, f"Hibernation is not supported for flavor {vm.flavor.name}.")
    _require(vm, "hibernate")
    fleet.start(vm, "hibernate", call.now)
    if vm.floating_ip is not None and call.request.query.get("retain_ip", "").lower() != "true":
        fleet.start(vm, "detach_ip", call.now)
    return success(f"VM {vm.name} is scheduled to hibernate.")


def resize(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    get_visible_vm(fleet, call)
    raise ApiError(400, "This feature is currently disabled")


def attach_address(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    vm = get_visible_vm(fleet, call)
    _require(vm, "attach_ip")
    if vm.floating_ip is not None:
        raise ApiError(400, f"VM {vm.name} already has a Public IP.")
    if fleet.rng.fires("no_balance", fleet.faults.no_balance, call.now):
        raise ApiError(402, "Insufficient balance to create the resource")
    vm.wants_address = True
    fleet.start(vm, "attach_ip", call.now)
    return success(f"A Public IP will be assigned to VM {vm.name}.")


def detach_address(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    vm = get_visible_vm(fleet, call)
    _require(vm, "detach_ip")
    if vm.floating_ip is None:
        raise ApiError(400, f"VM {vm.name} has no Public IP.")
    vm.wants_address = False
    fleet.start(vm, "detach_ip", call.now)
    return success(f"Public IP will be detached from the VM {vm.name}.")


def label(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    """Replace all labels. The message contains Python's list repr, as the provider's does."""
    vm = get_visible_vm(fleet, call)
    labels = _object(call).get("labels")
    if not isinstance(labels, list) or not all(isinstance(item, str) for item in labels):
        raise ApiError(400, "labels must be a list of strings.")
    vm.labels = list(labels)
    return success(f"labels for VM: {vm.name} is set to: {labels}")


def attach_callback(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    vm = get_visible_vm(fleet, call)
    url = _url(call)
    if vm.callback_url is not None and fleet.config.attach_existing == "refused":
        raise ApiError(400, f"A callback URL is already attached to VM '{vm.name}'.")
    vm.callback_url = url
    note = "Any action events on your instance will be posted to the provided URL."
    return success(f"Callback URL successfully attached to VM '{vm.name}'. {note}", url=url)


def update_callback(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    vm = get_visible_vm(fleet, call)
    url = _url(call)
    _require_callback(vm)
    vm.callback_url = url
    return success(f"Callback URL successfully updated in VM {vm.name}.", url=url)


def delete_callback(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    vm = get_visible_vm(fleet, call)
    _require_callback(vm)
    vm.callback_url = None
    return success(f"Callback URL deleted successfully in VM {vm.name}.")


def add_rule(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    """Allowed only while the VM is ACTIVE (section 2.3)."""
    vm = get_visible_vm(fleet, call)
    rule = parse_rule(_object(call))
    if vm.status != "ACTIVE":
        raise ApiError(400, f"VM {vm.name} must be ACTIVE to add a security rule.")
    vm.security_rules.append(new_rule(fleet, vm, rule, call.now))
    return success("Security Rule created successfully", security_rule=vm.security_rules[-1])


def delete_rule(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    vm = get_visible_vm(fleet, call)
    left = [rule for rule in vm.security_rules if rule["id"] != call.id("rule_id")]
    if len(left) == len(vm.security_rules):
        raise ApiError(404, f"Security rule {call.args['rule_id']} does not exists.")
    vm.security_rules = left
    return success("Security Rule deleted successfully")


def name_availability(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    """The answer has no `status` (section 3.3)."""
    name = call.args["name"]
    if len(name) > 50:
        return json_reply({"name": name, "available": False, "message": "Name must not exceed 50 characters"})
    free = not fleet.config.unique_names or names_are_free(fleet, name, call.number_of("count") or 1)
    message = "This name is available" if free else "This name is not available"
    return json_reply({"name": name, "available": free, "message": message})


def get_visible_vm(fleet: SimulatedFleet, call: ApiCall) -> SimulatedVm:
    """The VM from the path. Raises `ApiError` (404) if it is deleted, or not visible yet after its create."""
    vm = fleet.vms.get(call.id())
    lagging = vm is not None and fleet.faults.get_lags and call.now < vm.listed_from
    if vm is None or lagging or not vm.is_visible(call.now, visible_for=fleet.config.deleted_visible):
        raise ApiError(404, f"VM {call.args['id']} does not exists.")
    return vm


def _require(vm: SimulatedVm, name: OperationName) -> None:
    if vm.status not in OPERATIONS[name].allowed_in:
        raise ApiError(400, f"VM {vm.name} is {vm.status}; this operation is not allowed in this state.")


def _require_callback(vm: SimulatedVm) -> None:
    if vm.callback_url is None:
        raise ApiError(400, f"No callback URL is attached to VM {vm.name}.")


def _object(call: ApiCall) -> Mapping[str, Any]:
    body = call.request.json()
    if not isinstance(body, Mapping):
        raise ApiError(400, "The request body must be a JSON object.")
    return body


def _url(call: ApiCall) -> str:
    url = _object(call).get("url")
    if not isinstance(url, str) or (stored := normalize_callback_url(url)) is None:
        raise ApiError(400, f"url is required and must not exceed {MAX_URL} characters.")
    return stored

"""The calls about one VM: infrahub-api.md sections 2.1, 2.3 and 5.2 to 5.5. Creating and listing are elsewhere."""

from collections.abc import Mapping
from typing import Any

from service.simulator.create_body import MAX_URL, checked_rule, registered
from service.simulator.creation import free_names, new_rule
from service.simulator.exchange import Refusal, Reply, answer, done
from service.simulator.fleet import Fleet
from service.simulator.lifecycle import BEING_MADE, OPERATIONS, OperationName
from service.simulator.routes import Call, Handler
from service.simulator.vm import Vm, instance


def get(fleet: Fleet, call: Call) -> Reply:
    vm = found(fleet, call)
    shown = instance(vm, fleet.config, fleet.calendar)
    if fleet.dice.hit("labels_emptied", fleet.faults.labels_emptied, call.now):
        shown["labels"] = []
    return done("Getting VM detail successful", instance=shown)


def delete(fleet: Fleet, call: Call) -> Reply:
    """Refused while the VM is being made; asked a second time it changes nothing."""
    vm = found(fleet, call)
    if vm.status in BEING_MADE:
        wait = "Please wait until the creation process is finished before attempting deletion."
        raise Refusal(400, f"VM {vm.name} is currently being created and cannot be deleted yet. {wait}")
    if vm.status not in {"DELETING", "DELETED"}:
        _require(vm, "delete")
        fleet.begin(vm, "delete", call.now)
    return done("Instance is being deleted.")


def events(fleet: Fleet, call: Call) -> Reply:
    return done("Getting VM events success", instance_events=found(fleet, call).events)


def operation(name: OperationName, verb: str) -> Handler:
    """The handler of start, stop and the like: a precondition, and the same answer but for the verb."""

    def handler(fleet: Fleet, call: Call) -> Reply:
        vm = found(fleet, call)
        if name == "restore" and vm.status == "HIBERNATING":
            raise Refusal(400, "The VM hibernation process is still going on. Please try later.")
        _require(vm, name)
        fleet.begin(vm, name, call.now)
        return done(f"VM {vm.name} is scheduled to {verb}.")

    return handler


def hibernate(fleet: Fleet, call: Call) -> Reply:
    """The public address is kept only with retain_ip=true (section 2.2)."""
    vm = found(fleet, call)
    if vm.flavor.no_hibernation:
        raise Refusal(400, f"Hibernation is not supported for flavor {vm.flavor.name}.")
    _require(vm, "hibernate")
    fleet.begin(vm, "hibernate", call.now)
    if vm.floating_ip is not None and call.request.query.get("retain_ip", "").lower() != "true":
        fleet.begin(vm, "detach_ip", call.now)
    return done(f"VM {vm.name} is scheduled to hibernate.")


def resize(fleet: Fleet, call: Call) -> Reply:
    found(fleet, call)
    raise Refusal(400, "This feature is currently disabled")


def attach_address(fleet: Fleet, call: Call) -> Reply:
    vm = found(fleet, call)
    _require(vm, "attach_ip")
    if vm.floating_ip is not None:
        raise Refusal(400, f"VM {vm.name} already has a Public IP.")
    if fleet.dice.hit("no_balance", fleet.faults.no_balance, call.now):
        raise Refusal(402, "Insufficient balance to create the resource")
    vm.wants_address = True
    fleet.begin(vm, "attach_ip", call.now)
    return done(f"A Public IP will be assigned to VM {vm.name}.")


def detach_address(fleet: Fleet, call: Call) -> Reply:
    vm = found(fleet, call)
    _require(vm, "detach_ip")
    if vm.floating_ip is None:
        raise Refusal(400, f"VM {vm.name} has no Public IP.")
    vm.wants_address = False
    fleet.begin(vm, "detach_ip", call.now)
    return done(f"Public IP will be detached from the VM {vm.name}.")


def label(fleet: Fleet, call: Call) -> Reply:
    """Replaces all labels; the message has Python's list repr, as the provider's has."""
    vm = found(fleet, call)
    labels = _object(call).get("labels")
    if not isinstance(labels, list) or not all(isinstance(item, str) for item in labels):
        raise Refusal(400, "labels must be a list of strings.")
    vm.labels = list(labels)
    return done(f"labels for VM: {vm.name} is set to: {labels}")


def attach_callback(fleet: Fleet, call: Call) -> Reply:
    vm = found(fleet, call)
    url = _url(call)
    if vm.callback_url is not None and fleet.config.attach_existing == "refused":
        raise Refusal(400, f"A callback URL is already attached to VM '{vm.name}'.")
    vm.callback_url = url
    told = "Any action events on your instance will be posted to the provided URL."
    return done(f"Callback URL successfully attached to VM '{vm.name}'. {told}", url=url)


def update_callback(fleet: Fleet, call: Call) -> Reply:
    vm = found(fleet, call)
    url = _url(call)
    _require_callback(vm)
    vm.callback_url = url
    return done(f"Callback URL successfully updated in VM {vm.name}.", url=url)


def delete_callback(fleet: Fleet, call: Call) -> Reply:
    vm = found(fleet, call)
    _require_callback(vm)
    vm.callback_url = None
    return done(f"Callback URL deleted successfully in VM {vm.name}.")


def add_rule(fleet: Fleet, call: Call) -> Reply:
    """Only works once the VM is ACTIVE (section 2.3)."""
    vm = found(fleet, call)
    rule = checked_rule(_object(call))
    if vm.status != "ACTIVE":
        raise Refusal(400, f"VM {vm.name} must be ACTIVE to add a security rule.")
    vm.security_rules.append(new_rule(fleet, vm, rule, call.now))
    return done("Security Rule created successfully", security_rule=vm.security_rules[-1])


def delete_rule(fleet: Fleet, call: Call) -> Reply:
    vm = found(fleet, call)
    left = [rule for rule in vm.security_rules if rule["id"] != call.id("rule_id")]
    if len(left) == len(vm.security_rules):
        raise Refusal(404, f"Security rule {call.args['rule_id']} does not exists.")
    vm.security_rules = left
    return done("Security Rule deleted successfully")


def name_availability(fleet: Fleet, call: Call) -> Reply:
    """No `status` in this answer (section 3.3)."""
    name = call.args["name"]
    if len(name) > 50:
        return answer({"name": name, "available": False, "message": "Name must not exceed 50 characters"})
    free = not fleet.config.unique_names or free_names(fleet, name, call.number_of("count") or 1)
    message = "This name is available" if free else "This name is not available"
    return answer({"name": name, "available": free, "message": message})


def found(fleet: Fleet, call: Call) -> Vm:
    """The VM of the path. Raises `Refusal` (404) when it is gone, or when reads still lag behind its create."""
    vm = fleet.vms.get(call.id())
    late = vm is not None and fleet.faults.get_lags and call.now < vm.listed_from
    if vm is None or late or not vm.there(call.now, visible_for=fleet.config.deleted_visible):
        raise Refusal(404, f"VM {call.args['id']} does not exists.")
    return vm


def _require(vm: Vm, name: OperationName) -> None:
    if vm.status not in OPERATIONS[name].asked_in:
        raise Refusal(400, f"VM {vm.name} is {vm.status}; this operation is not allowed in this state.")


def _require_callback(vm: Vm) -> None:
    if vm.callback_url is None:
        raise Refusal(400, f"No callback URL is attached to VM {vm.name}.")


def _object(call: Call) -> Mapping[str, Any]:
    body = call.request.json()
    if not isinstance(body, Mapping):
        raise Refusal(400, "The request body must be a JSON object.")
    return body


def _url(call: Call) -> str:
    url = _object(call).get("url")
    if not isinstance(url, str) or (kept := registered(url)) is None:
        raise Refusal(400, f"url is required and must not exceed {MAX_URL} characters.")
    return kept

"""POST /core/virtual-machines. Faults that affect any call are in fault_injection.py."""

from collections.abc import Mapping
from typing import Any

from service.simulator import create_body
from service.simulator.create_body import CreateRequest
from service.simulator.fleet import SimulatedFleet
from service.simulator.http import ApiError, HttpReply, json_reply, success
from service.simulator.keypairs import all_keypairs
from service.simulator.routes import ApiCall
from service.simulator.vm import NO_ADDRESS, SimulatedVm, instance

DEFAULT_RULES: tuple[Mapping[str, Any], ...] = tuple(
    {
        "direction": "egress",
        "ethertype": ethertype,
        "protocol": "any",
        "remote_ip_prefix": prefix,
        "port_range_min": None,
        "port_range_max": None,
    }
    for ethertype, prefix in (("IPv4", "0.0.0.0/0"), ("IPv6", "::/0"))
)
LATE_REPLIES = {
    "error": json_reply({"message": "Internal Server Error"}, status=500),
    "hang": HttpReply(status=0, fate="hang"),
    "cut": HttpReply(status=0, fate="lost"),
}


def create(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    """Create the VMs of one call, now or later: infrahub-api.md sections 3.2 to 3.5.

    Every check comes before the first VM is created.
    """
    request = create_body.parse_create_request(call.request.json(), fleet.config, all_keypairs(fleet))
    _check_balance_and_stock(fleet, request, call.now)
    _check_name(fleet, request)
    names = vm_names(fleet, request.name, request.count)
    if fleet.rng.fires("late", fleet.faults.late, call.now):
        call.add_fault("late")
        after = fleet.rng.seconds("late_after", fleet.faults.late_after)
        fleet.timeline.add(call.now + after, lambda at: _create_later(fleet, call, request, at))
        return LATE_REPLIES[fleet.faults.late_answer]
    early = fleet.rng.fires("early", fleet.faults.early, call.now)
    vms, reason = _create_vms(fleet, call, request, names, call.now, early=early)
    reply = _reply(fleet, vms, reason, call.now)
    if not early:
        return reply
    call.add_fault("early")
    return HttpReply(status=reply.status, body=reply.body, headers=reply.headers, callbacks_first=True)


def names_are_free(fleet: SimulatedFleet, name: str, count: int) -> bool:
    """Whether no living VM has one of the names of this create, or was created with the same base name."""
    living = [vm for vm in fleet.vms.values() if vm.ended is None]
    taken = {vm.name for vm in living} | {vm.base_name for vm in living}
    return not taken & {name, *vm_names(fleet, name, count)}


def vm_names(fleet: SimulatedFleet, name: str, count: int) -> list[str]:
    """The names of the VMs of one create: infrahub-api.md section 3.2."""
    if count == 1:
        return [name]
    return [fleet.config.name_pattern.format(name=name, i=number) for number in range(1, count + 1)]


def _check_balance_and_stock(fleet: SimulatedFleet, request: CreateRequest, now: float) -> None:
    """Raises `ApiError` for a missing balance or stock, with the texts of section 3.6."""
    if fleet.rng.fires("no_balance", fleet.faults.no_balance, now):
        raise ApiError(400, "Insufficient balance to create the resource")
    no_stock = fleet.rng.fires("no_stock", fleet.faults.no_stock, now)
    if no_stock or fleet.stock.available(request.flavor, fleet.vms.values()) < request.count:
        model = request.flavor.gpu or request.flavor.name
        raise ApiError(400, f"Not Enough Stock of {model}. Unable to launch virtual-machines.")


def _check_name(fleet: SimulatedFleet, request: CreateRequest) -> None:
    """Raises `ApiError` for a name in use. Section 10 has the text of the 400, section 3.2 the 409."""
    if not fleet.config.unique_names or names_are_free(fleet, request.name, request.count):
        return
    if fleet.config.taken_name == "conflict":
        raise ApiError(409, f"Virtual machine with name {request.name} already exists.")
    raise ApiError(400, "This name is not available")


def _create_later(fleet: SimulatedFleet, call: ApiCall, request: CreateRequest, now: float) -> None:
    _create_vms(fleet, call, request, vm_names(fleet, request.name, request.count), now)


def _create_vms(
    fleet: SimulatedFleet, call: ApiCall, request: CreateRequest, names: list[str], now: float, *, early: bool = False
) -> tuple[list[SimulatedVm], str | None]:
    """The new VMs, fewer than `names` if a fault occurs, and why not all of them are on the contract."""
    if len(names) > 1 and fleet.rng.fires("partial", fleet.faults.partial, now):
        call.add_fault("partial")
        names = names[: fleet.rng.stream(f"partial/{call.number}").randint(1, len(names) - 1)]
    placed, reason = _assign_contract(fleet, request, len(names), now)
    vms = [_vm(fleet, call, request, name, now) for name in names]
    for index, vm in enumerate(vms):
        fleet.set_contract(vm, request.contract_id if index < placed else None, now)
        fleet.add(vm, now, at_once=early)
    call.created_vms.extend(vm.id for vm in vms)
    return vms, reason


def _assign_contract(fleet: SimulatedFleet, request: CreateRequest, count: int, now: float) -> tuple[int, str | None]:
    if request.contract_id is None:
        return 0, None
    today = fleet.calendar.at(now)
    some = fleet.config.partial_assignment
    placement = fleet.contracts.place(request.contract_id, request.flavor, count, at=now, today=today, some=some)
    return placement.placed, placement.reason


def _vm(fleet: SimulatedFleet, call: ApiCall, request: CreateRequest, name: str, now: float) -> SimulatedVm:
    vm_id = fleet.config.first_vm_id + len(fleet.vms)
    vm = SimulatedVm(
        id=vm_id,
        name=name,
        base_name=request.name,
        environment=request.environment,
        flavor=request.flavor,
        image=request.image,
        key_name=request.key_name,
        labels=list(request.labels),
        callback_url=request.callback_url,
        wants_address=request.assign_address,
        port_randomization=request.port_randomization,
        family=fleet.rng.stream(f"family/{vm_id}").choice(fleet.config.families),
        create_call=call.number,
        created_at=now,
        listed_from=now + fleet.rng.seconds("list_lag", fleet.faults.list_lag),
        contract_requested=request.contract_id,
        floating_ip_status="ATTACHING" if request.assign_address else NO_ADDRESS,
    )
    # fleet.add registers the VM too, but its id must be taken before the next VM is built.
    fleet.vms[vm_id] = vm
    defaults = DEFAULT_RULES if fleet.config.default_rules else ()
    for rule in (*defaults, *request.security_rules):
        vm.security_rules.append(new_rule(fleet, vm, dict(rule), now))
    return vm


def new_rule(fleet: SimulatedFleet, vm: SimulatedVm, rule: dict[str, Any], now: float) -> dict[str, Any]:
    """A rule that is pending now and SUCCESS a few seconds later (section 2.2)."""
    vm.next_rule += 1
    rule |= {
        "id": vm.id * 100 + vm.next_rule,
        "status": "pending",
        "created_at": fleet.calendar.text(now),
    }
    delay = fleet.rng.seconds(f"rule/{vm.id}", fleet.config.timing.security_rule)
    fleet.timeline.add(now + delay, lambda _: rule.update(status="SUCCESS"))
    return rule


def _reply(fleet: SimulatedFleet, vms: list[SimulatedVm], reason: str | None, now: float) -> HttpReply:
    instances = [instance(vm, fleet.config, fleet.calendar) for vm in vms]
    for item in instances:
        # Terraform issue 24: labels are empty in the answer of a create.
        if fleet.rng.fires("labels_emptied", fleet.faults.labels_emptied, now):
            item["labels"] = []
    if reason is None:
        return success("VM is scheduled for creation.", instances=instances)
    contract: str | list[str] = reason if fleet.config.contract_errors == "string" else [reason]
    return success("VM is scheduled for creation.", errors={"contract": contract}, instances=instances)

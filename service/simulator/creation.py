"""POST /core/virtual-machines: the work of a create, at once or late. What may spoil its answer is in misfortune.py."""

from collections.abc import Iterator
from typing import Any

from service.simulator import create_body
from service.simulator.create_body import Order
from service.simulator.exchange import Refusal, Reply, answer, done
from service.simulator.fleet import Fleet
from service.simulator.routes import Call
from service.simulator.vm import NO_ADDRESS, Vm, instance

LATE_ANSWERS = {
    "error": answer({"message": "Internal Server Error"}, status=500),
    "hang": Reply(status=0, fate="hang"),
    "cut": Reply(status=0, fate="lost"),
}


def create(fleet: Fleet, call: Call) -> Reply:
    """Make the VMs of one call, or promise to: infrahub-api.md sections 3.2 to 3.5.

    Everything that can be refused is refused before anything is made.
    """
    order = create_body.order(call.request.json(), fleet.config)
    _afford(fleet, order, call.now)
    names = list(_names(order, fleet))
    if fleet.dice.hit("late", fleet.faults.late, call.now):
        call.spoiled("late")
        after = fleet.dice.seconds("late_after", fleet.faults.late_after)
        fleet.timeline.add(call.now + after, lambda at: _make_late(fleet, call, order, at))
        return LATE_ANSWERS[fleet.faults.late_answer]
    early = fleet.dice.hit("early", fleet.faults.early, call.now)
    vms, reason = _make(fleet, call, order, names, call.now, early=early)
    reply = _answer(fleet, vms, reason, call.now)
    if not early:
        return reply
    call.spoiled("early")
    return Reply(status=reply.status, body=reply.body, headers=reply.headers, callbacks_first=True)


def free_names(fleet: Fleet, name: str, count: int) -> bool:
    """Whether a call for so many VMs of this name would not meet a name in use."""
    return not {vm.name for vm in fleet.vms.values() if vm.ended is None} & set(derived(fleet, name, count))


def derived(fleet: Fleet, name: str, count: int) -> list[str]:
    """The names of the VMs of one call: infrahub-api.md section 3.2."""
    if count == 1:
        return [name]
    return [fleet.config.name_pattern.format(name=name, i=number) for number in range(1, count + 1)]


def _afford(fleet: Fleet, order: Order, now: float) -> None:
    """Raises `Refusal` for money and stock, in the texts of section 3.6."""
    if fleet.dice.hit("no_balance", fleet.faults.no_balance, now):
        raise Refusal(400, "Insufficient balance to create the resource")
    gone = fleet.dice.hit("no_stock", fleet.faults.no_stock, now)
    if gone or fleet.stock.left(order.flavor, fleet.vms.values()) < order.count:
        model = order.flavor.gpu or order.flavor.name
        raise Refusal(400, f"Not Enough Stock of {model}. Unable to launch virtual-machines.")


def _names(order: Order, fleet: Fleet) -> Iterator[str]:
    if fleet.config.unique_names and not free_names(fleet, order.name, order.count):
        raise Refusal(409, f"Virtual machine with name {order.name} already exists.")
    yield from derived(fleet, order.name, order.count)


def _make_late(fleet: Fleet, call: Call, order: Order, now: float) -> None:
    _make(fleet, call, order, derived(fleet, order.name, order.count), now)


def _make(
    fleet: Fleet, call: Call, order: Order, names: list[str], now: float, *, early: bool = False
) -> tuple[list[Vm], str | None]:
    """The VMs made, fewer than `names` if the fault says so, and why they are not all on their contract."""
    if len(names) > 1 and fleet.dice.hit("partial", fleet.faults.partial, now):
        call.spoiled("partial")
        names = names[: fleet.dice.stream(f"partial/{call.number}").randint(1, len(names) - 1)]
    placed, reason = _place(fleet, order, len(names), now)
    vms = [_vm(fleet, call, order, name, now) for name in names]
    for index, vm in enumerate(vms):
        vm.contract_id = order.contract_id if index < placed else None
        fleet.born(vm, now, at_once=early)
    call.made.extend(vm.id for vm in vms)
    return vms, reason


def _place(fleet: Fleet, order: Order, count: int, now: float) -> tuple[int, str | None]:
    if order.contract_id is None:
        return 0, None
    today = fleet.calendar.at(now)
    some = fleet.config.partial_assignment
    placement = fleet.contracts.place(order.contract_id, order.flavor, count, at=now, today=today, some=some)
    return placement.placed, placement.reason


def _vm(fleet: Fleet, call: Call, order: Order, name: str, now: float) -> Vm:
    vm_id = fleet.config.first_vm_id + len(fleet.vms)
    vm = Vm(
        id=vm_id,
        name=name,
        environment=order.environment,
        flavor=order.flavor,
        image=order.image,
        key_name=order.key_name,
        labels=list(order.labels),
        callback_url=order.callback_url,
        wants_address=order.wants_address,
        port_randomization=order.port_randomization,
        family=fleet.dice.stream(f"family/{vm_id}").choice(fleet.config.families),
        create_call=call.number,
        created_at=now,
        listed_from=now + fleet.dice.seconds("list_lag", fleet.faults.list_lag),
        wanted_contract=order.contract_id,
        floating_ip_status="ATTACHING" if order.wants_address else NO_ADDRESS,
    )
    # fleet.born registers the VM, but its number has to be taken before the next one is drawn.
    fleet.vms[vm_id] = vm
    vm.security_rules = [new_rule(fleet, vm, dict(rule), now) for rule in order.security_rules]
    return vm


def new_rule(fleet: Fleet, vm: Vm, rule: dict[str, Any], now: float) -> dict[str, Any]:
    """A rule that is pending now and SUCCESS a little later (section 2.2)."""
    rule |= {
        "id": vm.id * 100 + len(vm.security_rules) + 1,
        "status": "pending",
        "created_at": fleet.calendar.text(now),
    }
    lasts = fleet.dice.seconds(f"rule/{vm.id}", fleet.config.timing.security_rule)
    fleet.timeline.add(now + lasts, lambda _: rule.update(status="SUCCESS"))
    return rule


def _answer(fleet: Fleet, vms: list[Vm], reason: str | None, now: float) -> Reply:
    instances = [instance(vm, fleet.config, fleet.calendar) for vm in vms]
    for shown in instances:
        # Terraform issue 24: labels come back empty after a create.
        if fleet.dice.hit("labels_emptied", fleet.faults.labels_emptied, now):
            shown["labels"] = []
    if reason is None:
        return done("VM is scheduled for creation.", instances=instances)
    contract: str | list[str] = reason if fleet.config.contract_errors == "string" else [reason]
    return done("VM is scheduled for creation.", errors={"contract": contract}, instances=instances)

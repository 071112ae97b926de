"""The calls about contracts: infrahub-api.md section 4, and one that only this simulator has."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from service.simulator.contracts import Account, shown
from service.simulator.exchange import Refusal, Reply, done
from service.simulator.fleet import Fleet
from service.simulator.listing import named
from service.simulator.routes import Call
from service.simulator.vm import Vm, instance
from service.simulator.vm_calls import found

FIRST_PAGE = 10


def list_contracts(fleet: Fleet, call: Call) -> Reply:
    """Pages are asked for with per_page here, and with pageSize everywhere else (section 4.1)."""
    contracts = [shown(account, fleet.config.org_id) for account in fleet.contracts.accounts.values()]
    part = _page(contracts, call.number_of("page"), call.number_of("per_page"))
    return done("Getting customer contracts list successful", contracts=part, count=len(contracts))


def get_contract(fleet: Fleet, call: Call) -> Reply:
    contract = shown(_account(fleet, call), fleet.config.org_id)
    return done("Getting customer contract detail successful", **{fleet.config.contract_key: contract})


def allocation_graph(fleet: Fleet, call: Call) -> Reply:
    """The contract's GPUs in use at the times when that changed, within the dates asked for."""
    account = _account(fleet, call)
    begin, end = _date(call, "start_date"), _date(call, "end_date")
    points = [
        {"datetime": fleet.calendar.text(at), "value": gpus}
        for at, gpus in account.allocated
        if (begin is None or begin <= fleet.calendar.at(at)) and (end is None or fleet.calendar.at(at) <= end)
    ]
    contract = {
        "id": str(account.id),
        "org_id": fleet.config.org_id,
        "status": account.status,
        "granularity": 1,
        "total_gpu_allocation": sum(line.resource_count for line in account.lines),
        "allocated_gpu_count_graph": points,
    }
    return done("Getting contract GPU allocation graph successful", contract=contract)


def contract_vms(fleet: Fleet, call: Call) -> Reply:
    """The VMs that are or were on the contract; neither count nor page comes back (section 4.1)."""
    account = _account(fleet, call)
    search = call.request.query.get("search", "")
    on_it = [vm for vm in fleet.vms.values() if vm.contract_id == account.id and vm.listed_from <= call.now]
    part = _page([vm for vm in on_it if named(vm, search)], call.number_of("page"), call.number_of("pageSize"))
    return done("Getting contract instances successful", instances=[_usage(fleet, vm, call.now) for vm in part])


def reassign(fleet: Fleet, call: Call) -> Reply:
    """PUT /_sim/virtual-machines/{id}/contract `{"contract_id": n}`: OURS, no such call is known of the provider.

    The seed page says that a VM's contract can be updated after its deployment, and no public page says how
    (section 4.2). This stands in for it: with API key, rate limit and faults, but on a path of its own.
    """
    vm = found(fleet, call)
    body = call.request.json()
    contract_id = body.get("contract_id") if isinstance(body, Mapping) else None
    if not isinstance(contract_id, int) or isinstance(contract_id, bool):
        raise Refusal(400, "contract_id must be an integer.")
    if contract_id not in fleet.contracts.accounts:
        raise Refusal(404, f"Contract with ID: {contract_id} not found.")
    if vm.contract_id != contract_id:
        _move(fleet, vm, contract_id, call.now)
    return done("VM contract updated successfully.", instance=instance(vm, fleet.config, fleet.calendar))


def _move(fleet: Fleet, vm: Vm, contract_id: int, now: float) -> None:
    """Take the new place before the old one is given up, so that a refusal changes nothing."""
    today = fleet.calendar.at(now)
    placement = fleet.contracts.place(contract_id, vm.flavor, 1, at=now, today=today, some=False)
    if placement.reason is not None:
        raise Refusal(400, placement.reason)
    fleet.leave_contract(vm, now)
    vm.contract_id = contract_id


def _account(fleet: Fleet, call: Call) -> Account:
    account = fleet.contracts.accounts.get(call.id())
    if account is None:
        raise Refusal(404, f"Contract with ID: {call.args['id']} not found.")
    return account


def _usage(fleet: Fleet, vm: Vm, now: float) -> dict[str, Any]:
    until = now if vm.deleted_at is None else vm.deleted_at
    return {
        "id": vm.id,
        "name": vm.name,
        "status": vm.status,
        "created_at": fleet.calendar.text(vm.created_at),
        "flavor_name": vm.flavor.name,
        "gpu_count": vm.flavor.gpu_count,
        "total_usage_time": int(until - vm.created_at),
        "termination_time": None if vm.deleted_at is None else fleet.calendar.text(vm.deleted_at),
        "cluster": None,
    }


def _page(items: list[Any], page: int | None, size: int | None) -> list[Any]:
    if page is None and size is None:
        return items
    size = size or FIRST_PAGE
    begin = ((page or 1) - 1) * size
    return items[begin : begin + size]


def _date(call: Call, parameter: str) -> datetime | None:
    text = call.request.query.get(parameter)
    if not text:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S")  # noqa: DTZ007 - UTC without a zone, as everywhere here
    except ValueError as error:
        raise Refusal(400, f"{parameter} should be formatted in YYYY-MM-DDTHH:MM:SS") from error

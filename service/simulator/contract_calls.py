"""Contract endpoints: infrahub-api.md section 4, and one that exists only in the simulator."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from service.simulator.contracts import ContractState, serialize
from service.simulator.fleet import SimulatedFleet
from service.simulator.http import ApiError, HttpReply, success
from service.simulator.listing import count, matches_search
from service.simulator.routes import ApiCall
from service.simulator.vm import SimulatedVm, instance
from service.simulator.vm_calls import get_visible_vm

FIRST_PAGE = 10


def list_contracts(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    """The page size parameter is per_page here and pageSize everywhere else (section 4.1)."""
    contracts = [serialize(contract, fleet.config.org_id) for contract in fleet.contracts.by_id.values()]
    part = _page(contracts, call.number_of("page"), call.number_of("per_page"))
    return success(
        "Getting customer contracts list successful",
        contracts=part,
        count=count(fleet, call, len(contracts), len(part)),
    )


def get_contract(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    contract = serialize(_contract(fleet, call), fleet.config.org_id)
    return success("Getting customer contract detail successful", **{fleet.config.contract_key: contract})


def allocation_graph(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    """The number of the contract's GPUs in use after each change, between the requested dates."""
    contract = _contract(fleet, call)
    begin, end = _date(call, "start_date"), _date(call, "end_date")
    points = [
        {"datetime": fleet.calendar.text(at), "value": gpus}
        for at, gpus in contract.allocated
        if (begin is None or begin <= fleet.calendar.at(at)) and (end is None or fleet.calendar.at(at) <= end)
    ]
    graph = {
        "id": str(contract.id),
        "org_id": fleet.config.org_id,
        "status": contract.status,
        "granularity": 1,
        "total_gpu_allocation": sum(line.resource_count for line in contract.lines),
        "allocated_gpu_count_graph": points,
    }
    return success("Getting contract GPU allocation graph successful", contract=graph)


def contract_vms(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    """The VMs that are or were on the contract. The answer has no count and no page (section 4.1)."""
    contract = _contract(fleet, call)
    search = call.request.query.get("search", "")
    assigned = [vm for vm in fleet.vms.values() if vm.contract_id == contract.id and vm.listed_from <= call.now]
    found = [vm for vm in assigned if matches_search(vm, search)]
    part = _page(found, call.number_of("page"), call.number_of("pageSize"))
    return success("Getting contract instances successful", instances=[_usage(fleet, vm, call.now) for vm in part])


def reassign(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    """PUT /_sim/virtual-machines/{id}/contract `{"contract_id": n}`: only in the simulator.

    The create page says that a VM's contract can be updated after deployment, but no public page says how (section
    4.2). This endpoint stands in for it, with API key, rate limit and faults, on a path of its own.
    """
    vm = get_visible_vm(fleet, call)
    body = call.request.json()
    contract_id = body.get("contract_id") if isinstance(body, Mapping) else None
    if not isinstance(contract_id, int) or isinstance(contract_id, bool):
        raise ApiError(400, "contract_id must be an integer.")
    if contract_id not in fleet.contracts.by_id:
        raise ApiError(404, f"Contract with ID: {contract_id} not found.")
    if vm.contract_id != contract_id:
        _move(fleet, vm, contract_id, call.now)
    return success("VM contract updated successfully.", instance=instance(vm, fleet.config, fleet.calendar))


def _move(fleet: SimulatedFleet, vm: SimulatedVm, contract_id: int, now: float) -> None:
    """Take capacity on the new contract before releasing the old one, so that a refusal changes nothing."""
    today = fleet.calendar.at(now)
    placement = fleet.contracts.place(contract_id, vm.flavor, 1, at=now, today=today, some=False)
    if placement.reason is not None:
        raise ApiError(400, placement.reason)
    fleet.leave_contract(vm, now)
    fleet.set_contract(vm, contract_id, now)


def _contract(fleet: SimulatedFleet, call: ApiCall) -> ContractState:
    contract = fleet.contracts.by_id.get(call.id())
    if contract is None:
        raise ApiError(404, f"Contract with ID: {call.args['id']} not found.")
    return contract


def _usage(fleet: SimulatedFleet, vm: SimulatedVm, now: float) -> dict[str, Any]:
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


def _date(call: ApiCall, parameter: str) -> datetime | None:
    text = call.request.query.get(parameter)
    if not text:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S")  # noqa: DTZ007 - the provider's dates are UTC without a zone
    except ValueError as error:
        raise ApiError(400, f"{parameter} should be formatted in YYYY-MM-DDTHH:MM:SS") from error

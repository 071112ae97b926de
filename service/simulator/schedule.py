"""Scheduled changes of contracts, stock and prices, and the expiry of contracts."""

from service.simulator.config import ContractChange, PriceChange, StockChange
from service.simulator.contracts import ContractState
from service.simulator.fleet import SimulatedFleet

# A VM that is still being created is deleted as soon as that is possible.
EXPIRY_RETRY_SECONDS = 30.0


def schedule_changes(fleet: SimulatedFleet) -> None:
    """Put all changes from the config on the timeline."""
    for contract_change in fleet.config.contract_changes:
        _schedule_contract_change(fleet, contract_change)
    for stock_change in fleet.config.stock_changes:
        _schedule_stock_change(fleet, stock_change)
    for price_change in fleet.config.price_changes:
        _schedule_price_change(fleet, price_change)
    for contract in fleet.contracts.by_id.values():
        _schedule_expiry(fleet, contract, 0.0)


def change_contract(fleet: SimulatedFleet, change: ContractChange, now: float) -> bool:
    """Change a contract; returns whether it exists."""
    known = fleet.contracts.change(change)
    if known and change.end_date is not None:
        _schedule_expiry(fleet, fleet.contracts.by_id[change.contract_id], now)
    return known


def _schedule_contract_change(fleet: SimulatedFleet, change: ContractChange) -> None:
    def due(at: float) -> None:
        change_contract(fleet, change, at)

    fleet.timeline.add(change.at, due)


def _schedule_stock_change(fleet: SimulatedFleet, change: StockChange) -> None:
    fleet.timeline.add(change.at, lambda _: fleet.stock.change(change.flavor, change.stock))


def _schedule_price_change(fleet: SimulatedFleet, change: PriceChange) -> None:
    fleet.timeline.add(change.at, lambda at: fleet.prices.change(change.resource, change.price, at))


def _schedule_expiry(fleet: SimulatedFleet, contract: ContractState, now: float) -> None:
    if contract.expiration_policy == 0:
        due = (contract.ends - fleet.calendar.at(0)).total_seconds()
        fleet.timeline.add(max(due, now), lambda at: _expire(fleet, contract, at))


def _expire(fleet: SimulatedFleet, contract: ContractState, now: float) -> None:
    """Delete the VMs of an expired contract (infrahub-api.md section 4.1), unless its end date has changed."""
    if contract.ends > fleet.calendar.at(now):
        return
    assigned = [vm for vm in fleet.vms.values() if vm.contract_id == contract.id and vm.ended is None]
    for vm in assigned:
        if vm.status not in {"CREATING", "BUILD", "DELETING"}:
            fleet.start(vm, "delete", now)
    if assigned:
        fleet.timeline.add(now + EXPIRY_RETRY_SECONDS, lambda at: _expire(fleet, contract, at))

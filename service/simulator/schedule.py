"""What happens to contracts and stock by themselves as time passes: the changes of the config, and expiry."""

from service.simulator.config import ContractChange, StockChange
from service.simulator.contracts import Account
from service.simulator.fleet import Fleet

# A VM that is still being made is deleted as soon as it can be.
EXPIRY_RETRY_SECONDS = 30.0


def arrange(fleet: Fleet) -> None:
    """Put everything that the config foresees on the timeline."""
    for contract_change in fleet.config.contract_changes:
        _contract_later(fleet, contract_change)
    for stock_change in fleet.config.stock_changes:
        _stock_later(fleet, stock_change)
    for account in fleet.contracts.accounts.values():
        _watch_end(fleet, account, 0.0)


def change_contract(fleet: Fleet, change: ContractChange, now: float) -> bool:
    """Make a contract different; whether there is such a contract."""
    known = fleet.contracts.change(change)
    if known and change.end_date is not None:
        _watch_end(fleet, fleet.contracts.accounts[change.contract_id], now)
    return known


def _contract_later(fleet: Fleet, change: ContractChange) -> None:
    def due(at: float) -> None:
        change_contract(fleet, change, at)

    fleet.timeline.add(change.at, due)


def _stock_later(fleet: Fleet, change: StockChange) -> None:
    fleet.timeline.add(change.at, lambda _: fleet.stock.change(change.flavor, change.stock))


def _watch_end(fleet: Fleet, account: Account, now: float) -> None:
    if account.expiration_policy == 0:
        due = (account.ends - fleet.calendar.at(0)).total_seconds()
        fleet.timeline.add(max(due, now), lambda at: _expire(fleet, account, at))


def _expire(fleet: Fleet, account: Account, now: float) -> None:
    """Delete what is on an expired contract (infrahub-api.md section 4.1), unless its end was moved meanwhile."""
    if account.ends > fleet.calendar.at(now):
        return
    on_it = [vm for vm in fleet.vms.values() if vm.contract_id == account.id and vm.ended is None]
    for vm in on_it:
        if vm.status not in {"CREATING", "BUILD", "DELETING"}:
            fleet.begin(vm, "delete", now)
    if on_it:
        fleet.timeline.add(now + EXPIRY_RETRY_SECONDS, lambda at: _expire(fleet, account, at))

"""What people see of money: the columns and totals of a cost report, and the lines about one VM. No calls, no printing."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from service.cli.output import Column, span, time_of


def columns(by: str) -> tuple[Column, ...]:
    """The columns of a report. Narrow, so that a row with the reference of a VM fits 80 columns."""
    return (
        Column("ref" if by == "vm" else by, lambda row: row["key"]),
        Column("VMs", lambda row: row["vms"]),
        Column("estimate", lambda row: _money(row["estimate"])),
        Column("off", lambda row: _money(row["off_contract_estimate"])),
        Column("unknown", _unknown),
    )


def total(report: Mapping[str, Any]) -> dict[str, object]:
    """The total of a report."""
    sums = report["total"]
    return {
        "since": time_of(report["since"]),
        "until": time_of(report["until"]),
        "VMs": sums["vms"],
        "estimate": _money(sums["estimate"]),
        "off contract": f"{_money(sums['off_contract_estimate'])} of it",
        "price unknown": _not_counted(sums),
    }


def vm(found: Mapping[str, Any], cost: Mapping[str, Any]) -> dict[str, object]:
    """The contract and the money of a VM, for whoever pays."""
    sums = cost["total"]
    off = float(sums["off_contract_seconds"]) + float(sums["off_contract_unknown_seconds"])
    return {
        "contract": _contract(found, cost),
        "costs now": _now(found, cost),
        "list price": _list_price(cost),
        "so far": f"{_money(sums['estimate'])} for {span(float(sums['billed_seconds']))} of billed time",
        "off contract": f"{_money(sums['off_contract_estimate'])} of it, for {span(off)} on demand" if off else None,
        "price unknown": _not_counted(sums),
    }


def _contract(found: Mapping[str, Any], cost: Mapping[str, Any]) -> str:
    wanted = found["contract_requested"]
    if wanted is None:
        return "none was requested: it runs on demand"
    if found["assignment"] == "assigned":
        return f"on contract {wanted}, {_terms(cost['discount'])}"
    if found["assignment"] == "wanted":
        return f"contract {wanted} was requested; the provider has not shown yet whether it is on it"
    on_it = cost["per_hour_on_contract"]
    instead = f"; on the contract it would cost {_money(on_it)} per hour" if on_it else ""
    return f"not on contract {wanted}, which was requested: it runs on demand{instead}"


def _terms(discount: Mapping[str, Any] | None) -> str:
    if discount is None or discount["value"] is None:
        return "whose discount is not known"
    value = f"{Decimal(discount['value']).normalize():f}"
    if discount["kind"] == "percent":
        return f"{value}% below the list price"
    return f"{value} per hour below the list price of each {discount['resource']}"


def _now(found: Mapping[str, Any], cost: Mapping[str, Any]) -> str:
    if cost["billed"] == "free":
        return f"nothing: {found['state']} is not billed"
    if cost["billed"] == "partial":
        return f"{found['state']} is billed for storage and address, at prices that are not known"
    return f"{_money(cost['per_hour'])} per hour" if cost["per_hour"] else "a price that is not known"


def _list_price(cost: Mapping[str, Any]) -> str:
    price = cost["price"]
    if price is None:
        return "not known"
    value = f"{Decimal(price['value']).normalize():f}"
    source = {"pricebook": "the provider's price book"}.get(price["source"], price["source"])
    return f"{value} per hour for each {price['resource']}, from {source}, read {time_of(price['read_at'])}"


def _money(amount: str) -> str:
    """An amount of the API in hundredths: `1,234.50`."""
    return f"{Decimal(amount):,.2f}"


def _unknown(row: Mapping[str, Any]) -> str | None:
    seconds = float(row["unknown_seconds"])
    return span(seconds) if seconds else None


def _not_counted(sums: Mapping[str, Any]) -> str | None:
    unknown = _unknown(sums)
    return f"{unknown} of VM time, in no estimate" if unknown else None

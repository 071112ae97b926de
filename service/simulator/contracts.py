"""The contracts of the customer: what is left on them, who is on them. It knows flavors, not calls.

infrahub-api.md sections 3.5 and 4.1. Only the first reason below is the provider's own text; the others are ours,
so that nobody can come to depend on them.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from service.simulator.config import Contract, ContractChange, Flavor


@dataclass(slots=True)
class Line:
    """One discount line: the GPUs of one model."""

    id: int
    resource_name: str
    resource_count: int
    remaining_count: int
    discount_percent: float


@dataclass(slots=True)
class Account:
    """A contract as it is now, and how many of its GPUs our VMs had at which second."""

    id: int
    description: str
    start_date: str
    end_date: str
    expiration_policy: int
    status: str
    lines: list[Line]
    allocated: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 0)])

    def line(self, gpu: str) -> Line | None:
        return next((line for line in self.lines if gpu and line.resource_name == gpu), None)

    def runs(self, today: datetime) -> bool:
        return self.status == "active" and _date(self.start_date) <= today <= self.ends

    @property
    def ends(self) -> datetime:
        """UTC, without a zone."""
        return _date(self.end_date)


@dataclass(frozen=True, slots=True)
class Placement:
    """How many of the VMs asked for are on the contract, and the reason why not all are."""

    placed: int
    reason: str | None = None


class Contracts:
    def __init__(self, contracts: Iterable[Contract]) -> None:
        numbers = itertools.count(5)
        self.accounts = {contract.id: _open(contract, numbers) for contract in contracts}

    def place(
        self, contract_id: int, flavor: Flavor, count: int, *, at: float, today: datetime, some: bool
    ) -> Placement:
        """Take capacity for `count` VMs: for all or none, or for as many as fit if `some`."""
        account = self.accounts.get(contract_id)
        if account is None:
            return Placement(0, f"Contract with ID: {contract_id} not found.")
        if not account.runs(today):
            return Placement(0, f"Contract with ID: {contract_id} is not usable.")
        line = account.line(flavor.gpu)
        if line is None:
            return Placement(0, f"Contract with ID: {contract_id} does not cover {flavor.gpu or 'this flavor'}.")
        fits = min(count, line.remaining_count // flavor.gpu_count)
        placed = fits if fits == count or some else 0
        _take(account, line, placed * flavor.gpu_count, at)
        if placed == count:
            return Placement(placed)
        return Placement(placed, f"Contract with ID: {contract_id} has insufficient GPU resources.")

    def release(self, contract_id: int, flavor: Flavor, *, at: float) -> None:
        """Give back what one VM had. A capacity that shrank meanwhile is not exceeded."""
        account = self.accounts.get(contract_id)
        line = account.line(flavor.gpu) if account else None
        if account is not None and line is not None:
            _take(account, line, -flavor.gpu_count, at)

    def change(self, change: ContractChange) -> bool:
        """Make a contract different; whether there is such a contract."""
        account = self.accounts.get(change.contract_id)
        if account is None:
            return False
        account.status = account.status if change.status is None else change.status
        account.end_date = account.end_date if change.end_date is None else change.end_date
        for line in account.lines:
            if change.resource_name in {None, line.resource_name}:
                _resize(line, change)
        return True


def _open(contract: Contract, ids: Iterator[int]) -> Account:
    lines = [
        Line(
            next(ids),
            discount.resource_name,
            discount.resource_count,
            discount.resource_count if discount.remaining_count is None else discount.remaining_count,
            discount.discount_percent,
        )
        for discount in contract.discounts
    ]
    return Account(
        contract.id,
        contract.description,
        contract.start_date,
        contract.end_date,
        contract.expiration_policy,
        contract.status,
        lines,
    )


def _take(account: Account, line: Line, gpus: int, at: float) -> None:
    line.remaining_count = min(line.remaining_count - gpus, line.resource_count)
    if gpus:
        account.allocated.append((at, max(account.allocated[-1][1] + gpus, 0)))


def _resize(line: Line, change: ContractChange) -> None:
    if change.resource_count is not None:
        line.remaining_count = max(line.remaining_count + change.resource_count - line.resource_count, 0)
        line.resource_count = change.resource_count
    if change.remaining_count is not None:
        line.remaining_count = change.remaining_count
        line.resource_count = max(line.resource_count, change.remaining_count)


def _date(text: str) -> datetime:
    return datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=None)


def shown(account: Account, org_id: int) -> Mapping[str, Any]:
    """The contract as the provider shows it: infrahub-api.md section 4.1."""
    return {
        "id": account.id,
        "org_id": org_id,
        "description": account.description,
        "status": account.status,
        "start_date": account.start_date,
        "end_date": account.end_date,
        "expiration_policy": account.expiration_policy,
        "discounts": [
            {
                "id": line.id,
                "resource_id": 12 + index,
                "resource_name": line.resource_name,
                "resource_count": line.resource_count,
                "remaining_count": line.remaining_count,
                "discount_type": "percent",
                "discount_percent": line.discount_percent,
                "discount_amount": None,
                "discount_code": None,
                "discount_status": "active",
            }
            for index, line in enumerate(account.lines)
        ],
        "created_at": account.start_date,
    }

"""Contracts: their remaining capacity and its use. infrahub-api.md sections 3.5 and 4.1.

Of the reasons for a failed assignment only "not found" is the provider's text; the others are invented, so clients must
not depend on them.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from service.simulator.config import ContractChange, ContractConfig, FlavorConfig


@dataclass(slots=True)
class ContractLine:
    """One discount line: the GPUs of one model."""

    id: int
    resource_name: str
    resource_count: int
    remaining_count: int
    discount_percent: float


@dataclass(slots=True)
class ContractState:
    """The current state of a contract. `allocated` is the number of its GPUs in use after each change."""

    id: int
    description: str
    start_date: str
    end_date: str
    expiration_policy: int
    status: str
    lines: list[ContractLine]
    allocated: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 0)])

    def line(self, gpu: str) -> ContractLine | None:
        return next((line for line in self.lines if gpu and line.resource_name == gpu), None)

    def is_usable(self, today: datetime) -> bool:
        return self.status == "active" and _date(self.start_date) <= today <= self.ends

    @property
    def ends(self) -> datetime:
        """UTC, without a zone."""
        return _date(self.end_date)


@dataclass(frozen=True, slots=True)
class Placement:
    """How many of the requested VMs are on the contract, and why not all of them."""

    placed: int
    reason: str | None = None


class Contracts:
    def __init__(self, contracts: Iterable[ContractConfig]) -> None:
        numbers = itertools.count(5)
        self.by_id = {contract.id: _open(contract, numbers) for contract in contracts}

    def place(
        self, contract_id: int, flavor: FlavorConfig, count: int, *, at: float, today: datetime, some: bool
    ) -> Placement:
        """Take capacity for `count` VMs: all or none, or as many as fit if `some`."""
        contract = self.by_id.get(contract_id)
        if contract is None:
            return Placement(0, f"Contract with ID: {contract_id} not found.")
        if not contract.is_usable(today):
            return Placement(0, f"Contract with ID: {contract_id} is not usable.")
        line = contract.line(flavor.gpu)
        if line is None:
            return Placement(0, f"Contract with ID: {contract_id} does not cover {flavor.gpu or 'this flavor'}.")
        fits = min(count, line.remaining_count // flavor.gpu_count)
        placed = fits if fits == count or some else 0
        _take(contract, line, placed * flavor.gpu_count, at)
        if placed == count:
            return Placement(placed)
        return Placement(placed, f"Contract with ID: {contract_id} has insufficient GPU resources.")

    def release(self, contract_id: int, flavor: FlavorConfig, *, at: float) -> None:
        """Release the capacity of one VM, up to the current size of the contract."""
        contract = self.by_id.get(contract_id)
        line = contract.line(flavor.gpu) if contract else None
        if contract is not None and line is not None:
            _take(contract, line, -flavor.gpu_count, at)

    def change(self, change: ContractChange) -> bool:
        """Change a contract; returns whether it exists."""
        contract = self.by_id.get(change.contract_id)
        if contract is None:
            return False
        contract.status = contract.status if change.status is None else change.status
        contract.end_date = contract.end_date if change.end_date is None else change.end_date
        for line in contract.lines:
            if change.resource_name in {None, line.resource_name}:
                _resize(line, change)
        return True


def _open(contract: ContractConfig, ids: Iterator[int]) -> ContractState:
    lines = [
        ContractLine(
            next(ids),
            discount.resource_name,
            discount.resource_count,
            discount.resource_count if discount.remaining_count is None else discount.remaining_count,
            discount.discount_percent,
        )
        for discount in contract.discounts
    ]
    return ContractState(
        contract.id,
        contract.description,
        contract.start_date,
        contract.end_date,
        contract.expiration_policy,
        contract.status,
        lines,
    )


def _take(contract: ContractState, line: ContractLine, gpus: int, at: float) -> None:
    line.remaining_count = min(line.remaining_count - gpus, line.resource_count)
    if gpus:
        contract.allocated.append((at, max(contract.allocated[-1][1] + gpus, 0)))


def _resize(line: ContractLine, change: ContractChange) -> None:
    if change.resource_count is not None:
        line.remaining_count = max(line.remaining_count + change.resource_count - line.resource_count, 0)
        line.resource_count = change.resource_count
    if change.remaining_count is not None:
        line.remaining_count = change.remaining_count
        line.resource_count = max(line.resource_count, change.remaining_count)


def _date(text: str) -> datetime:
    return datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=None)


def serialize(contract: ContractState, org_id: int) -> Mapping[str, Any]:
    """The contract in the provider's form: infrahub-api.md section 4.1."""
    return {
        "id": contract.id,
        "org_id": org_id,
        "description": contract.description,
        "status": contract.status,
        "start_date": contract.start_date,
        "end_date": contract.end_date,
        "expiration_policy": contract.expiration_policy,
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
            for index, line in enumerate(contract.lines)
        ],
        "created_at": contract.start_date,
    }

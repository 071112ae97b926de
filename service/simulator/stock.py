"""Available hardware: the stock of each flavor, minus the VMs that exist."""

from collections.abc import Iterable
from typing import Any

from service.simulator.config import FlavorConfig
from service.simulator.vm import SimulatedVm

UNLIMITED = 10_000


class StockLevels:
    def __init__(self, flavors: Iterable[FlavorConfig]) -> None:
        self._flavors = {flavor.name: flavor for flavor in flavors}
        self._limits = {flavor.name: flavor.stock for flavor in self._flavors.values()}

    def change(self, flavor: str, stock: int | None) -> None:
        self._limits[flavor] = stock

    def available(self, flavor: FlavorConfig, vms: Iterable[SimulatedVm]) -> int:
        """How many more VMs of the flavor fit."""
        limit = self._limits[flavor.name]
        if limit is None:
            return UNLIMITED
        return max(limit - sum(1 for vm in vms if vm.flavor == flavor and vm.ended is None), 0)

    def report(self, vms: Iterable[SimulatedVm], *, phantom: bool) -> list[dict[str, Any]]:
        """The stock of each region as in GET /core/stocks. `phantom` reports 10+ whatever the stock."""
        existing = list(vms)
        free: dict[str, dict[str, int]] = {}
        for flavor in self._flavors.values():
            if flavor.gpu:
                models = free.setdefault(flavor.region, {})
                gpus = 10 if phantom else self.available(flavor, existing) * flavor.gpu_count
                models[flavor.gpu] = max(models.get(flavor.gpu, 0), gpus)
        return [
            {"region": region, "stock-type": "GPU", "models": [_model(name, gpus) for name, gpus in models.items()]}
            for region, models in free.items()
        ]


def _model(name: str, gpus: int) -> dict[str, Any]:
    return {
        "model": name,
        "available": available_text(gpus),
        "planned_7_days": "0",
        "planned_30_days": "0",
        "planned_100_days": "0",
        "configurations": {f"{size}x": min(gpus // size, 200) for size in (1, 2, 4, 8, 10)},
    }


def available_text(gpus: int) -> str:
    """A count in the provider's notation: "0".."9", "10+" and so on (infrahub-api.md section 5.5)."""
    return next((f"{floor}+" for floor in (200, 100, 25, 10) if gpus >= floor), str(gpus))

"""The price book: what each GPU model costs per hour, and each flavor without a GPU, and what it has cost before."""

from collections.abc import Iterable

from service.simulator.config import FlavorConfig


class PriceBook:
    """`history` has each resource's prices with the simulated second from which each holds, the first from 0."""

    def __init__(self, flavors: Iterable[FlavorConfig]) -> None:
        self.history: dict[str, list[tuple[float, float]]] = {
            flavor.gpu or flavor.name: [(0.0, flavor.price)] for flavor in flavors
        }

    def current(self) -> dict[str, float]:
        return {name: prices[-1][1] for name, prices in self.history.items()}

    def change(self, resource: str, price: float, at: float) -> None:
        self.history[resource].append((at, price))

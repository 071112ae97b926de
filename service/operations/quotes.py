"""The price of a VM before it is made, from the prices on record. Unknown prices are None, never 0."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from service.core.money import ContractDiscount, ListPrice, Resource, currency_of, quote
from service.runtime.runtime import Runtime
from service.storage import prices
from service.storage.engine import begin


@dataclass(frozen=True, slots=True)
class Quotes:
    """The prices and discounts that hold at a moment."""

    prices: list[ListPrice]
    discounts: list[ContractDiscount]
    at: datetime

    @property
    def currency(self) -> str:
        return currency_of(self.prices)

    def price(self, vm: Resource) -> Decimal | None:
        """What a VM costs per hour, on its contract if it has one."""
        return quote(vm, self.prices, self.discounts, at=self.at, currency=self.currency).per_hour

    def per_hour(self, vm: Resource) -> str | None:
        """The same as text."""
        found = self.price(vm)
        return None if found is None else f"{found.normalize():f}"


async def read_quotes(rt: Runtime) -> Quotes:
    """The latest prices on record."""
    async with begin(rt.engine) as conn:
        return Quotes(await prices.latest_prices(conn), await prices.latest_discounts(conn), rt.clock.now())

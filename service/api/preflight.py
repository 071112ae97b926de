"""What is checked before a submission is accepted, and what `dry_run` shows of it. Nothing is kept here."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from service.api.catalogue import CatalogueCache
from service.api.reads import ProviderReads
from service.core.catalogue import Advice, prefixed
from service.core.forecast import ContractForecast, ContractReading, contract_advice, forecast
from service.core.hardware import Hardware
from service.core.lifetime import late_expiry
from service.core.limits import check_alternative, check_planned, planned
from service.core.money import Resource
from service.core.submission import SubmissionRequest
from service.errors import FieldError
from service.operations.quotes import Quotes, read_quotes
from service.provider.answers import Stock
from service.runtime.runtime import Runtime
from service.storage import contract_queue
from service.storage.engine import begin


@dataclass(frozen=True, slots=True)
class StockLevel:
    """The GPUs of a model that a region says it has; `more` where it says "10+". A create call may fail all the same."""

    gpu_model: str
    region: str | None
    gpus: int
    more: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """What the VMs are made from: the submission's flavor and environment, and what is known about them now."""

    flavor_name: str
    environment_name: str
    region: str | None
    gpu_model: str | None
    gpu_count: int | None
    stock: StockLevel | None
    contract: ContractForecast | None
    price_per_hour: str | None  #: of a VM, on its contract if it has one
    currency: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found out about a request."""

    advice: Advice
    choices: Sequence[Choice]


class Preflight:
    """Checks requests against the provider's catalogue, contracts and stock."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self.catalogue = CatalogueCache(rt)
        self.reads = ProviderReads(rt)

    async def check(self, request: SubmissionRequest, *, stock: bool = False) -> Findings:
        """Errors and warnings about a request, and what is known about its choices; `stock` is read if wanted."""
        quotes = await read_quotes(self._rt)
        found = [await self._choice(request, number, quotes, stock=stock) for number in request.choices]
        late = late_expiry(request.policy, self._rt.clock.now())
        advice = [prefixed(one, number) for number, (one, _) in enumerate(found)]
        return Findings(
            Advice(
                [*late, *(error for one in advice for error in one.field_errors)],
                list(dict.fromkeys(text for one in advice for text in one.warnings)),
                [one.hardware[0] for one in advice],
            ),
            [choice for _, choice in found],
        )

    async def _choice(
        self, request: SubmissionRequest, number: int, quotes: Quotes, *, stock: bool
    ) -> tuple[Advice, Choice]:
        chosen = request.choice(number)
        advice = await self.catalogue.advise(chosen)
        hardware = advice.hardware[0]
        found = None
        if chosen.contract_id is not None:
            found = await self._contract(chosen, chosen.contract_id, hardware)
        about = contract_advice(chosen, found, hardware)
        level = await self._stock(hardware) if stock else None
        vm = Resource(chosen.flavor_name, hardware.gpu_model, hardware.gpu_count, chosen.contract_id)
        too_much, expected = self._spending(request, quotes, vm, alternative=number > 0)
        if number > 0:
            limit = request.policy.alternatives[number - 1].max_price_per_hour
            too_much = [*too_much, *check_alternative(limit, quotes.price(vm), quotes.currency)]
        errors = [*advice.field_errors, *about.field_errors, *too_much]
        warnings = [*advice.warnings, *about.warnings, *expected]
        return Advice(errors, warnings, advice.hardware), _choice(chosen, hardware, level, found, quotes)

    def _spending(
        self, request: SubmissionRequest, quotes: Quotes, vm: Resource, *, alternative: bool
    ) -> tuple[list[FieldError], list[str]]:
        policy, lifetime = request.policy, request.policy.lifetime
        if policy.expires_at is not None:
            lifetime = max(0.0, (policy.expires_at - self._rt.clock.now()).total_seconds())
        usage = planned(request.count, quotes.price(vm), lifetime)
        return check_planned(policy, usage, quotes.currency, alternative=alternative)

    async def close(self) -> None:
        await self.catalogue.close()
        await self.reads.close()

    async def _contract(
        self, request: SubmissionRequest, contract_id: int, hardware: Hardware
    ) -> ContractForecast | None:
        reading = await self.reads.get(
            f"contract {contract_id}", "check contract", partial(self._rt.client.contract, contract_id)
        )
        if reading is None:
            return None
        async with begin(self._rt.engine) as conn:
            promised = await contract_queue.promised_gpus(conn, contract_id)
        return forecast(request, ContractReading(reading.value, promised), hardware, self._rt.clock.now())

    async def _stock(self, hardware: Hardware) -> StockLevel | None:
        reading = await self.reads.get("stock", "stock", self._rt.client.stocks)
        if reading is None:
            return None
        return next((_level(one) for one in reading.value or () if _is_of(one, hardware)), None)


def _is_of(stock: Stock, hardware: Hardware) -> bool:
    return stock.gpu_model == hardware.gpu_model and stock.region == hardware.region


def _level(stock: Stock) -> StockLevel:
    return StockLevel(stock.gpu_model, stock.region, stock.available, stock.more)


def _choice(
    request: SubmissionRequest,
    hardware: Hardware,
    stock: StockLevel | None,
    contract: ContractForecast | None,
    quotes: Quotes,
) -> Choice:
    vm = Resource(
        flavor=request.flavor_name,
        gpu_model=hardware.gpu_model,
        gpu_count=hardware.gpu_count,
        contract_id=request.contract_id,
    )
    return Choice(
        flavor_name=request.flavor_name,
        environment_name=request.environment_name,
        region=hardware.region,
        gpu_model=hardware.gpu_model,
        gpu_count=hardware.gpu_count,
        stock=stock,
        contract=contract,
        price_per_hour=quotes.per_hour(vm),
        currency=quotes.currency,
    )

"""Handlers that show what the provider offers: flavors, images, environments, keys, contracts and stock, read when asked."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar

from aiohttp import web

from service.api import query
from service.api.context import PREFLIGHT, page, runtime
from service.api.preflight import StockLevel
from service.api.reads import ProviderReads
from service.core.catalogue import has_words
from service.core.forecast import CoveredGpus, covered
from service.core.money import Resource
from service.core.observation import Flavor
from service.errors import TryLater
from service.operations.paging import all_pages
from service.operations.quotes import Quotes, read_quotes
from service.provider.answers import Listed, Stock

Item = TypeVar("Item")

_PAGE: Final = 100
_MOST_PAGES: Final = 20


@dataclass(frozen=True, slots=True)
class FlavorOffer:
    """A flavor in a region, and whether the provider says that it has any. `price_per_hour` is of a whole VM."""

    name: str
    region: str | None
    gpu_model: str | None
    gpu_count: int
    in_stock: bool | None
    price_per_hour: str | None
    currency: str


@dataclass(frozen=True, slots=True)
class ImageOffer:
    name: str
    region: str | None


@dataclass(frozen=True, slots=True)
class EnvironmentOffer:
    """An environment and its region."""

    name: str
    region: str | None


@dataclass(frozen=True, slots=True)
class KeyOffer:
    """An SSH keypair and its environment."""

    name: str
    environment: str | None


@dataclass(frozen=True, slots=True)
class ContractOffer:
    """A contract, what it covers, and what is left of it."""

    contract_id: int
    description: str
    status: str | None
    start_date: datetime | None
    end_date: datetime | None
    covers: list[CoveredGpus]


async def flavors(request: web.Request) -> web.Response:
    wanted = query.read(query.FlavorOfferQuery, request)
    found = await _read(request, "flavors", "flavors", runtime(request).client.flavors)
    quotes = await read_quotes(runtime(request))
    return _page(
        _flavor(one, quotes)
        for one in found
        if has_words(one.name, wanted.name)
        and _is(one.region, wanted.region)
        and has_words(one.gpu_model or "", wanted.gpu)
        and wanted.in_stock in {None, one.stock_available}
    )


def _flavor(one: Flavor, quotes: Quotes) -> FlavorOffer:
    vm = Resource(flavor=one.name, gpu_model=one.gpu_model, gpu_count=one.gpu_count)
    price = quotes.per_hour(vm)
    return FlavorOffer(one.name, one.region, one.gpu_model, one.gpu_count, one.stock_available, price, quotes.currency)


async def images(request: web.Request) -> web.Response:
    wanted = query.read(query.RegionOfferQuery, request)
    found = await _read(request, "images", "images", runtime(request).client.images)
    return _page(ImageOffer(*one) for one in _named(found, wanted))


async def environments(request: web.Request) -> web.Response:
    wanted = query.read(query.RegionOfferQuery, request)
    client = runtime(request).client
    found = await _read_pages(request, "environments", lambda no: client.environments(page=no, page_size=_PAGE))
    return _page(EnvironmentOffer(*one) for one in _named(found, wanted))


async def keys(request: web.Request) -> web.Response:
    wanted = query.read(query.KeyOfferQuery, request)
    client = runtime(request).client
    found = await _read_pages(request, "keypairs", lambda no: client.keypairs(page=no, page_size=_PAGE))
    return _page(
        KeyOffer(*one) for one in found if has_words(one.name, wanted.name) and _is(one.where, wanted.environment)
    )


async def contracts(request: web.Request) -> web.Response:
    wanted = query.read(query.ContractOfferQuery, request)
    client = runtime(request).client
    found = await _read_pages(request, "contracts", lambda no: client.contracts(page=no, per_page=_PAGE))
    offers = [
        ContractOffer(one.contract_id, one.description, one.status, one.start_date, one.end_date, covered(one))
        for one in found
    ]
    return _page(one for one in offers if wanted.gpu is None or _covers(one, wanted.gpu))


async def stock(request: web.Request) -> web.Response:
    wanted = query.read(query.StockQuery, request)
    found: Sequence[Stock] = await _read(request, "stock", "stock", runtime(request).client.stocks)
    return _page(
        StockLevel(one.gpu_model, one.region, one.available, one.more)
        for one in found
        if _is(one.region, wanted.region) and has_words(one.gpu_model, wanted.gpu)
    )


async def _read(
    request: web.Request, key: str, label: str, make: Callable[[], Awaitable[Sequence[Item]]]
) -> list[Item]:
    """A list of the provider's. Raises `TryLater` if it cannot be read now."""
    reads: ProviderReads = request.app[PREFLIGHT].reads
    reading = await reads.get(key, label, make)
    if reading is None:
        raise TryLater(f"the provider's {label} cannot be read now; try again")
    return list(reading.value or ())


async def _read_pages(request: web.Request, label: str, make: Callable[[int], Awaitable[Sequence[Item]]]) -> list[Item]:
    async def read(number: int) -> list[Item]:
        return await _read(request, f"{label} {number}", label, partial(make, number))

    return await all_pages(read, key=repr, size=_PAGE, most=_MOST_PAGES) or []


def _page(items: Iterable[Any]) -> web.Response:
    return page(list(items), None)


def _named(found: Iterable[Listed], wanted: query.RegionOfferQuery) -> list[Listed]:
    return [one for one in found if has_words(one.name, wanted.name) and _is(one.where, wanted.region)]


def _is(value: str | None, wanted: str | None) -> bool:
    return wanted is None or (value or "").casefold() == wanted.casefold()


def _covers(contract: ContractOffer, gpu: str) -> bool:
    return any(has_words(line.gpu_model or "", gpu) for line in contract.covers)

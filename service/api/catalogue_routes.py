"""The routes of the provider's catalogue."""

from typing import Final

from service.api import offers, query
from service.api.route import Route
from service.core.api_token import Role

CATALOGUE_ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/catalogue/flavors",
        role=Role.READ,
        handler=offers.flavors,
        summary="List the provider's flavors",
        query=query.FlavorOfferQuery,
        answers={200: "FlavorOffer[]"},
        fails=(422, 502),
    ),
    Route(
        method="GET",
        path="/v1/catalogue/images",
        role=Role.READ,
        handler=offers.images,
        summary="List the provider's images",
        query=query.RegionOfferQuery,
        answers={200: "ImageOffer[]"},
        fails=(422, 502),
    ),
    Route(
        method="GET",
        path="/v1/catalogue/environments",
        role=Role.READ,
        handler=offers.environments,
        summary="List the account's environments",
        query=query.RegionOfferQuery,
        answers={200: "EnvironmentOffer[]"},
        fails=(422, 502),
    ),
    Route(
        method="GET",
        path="/v1/catalogue/keys",
        role=Role.READ,
        handler=offers.keys,
        summary="List the account's SSH keypairs",
        query=query.KeyOfferQuery,
        answers={200: "KeyOffer[]"},
        fails=(422, 502),
    ),
    Route(
        method="GET",
        path="/v1/catalogue/contracts",
        role=Role.READ,
        handler=offers.contracts,
        summary="List the account's contracts, what they cover and what is left",
        query=query.ContractOfferQuery,
        answers={200: "ContractOffer[]"},
        fails=(422, 502),
    ),
    Route(
        method="GET",
        path="/v1/catalogue/stock",
        role=Role.READ,
        handler=offers.stock,
        summary="List the GPUs that each region says it has",
        query=query.StockQuery,
        answers={200: "StockLevel[]"},
        fails=(422, 502),
    ),
)

"""The catalogue: flavors, images, environments, keypairs, regions, stock, prices, protocols."""

from collections.abc import Sequence
from typing import Any

from service.simulator.config import FlavorConfig
from service.simulator.create_body import PROTOCOLS
from service.simulator.fleet import SimulatedFleet
from service.simulator.http import HttpReply, json_reply, success
from service.simulator.keypairs import all_keypairs, import_keypair, serialize
from service.simulator.listing import count
from service.simulator.routes import ApiCall
from service.simulator.vm import flavor_features

FEATURES = {"network_optimised": False, "green_status": "GREEN"}


def flavors(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    region = call.request.query.get("region")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number, flavor in enumerate(fleet.config.flavors, start=106):
        if region in {None, "", flavor.region}:
            groups.setdefault((flavor.gpu, flavor.region), []).append(_flavor(fleet, flavor, number))
    data = [{"gpu": gpu, "region_name": name, "flavors": group} for (gpu, name), group in groups.items()]
    return success("Getting flavors successful", data=data)


def images(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    names = [name for name in _regions(fleet) if call.request.query.get("region") in {None, "", name}]
    groups = [
        {"region_name": region, "type": "Ubuntu", "logo": "", "images": _images(fleet, region)}
        for region in names
        if fleet.config.images
    ]
    return success("Getting images successful", images=groups)


def environments(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    items = [
        {"id": number, "name": one.name, "region": one.region, "features": FEATURES, "created_at": _start(fleet)}
        for number, one in enumerate(fleet.config.environments, start=668)
    ]
    return _paged(fleet, call, "Getting environments successful", "environments", items)


def keypairs(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    items = [serialize(fleet, keypair) for keypair in all_keypairs(fleet)]
    return _paged(fleet, call, "Getting keypairs successful", "keypairs", items)


def post_keypair(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    """POST /core/keypairs: infrahub-api.md section 10."""
    keypair = import_keypair(fleet, call.request.json(), call.now)
    return success("Keypair is imported successfully", keypair=serialize(fleet, keypair))


def protocols(_fleet: SimulatedFleet, _call: ApiCall) -> HttpReply:
    return success("Getting firewall rule protocols successful", protocols=list(PROTOCOLS))


def regions(fleet: SimulatedFleet, _call: ApiCall) -> HttpReply:
    items = [
        {"id": number, "name": name, "description": name, "country": "", "green_status": "GREEN", "features": {}}
        for number, name in enumerate(_regions(fleet), start=1)
    ]
    return success("Getting regions successful", regions=items)


def stocks(fleet: SimulatedFleet, _call: ApiCall) -> HttpReply:
    """Without `status` and `message`: infrahub-api.md section 5.5."""
    return json_reply({"stocks": fleet.stock.report(fleet.vms.values(), phantom=fleet.faults.phantom_stock)})


def pricebook(fleet: SimulatedFleet, _call: ApiCall) -> HttpReply:
    """A bare list: the hourly price of each GPU model, and of each flavor without a GPU."""
    return json_reply(
        [
            {
                "id": number,
                "name": name,
                "value": _price(fleet, name, price),
                "original_value": _price(fleet, name, price),
                "discount_applied": False,
                "start_time": None,
                "end_time": None,
            }
            for number, (name, price) in enumerate(fleet.prices.current().items(), start=1)
        ]
    )


def _price(fleet: SimulatedFleet, name: str, price: float) -> float | str:
    """Seen in production: strings, sometimes in scientific notation (sections 6 and 10)."""
    notation = fleet.config.price_format
    if notation == "mixed":
        notation = fleet.rng.stream(f"price/{name}").choice(("decimal", "scientific"))
    if notation == "scientific":
        return f"{price:E}"
    return f"{price:.9f}" if notation == "decimal" else price


def _flavor(fleet: SimulatedFleet, flavor: FlavorConfig, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "name": flavor.name,
        "display_name": None,
        "region_name": flavor.region,
        "cpu": flavor.cpu,
        "ram": flavor.ram,
        "disk": flavor.disk,
        "ephemeral": flavor.ephemeral,
        "gpu": flavor.gpu,
        "gpu_count": flavor.gpu_count,
        "stock_available": fleet.faults.phantom_stock or fleet.stock.available(flavor, fleet.vms.values()) > 0,
        "created_at": _start(fleet),
        "labels": [],
        "features": flavor_features(flavor, fleet.config),
    }


def _images(fleet: SimulatedFleet, region: str) -> list[dict[str, Any]]:
    return [_image(number, name, region) for number, name in enumerate(fleet.config.images, start=1)]


def _image(number: int, name: str, region: str) -> dict[str, Any]:
    return {
        "id": number,
        "name": name,
        "region_name": region,
        "type": "Ubuntu",
        "version": name,
        "size": 0,
        "display_size": "0 B",
        "description": name,
        "labels": [],
        "is_public": True,
    }


def _regions(fleet: SimulatedFleet) -> list[str]:
    regions = [environment.region for environment in fleet.config.environments]
    return list(dict.fromkeys(regions + [flavor.region for flavor in fleet.config.flavors]))


def _start(fleet: SimulatedFleet) -> str:
    return fleet.calendar.text(0)


def _paged(fleet: SimulatedFleet, call: ApiCall, message: str, key: str, items: Sequence[dict[str, Any]]) -> HttpReply:
    search = call.request.query.get("search", "").lower()
    found = [item for item in items if search in item["name"].lower()]
    page, size = call.number_of("page"), call.number_of("pageSize")
    begin = ((page or 1) - 1) * (size or len(found))
    part = found if size is None else found[begin : begin + size]
    return success(message, page=page, page_size=size, count=count(fleet, call, len(found), len(part)), **{key: part})

"""What the cloud has on offer: flavors, images, environments, keypairs, regions, stock, prices, protocols. Reads only."""

from collections.abc import Sequence
from typing import Any

from service.simulator.config import Flavor
from service.simulator.create_body import PROTOCOLS
from service.simulator.exchange import Reply, answer, done
from service.simulator.fleet import Fleet
from service.simulator.routes import Call

FEATURES = {"network_optimised": False, "green_status": "GREEN"}


def flavors(fleet: Fleet, call: Call) -> Reply:
    region = call.request.query.get("region")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number, flavor in enumerate(fleet.config.flavors, start=106):
        if region in {None, "", flavor.region}:
            groups.setdefault((flavor.gpu, flavor.region), []).append(_flavor(fleet, flavor, number))
    data = [{"gpu": gpu, "region_name": name, "flavors": group} for (gpu, name), group in groups.items()]
    return done("Getting flavors successful", data=data)


def images(fleet: Fleet, call: Call) -> Reply:
    regions = [name for name in _regions(fleet) if call.request.query.get("region") in {None, "", name}]
    shown = [
        {"region_name": region, "type": "Ubuntu", "logo": "", "images": [_image(*item, region) for item in items]}
        for region in regions
        if (items := list(enumerate(fleet.config.images, start=1)))
    ]
    return done("Getting images successful", images=shown)


def environments(fleet: Fleet, call: Call) -> Reply:
    shown = [
        {"id": number, "name": one.name, "region": one.region, "features": FEATURES, "created_at": _then(fleet)}
        for number, one in enumerate(fleet.config.environments, start=668)
    ]
    return _paged(call, "Getting environments successful", "environments", shown)


def keypairs(fleet: Fleet, call: Call) -> Reply:
    first = fleet.config.environments[0]
    where = {"id": 668, "name": first.name, "region": first.region, "features": FEATURES, "created_at": _then(fleet)}
    shown = [
        {
            "id": number,
            "name": name,
            "environment": where,
            "public_key": f"ssh-ed25519 AAAA {name}",
            "fingerprint": f"{number:02x}:00:00:00",
            "created_at": _then(fleet),
        }
        for number, name in enumerate(fleet.config.keypairs, start=1)
    ]
    return _paged(call, "Getting keypairs successful", "keypairs", shown)


def protocols(_fleet: Fleet, _call: Call) -> Reply:
    return done("Getting firewall rule protocols successful", protocols=list(PROTOCOLS))


def regions(fleet: Fleet, _call: Call) -> Reply:
    shown = [
        {"id": number, "name": name, "description": name, "country": "", "green_status": "GREEN", "features": {}}
        for number, name in enumerate(_regions(fleet), start=1)
    ]
    return done("Getting regions successful", regions=shown)


def stocks(fleet: Fleet, _call: Call) -> Reply:
    """Neither status nor message here: infrahub-api.md section 5.5."""
    return answer({"stocks": fleet.stock.shown(fleet.vms.values(), phantom=fleet.faults.phantom_stock)})


def pricebook(fleet: Fleet, _call: Call) -> Reply:
    """A bare list: the hourly price of each GPU model, and of each flavor without one."""
    prices = {flavor.gpu or flavor.name: flavor.price for flavor in fleet.config.flavors}
    as_text = fleet.config.prices_as_text
    return answer(
        [
            {
                "id": number,
                "name": name,
                # Seen in production: strings, sometimes in scientific notation (section 6).
                "value": f"{price:E}" if as_text else price,
                "original_value": str(price) if as_text else price,
                "discount_applied": False,
                "start_time": None,
                "end_time": None,
            }
            for number, (name, price) in enumerate(prices.items(), start=1)
        ]
    )


def _flavor(fleet: Fleet, flavor: Flavor, number: int) -> dict[str, Any]:
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
        "stock_available": fleet.faults.phantom_stock or fleet.stock.left(flavor, fleet.vms.values()) > 0,
        "created_at": _then(fleet),
        "labels": [],
        "features": {"no_hibernation": flavor.no_hibernation},
    }


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


def _regions(fleet: Fleet) -> list[str]:
    offered = [environment.region for environment in fleet.config.environments]
    return list(dict.fromkeys(offered + [flavor.region for flavor in fleet.config.flavors]))


def _then(fleet: Fleet) -> str:
    return fleet.calendar.text(0)


def _paged(call: Call, message: str, key: str, items: Sequence[dict[str, Any]]) -> Reply:
    search = call.request.query.get("search", "").lower()
    found = [item for item in items if search in item["name"].lower()]
    page, size = call.number_of("page"), call.number_of("pageSize")
    begin = ((page or 1) - 1) * (size or len(found))
    part = found if size is None else found[begin : begin + size]
    return done(message, page=page, page_size=size, count=len(found), **{key: part})

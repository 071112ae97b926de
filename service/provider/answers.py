"""Parses successful answers: one function for each kind.

Each takes the decoded body, of any shape, and returns None if it holds no such answer. None of them raises. List items
without a readable id are left out; a page of VMs counts them, so that no VM counts as absent because of it. In the answer
to a create call such an item makes the whole unreadable, because it is a VM that we must not lose.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple

from msgspec import structs

from service.core import observation as seen
from service.core import storable
from service.provider import tolerant
from service.provider.tolerant import (
    decimal,
    flag,
    mapping,
    mappings,
    moment,
    name,
    positive,
    small,
    small_positive,
    text,
    texts,
    whole,
)

#: Characters of a name that is part of a key: an index takes no more than 2,700 bytes.
_LONGEST_KEY: Final = 200


class Listed(NamedTuple):
    """An item of the catalogue, and the region of an image or environment, or the environment of a keypair."""

    name: str
    where: str | None


class Stock(NamedTuple):
    """How many GPUs of a model a region has, or at least that many (`more`). A create call may fail all the same."""

    region: str | None
    gpu_model: str
    available: int
    more: bool


class NameAvailability(NamedTuple):
    """Whether a name is free, and what the provider says about it."""

    available: bool
    message: str


def done(document: Any) -> Literal[True] | None:
    """Success without a value."""
    return True if isinstance(document, dict) else None


def created(document: Any) -> seen.CreateAnswer | None:
    """The answer to a create call. None if it has no VM, or one without an id: then they must be looked up."""
    items = mapping(document).get("instances") or ()
    known = tuple(found for found in map(_observation, mappings(items)) if found is not None)
    if not known or len(known) != len(items):
        return None
    return seen.CreateAnswer(
        vms=known,
        message=text(document.get("message")) or "",
        contract_errors=_contract_errors(document.get("errors")),
        raw=document,
    )


def vm(document: Any) -> seen.Observation | None:
    return _observation(mapping(mapping(document).get("instance")))


def vm_page(document: Any) -> seen.VmPage | None:
    """A page of VMs; also those of a contract."""
    items = next((value for value in [mapping(document).get("instances")] if isinstance(value, list)), None)
    if items is None:
        return None
    vms = tuple(found for found in map(_observation, map(mapping, items)) if found is not None)
    return seen.VmPage(
        vms=vms,
        unreadable=len(items) - len(vms),
        count=whole(document.get("count")),
        page=whole(document.get("page")),
        page_size=whole(document.get("page_size")),
    )


def contract_vms(document: Any, *, contract_id: int) -> seen.VmPage | None:
    """The same as `vm_page`. The items do not name their contract, so it is filled in."""
    page = vm_page(document)
    if page is None:
        return None
    on_contract = tuple(structs.replace(item, contract_id=contract_id) for item in page.vms)
    return dataclasses.replace(page, vms=on_contract)


def history(document: Any) -> tuple[seen.HistoryEntry, ...] | None:
    """A VM's events, in the order in which they came. The old docs' name of the list is read too (section 5.3)."""
    items = _list(document, "instance_events", "virtual_machine_events")
    return None if items is None else tuple(map(history_entry, items))


def contract(document: Any) -> seen.Contract | None:
    """One contract, under either of the names that the docs give it (section 4.1)."""
    body = mapping(document)
    for key in ("contract", "contracts"):
        found = body.get(key)
        item = found[0] if isinstance(found, list) and len(found) == 1 else found
        if (read := _contract(mapping(item))) is not None:
            return read
    return None


def contracts(document: Any) -> tuple[seen.Contract, ...] | None:
    items = _list(document, "contracts")
    return None if items is None else tuple(found for found in map(_contract, items) if found is not None)


def prices(document: Any) -> tuple[seen.Price, ...] | None:
    """The price book, whose body is a bare list; lines without a name or a price are left out."""
    items = mappings(document) if isinstance(document, list) else _list(document, "pricebook", "data")
    return None if items is None else tuple(found for found in map(_price, items) if found is not None)


def flavors(document: Any) -> tuple[seen.Flavor, ...] | None:
    """Every flavor; the provider groups them by region and GPU model."""
    groups = _list(document, "data")
    if groups is None:
        return None
    every = (_flavor(item, group) for group in groups for item in mappings(group.get("flavors")))
    return tuple(found for found in every if found is not None)


def images(document: Any) -> tuple[Listed, ...] | None:
    """Every image and its region; the provider groups them by region and type."""
    groups = _list(document, "images")
    if groups is None:
        return None
    every = [
        _listed(item, item.get("region_name") or group.get("region_name"))
        for group in groups
        for item in mappings(group.get("images"))
    ]
    return tuple(found for found in every if found is not None)


def environments(document: Any) -> tuple[Listed, ...] | None:
    return _catalogue(document, "environments", lambda item: item.get("region"))


def keypairs(document: Any) -> tuple[Listed, ...] | None:
    return _catalogue(document, "keypairs", lambda item: item.get("environment"))


def protocols(document: Any) -> tuple[str, ...] | None:
    found = mapping(document).get("protocols")
    return tolerant.names(found) if isinstance(found, list) else None


def stocks(document: Any) -> tuple[Stock, ...] | None:
    """The stock of each region and GPU model; lines without a model or a number are left out."""
    regions = _list(document, "stocks")
    if regions is None:
        return None
    every = (_stock(name(region.get("region")), line) for region in regions for line in mappings(region.get("models")))
    return tuple(found for found in every if found is not None)


def name_availability(document: Any) -> NameAvailability | None:
    body = mapping(document)
    available = flag(body.get("available"))
    return None if available is None else NameAvailability(available, text(body.get("message")) or "")


def _list(document: Any, *keys: str) -> list[Mapping[str, Any]] | None:
    body = mapping(document)
    return next((mappings(body[key]) for key in keys if isinstance(body.get(key), list)), None)


def _observation(item: Mapping[str, Any]) -> seen.Observation | None:
    provider_id = positive(item.get("id"))
    if provider_id is None:
        return None
    environment, flavor = mapping(item.get("environment")), mapping(item.get("flavor"))
    status = item.get("status")
    return seen.Observation(
        provider_id=provider_id,
        name=text(item.get("name")),
        status=(text(status) or "").upper() or None if isinstance(status, str) else None,
        power_state=text(item.get("power_state")),
        vm_state=text(item.get("vm_state")),
        environment=name(item.get("environment")),
        region=name(environment.get("region")),
        flavor=name(item.get("flavor")) or text(item.get("flavor_name")),
        gpu_model=text(flavor.get("gpu")),
        gpu_count=small(flavor.get("gpu_count") if flavor else item.get("gpu_count")),
        fixed_ip=text(item.get("fixed_ip")),
        floating_ip=text(item.get("floating_ip")),
        floating_ip_status=text(item.get("floating_ip_status")),
        callback_url=text(item.get("callback_url")),
        labels=tolerant.names(item.get("labels")),
        contract_id=small_positive(item.get("contract_id")),
        locked=flag(item.get("locked")) or False,
        created_at=moment(item.get("created_at")),
        raw=item,
    )


def _contract_errors(found: Any) -> tuple[str, ...]:
    # The only known example has one text; the page speaks of "reasons" (section 3.5).
    return texts(found.get("contract")) if isinstance(found, dict) else texts(found)


def history_entry(item: Mapping[str, Any]) -> seen.HistoryEntry:
    """One entry of a VM's events history, even if parts are missing."""
    return seen.HistoryEntry(
        at=moment(item.get("time")),
        reason=text(item.get("reason")) or "",
        message=text(item.get("message")) or "",
        kind=text(item.get("type")) or "",
        raw=item,
    )


def _contract(item: Mapping[str, Any]) -> seen.Contract | None:
    contract_id = positive(item.get("id"))
    if contract_id is None:
        return None
    return seen.Contract(
        contract_id=contract_id,
        description=text(item.get("description")) or "",
        status=text(item.get("status")),
        start_date=moment(item.get("start_date")),
        end_date=moment(item.get("end_date")),
        expiration_policy=whole(item.get("expiration_policy")),
        discounts=tuple(map(_discount, mappings(item.get("discounts")))),
        raw=item,
    )


def _discount(item: Mapping[str, Any]) -> seen.Discount:
    return seen.Discount(
        resource_name=storable.text(
            text(item.get("resource_name")) or name(item.get("resource")), longest=_LONGEST_KEY
        ),
        resource_count=whole(item.get("resource_count")),
        remaining_count=whole(item.get("remaining_count")),
        status=text(item.get("discount_status")),
        discount_type=text(item.get("discount_type")),
        percent=decimal(item.get("discount_percent")),
        amount=decimal(item.get("discount_amount")),
    )


def _price(item: Mapping[str, Any]) -> seen.Price | None:
    named, value = storable.text(text(item.get("name")), longest=_LONGEST_KEY), decimal(item.get("value"))
    if named is None or value is None or value < 0:
        return None
    currency = storable.text(text(item.get("currency")), longest=_LONGEST_KEY)
    return seen.Price(name=named, value=value, currency=currency and currency.upper(), raw=item)


def _flavor(item: Mapping[str, Any], group: Mapping[str, Any]) -> seen.Flavor | None:
    named = text(item.get("name"))
    if named is None:
        return None
    return seen.Flavor(
        name=named,
        region=name(item.get("region_name")) or name(group.get("region_name")),
        gpu_model=text(item.get("gpu")) or text(group.get("gpu")),
        gpu_count=whole(item.get("gpu_count")) or 0,
        stock_available=flag(item.get("stock_available")),
    )


def _catalogue(document: Any, key: str, where: Callable[[Mapping[str, Any]], Any]) -> tuple[Listed, ...] | None:
    items = _list(document, key)
    if items is None:
        return None
    return tuple(found for item in items if (found := _listed(item, where(item))) is not None)


def _listed(item: Mapping[str, Any], where: Any) -> Listed | None:
    named = text(item.get("name"))
    return None if named is None else Listed(named, name(where))


def _stock(region: str | None, line: Mapping[str, Any]) -> Stock | None:
    # "0" to "9", then "10+", "25+", "100+", "200+": infrahub-api.md section 5.5.
    model, said = text(line.get("model")), re.fullmatch(r"([0-9]{1,9})(\+?)", text(line.get("available")) or "")
    return None if model is None or said is None else Stock(region, model, int(said[1]), said[2] == "+")

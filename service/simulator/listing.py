"""Lists of VMs, and everything that is strange about them: infrahub-api.md section 5.1."""

from collections.abc import Mapping
from typing import Any

from service.simulator.exchange import Reply, done
from service.simulator.fleet import Fleet
from service.simulator.routes import Call
from service.simulator.vm import Vm, instance

FIRST_PAGE = 10


def list_vms(fleet: Fleet, call: Call) -> Reply:
    """GET /core/virtual-machines: oldest first, as far as the list knows them already."""
    query = call.request.query
    found = [vm for vm in listed(fleet, call.now) if _wanted(vm, query)]
    page, size = _page(fleet, call)
    part = _cut(fleet, call, found, page, size)
    shown = [_shown(fleet, vm, call.now) for vm in part]
    if fleet.dice.hit("url_omitted", fleet.faults.url_omitted, call.now):
        call.spoiled("url_omitted")
        for item in shown:
            del item["callback_url"]
    count = len(found) if fleet.config.count_means == "total" else len(part)
    return done("Getting VMs successful", page=page, page_size=size, count=count, instances=shown)


def listed(fleet: Fleet, now: float) -> list[Vm]:
    """The VMs that a list can show now."""
    visible_for = fleet.config.deleted_visible
    return [vm for vm in fleet.vms.values() if vm.listed_from <= now and vm.there(now, visible_for=visible_for)]


def named(vm: Vm, search: str) -> bool:
    """A search finds a part of the name in any case, or the id."""
    return search.lower() in vm.name.lower() or search == str(vm.id)


def _wanted(vm: Vm, query: Mapping[str, str]) -> bool:
    if not named(vm, query.get("search", "")):
        return False
    environment = query.get("environment", "")
    if query.get("exact_environment_match", "").lower() == "true":
        return vm.environment.name == environment
    return environment.lower() in vm.environment.name.lower()


def _page(fleet: Fleet, call: Call) -> tuple[int | None, int | None]:
    page, size = call.number_of("page"), call.number_of("pageSize")
    if page is None and size is None and fleet.config.unpaged == "all":
        return None, None
    return page or 1, min(size or FIRST_PAGE, fleet.config.max_page_size)


def _cut(fleet: Fleet, call: Call, found: list[Vm], page: int | None, size: int | None) -> list[Vm]:
    if page is None or size is None:
        return found
    begin = (page - 1) * size
    if page > 1 and fleet.dice.hit("shifted_page", fleet.faults.shifted_page, call.now):
        # What a VM deleted or made between two pages does to the second one.
        call.spoiled("shifted_page")
        begin += fleet.dice.stream(f"shift/{call.number}").choice((-1, 1))
    return found[begin : begin + size]


def _shown(fleet: Fleet, vm: Vm, now: float) -> dict[str, Any]:
    shown = instance(vm, fleet.config, fleet.calendar)
    if fleet.dice.hit("labels_emptied", fleet.faults.labels_emptied, now):
        shown["labels"] = []
    return shown

"""GET /core/virtual-machines and its faults: infrahub-api.md section 5.1."""

from collections.abc import Mapping
from typing import Any

from service.simulator.fleet import SimulatedFleet
from service.simulator.http import HttpReply, success
from service.simulator.routes import ApiCall
from service.simulator.vm import SimulatedVm, instance

FIRST_PAGE = 10


def list_vms(fleet: SimulatedFleet, call: ApiCall) -> HttpReply:
    """The visible VMs, oldest first."""
    query = call.request.query
    found = [vm for vm in listed(fleet, call.now) if _matches(vm, query)]
    page, size = _page(fleet, call)
    part = _slice(fleet, call, found, page, size)
    items = [_serialize(fleet, vm, call.now) for vm in part]
    if fleet.rng.fires("url_omitted", fleet.faults.url_omitted, call.now):
        call.add_fault("url_omitted")
        for item in items:
            del item["callback_url"]
    return success(
        "Getting VMs successful",
        page=page,
        page_size=size,
        count=count(fleet, call, len(found), len(part)),
        instances=items,
    )


def count(fleet: SimulatedFleet, call: ApiCall, total: int, on_page: int) -> int:
    """The `count` of a list: sections 8.5 and 10."""
    meaning = fleet.config.count_means
    if meaning == "mixed":
        meaning = fleet.rng.stream(f"count/{call.number}").choice(("total", "page"))
    return total if meaning == "total" else on_page


def listed(fleet: SimulatedFleet, now: float) -> list[SimulatedVm]:
    """The VMs that a list includes now."""
    visible_for = fleet.config.deleted_visible
    return [vm for vm in fleet.vms.values() if vm.listed_from <= now and vm.is_visible(now, visible_for=visible_for)]


def matches_search(vm: SimulatedVm, search: str) -> bool:
    """Whether the search is part of the name, in any case, or the id."""
    return search.lower() in vm.name.lower() or search == str(vm.id)


def _matches(vm: SimulatedVm, query: Mapping[str, str]) -> bool:
    if not matches_search(vm, query.get("search", "")):
        return False
    environment = query.get("environment", "")
    if query.get("exact_environment_match", "").lower() == "true":
        return vm.environment.name == environment
    return environment.lower() in vm.environment.name.lower()


def _page(fleet: SimulatedFleet, call: ApiCall) -> tuple[int | None, int | None]:
    page, size = call.number_of("page"), call.number_of("pageSize")
    if page is None and size is None and fleet.config.unpaged == "all":
        return None, None
    return page or 1, min(size or FIRST_PAGE, fleet.config.max_page_size)


def _slice(
    fleet: SimulatedFleet, call: ApiCall, found: list[SimulatedVm], page: int | None, size: int | None
) -> list[SimulatedVm]:
    if page is None or size is None:
        return found
    begin = (page - 1) * size
    if page > 1 and fleet.rng.fires("shifted_page", fleet.faults.shifted_page, call.now):
        # As if a VM had been created or deleted between two pages.
        call.add_fault("shifted_page")
        begin += fleet.rng.stream(f"shift/{call.number}").choice((-1, 1))
    return found[begin : begin + size]


def _serialize(fleet: SimulatedFleet, vm: SimulatedVm, now: float) -> dict[str, Any]:
    item = instance(vm, fleet.config, fleet.calendar)
    if fleet.rng.fires("labels_emptied", fleet.faults.labels_emptied, now):
        item["labels"] = []
    return item

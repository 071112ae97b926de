"""Reads the provider's whole list of VMs, page by page, as one observation of the fleet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from service.core.observation import Observation, VmPage
from service.operations.provider_calls import CallResult, call_provider
from service.runtime.runtime import Runtime

PAGE_SIZE = 100
_MAX_PAGES = 2000
#: A list waits for two windows of the budget at most.
_WAIT_SECONDS = 5.0
_MOST_WAITS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetListing:
    """What a list showed. `at` is when it began, `call_id` its first call.

    `complete` says that the pages were read to their end and that nothing moved between them, as far as can be
    told; only then does being absent from it mean something. `count` is documented neither as the total nor as
    the page's (infrahub-api.md section 5.1), so a list ends with a page that brings nothing new.
    """

    at: datetime
    call_id: UUID
    vms: Mapping[int, Observation]
    complete: bool
    whole: bool  # not narrowed by a search


async def read(rt: Runtime, *, search: str | None = None) -> FleetListing | None:
    """Read the list, or the part of it whose names contain `search`; None where the budget or the provider fails us.

    A list that breaks off is no list: absence could not be told from not having been read. So one that has begun
    waits a while for the budget of its next page, where all that was read so far would be thrown away.
    """
    at, first_call = rt.clock.now(), None
    found: dict[int, Observation] = {}
    pages: list[VmPage] = []
    for page_no in range(1, _MAX_PAGES + 1):
        page = await _page(rt, page_no, search)
        if page is None:
            return None
        first_call, (answer, _) = first_call or page[1], page
        new = [vm for vm in answer.vms if vm.provider_id not in found]
        found |= {vm.provider_id: vm for vm in new}
        pages.append(answer)
        if not new or _is_last(answer, len(found)):
            break
    assert first_call is not None  # noqa: S101  one page at least was read
    return FleetListing(
        at=at, call_id=first_call, vms=found, complete=_adds_up(pages, len(found)), whole=search is None
    )


async def _page(rt: Runtime, page_no: int, search: str | None) -> tuple[VmPage, UUID] | None:
    asked = await _ask(rt, page_no, search)
    for _ in range(_MOST_WAITS if page_no > 1 else 0):
        if asked is not None:
            break
        await rt.clock.sleep(_WAIT_SECONDS)
        asked = await _ask(rt, page_no, search)
    return (asked.value_or_raise(), asked.call.call_id) if asked is not None and asked.error is None else None


async def _ask(rt: Runtime, page_no: int, search: str | None) -> CallResult[VmPage] | None:
    """One page; None where the budget has no room for it now."""
    return await call_provider(
        rt, "read", "list", lambda: rt.client.list_vms(page=page_no, page_size=PAGE_SIZE, search=search)
    )


def _is_last(page: VmPage, found: int) -> bool:
    # A server that ignores paging sends everything at once; one that caps the page size says which it used.
    size = page.page_size or PAGE_SIZE
    items = len(page.vms) + page.unreadable
    return items < size and (page.count is None or found >= page.count or page.count == items)


def _adds_up(pages: Sequence[VmPage], found: int) -> bool:
    # Where `count` is the total, every page says the number that was found. Where it is each page's own, or is not
    # said, nothing tells whether VMs came or went between two pages; who acts on absence looks a second time.
    if any(page.unreadable for page in pages):
        return False
    counts = {page.count for page in pages}
    return counts in ({found}, {None}) or all(page.count == len(page.vms) for page in pages)

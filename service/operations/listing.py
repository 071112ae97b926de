"""Reads the provider's list of VMs, page by page, each page with its own time."""

from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from msgspec.structs import replace

from service.core.lifecycle import EvidenceKind
from service.core.observation import Observation, VmPage
from service.core.ownership import Tags
from service.core.vm import Provenance
from service.operations.provider_calls import CallResult, call_provider
from service.runtime.cpu import paced
from service.runtime.runtime import Runtime

PAGE_SIZE = 100
_MAX_PAGES = 2000
#: A list waits at most two windows of the rate limit.
_WAIT_SECONDS = 5.0
_MOST_WAITS = 25


@dataclass(frozen=True, slots=True)
class _Page:
    """The numbers that the provider gave with a page, and how many VMs it had."""

    count: int | None
    page_size: int | None
    vms: int
    unreadable: int


@dataclass(frozen=True, slots=True)
class PageCall:
    """The call that read a page."""

    at: datetime
    call_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetListing:
    """The VMs of a list by provider id. `at` is when its first call began, `call_id` that call.

    `complete`: the last page was read, and as far as we can tell no VM moved between pages; only then does an absence
    mean anything. `count` may be the total or that of the page (infrahub-api.md section 5.1), so a list ends with a
    page without new VMs.
    """

    at: datetime
    call_id: UUID
    vms: MutableMapping[int, Observation]
    pages: Mapping[int, PageCall]  # by provider id: the page that showed it
    tags: Tags  # of `vms`
    complete: bool
    certain: bool
    whole: bool  # not narrowed by a search

    def provenance_of(self, provider_id: int | None, now: datetime) -> Provenance:
        """The evidence about a VM: the call of its page, or for an absent VM the first call of the list."""
        page = self.pages.get(provider_id or 0)
        at, call_id = (page.at, page.call_id) if page else (self.at, self.call_id)
        return Provenance(kind=EvidenceKind.OBSERVATION, at=at, now=now, id=call_id)


async def read(rt: Runtime, *, search: str | None = None) -> FleetListing | None:
    """Read the list, or the part whose names contain `search`. None if the rate limit or the provider does not allow it.

    A list that breaks off is useless, so between pages it waits a while for the rate limit.
    """
    first: PageCall | None = None
    found: dict[int, Observation] = {}
    page_of: dict[int, PageCall] = {}
    pages: list[_Page] = []
    for page_no in range(1, _MAX_PAGES + 1):
        result = await _page(rt, page_no, search)
        if result is None:
            return None
        answer, call = result.value_or_raise(), PageCall(result.call.begun_at, result.call.call_id)
        first = first or call
        # Without the raw answers: those of a large fleet are millions of objects for the garbage collector.
        new = [replace(vm, raw={}) for vm in answer.vms if vm.provider_id not in found]
        found |= {vm.provider_id: vm for vm in new}
        page_of |= dict.fromkeys((vm.provider_id for vm in new), call)
        pages.append(_Page(answer.count, answer.page_size, len(answer.vms), answer.unreadable))
        if not new or _is_last(pages[-1], len(found)):
            break
    assert first is not None  # noqa: S101  one page at least was read
    return FleetListing(
        at=first.at,
        call_id=first.call_id,
        vms=found,
        pages=page_of,
        tags=await tags_of(rt, found),
        complete=_adds_up(pages, len(found)),
        certain=_adds_up(pages, len(found)) and (len(pages) == 1 or pages[0].count == len(found)),
        whole=search is None,
    )


@asynccontextmanager
async def reading(rt: Runtime) -> AsyncIterator[FleetListing | None]:
    """The whole list, as `read`, for as long as the block lasts. Then it is emptied.

    To free 100,000 VMs at once would hold the event loop for tens of milliseconds.
    """
    seen = await read(rt)
    try:
        yield seen
    finally:
        if seen is not None:
            seen.tags.clear()
            async for provider_id in paced(list(seen.vms)):
                del seen.vms[provider_id]


async def tags_of(rt: Runtime, found: Mapping[int, Observation]) -> Tags:
    """The VMs, indexed by their ownership tags."""
    tags = Tags(rt.callback_secrets)
    async for one in paced(found.values()):
        tags.add(one)
    return tags


async def _page(rt: Runtime, page_no: int, search: str | None) -> CallResult[VmPage] | None:
    result = await _call(rt, page_no, search)
    for _ in range(_MOST_WAITS if page_no > 1 else 0):
        if result is not None:
            break
        await rt.clock.sleep(_WAIT_SECONDS)
        result = await _call(rt, page_no, search)
    return result if result is not None and result.error is None else None


async def _call(rt: Runtime, page_no: int, search: str | None) -> CallResult[VmPage] | None:
    """Read one page; None if the rate limit has no room for it now."""
    rt.page_asked_at = rt.clock.now()
    try:
        return await _read_page(rt, page_no, search)
    finally:
        rt.page_asked_at = None


async def _read_page(rt: Runtime, page_no: int, search: str | None) -> CallResult[VmPage] | None:
    return await call_provider(
        rt, "read", "list", lambda: rt.client.list_vms(page=page_no, page_size=PAGE_SIZE, search=search)
    )


def _is_last(page: _Page, found: int) -> bool:
    # A server that ignores paging sends everything at once; one that caps the page size says which it used.
    size = page.page_size or PAGE_SIZE
    items = page.vms + page.unreadable
    return items < size and (page.count is None or found >= page.count or page.count == items)


def _adds_up(pages: Sequence[_Page], found: int) -> bool:
    if any(page.unreadable for page in pages):
        return False
    # If `count` is the total, it equals the number that was found. If not, nothing tells whether VMs moved between pages,
    # so callers that act on an absence read the list twice.
    counts = {page.count for page in pages}
    return counts in ({found}, {None}) or all(page.count == page.vms for page in pages)

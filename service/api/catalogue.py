"""A cache of the provider's catalogue. Its calls are rate-limited and recorded, and no request waits long for them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from service.core.catalogue import Advice, Catalogue, Offer, advise
from service.core.observation import Flavor
from service.core.submission import SubmissionRequest
from service.operations.provider_calls import call_provider, credentials_rejected
from service.provider.answers import Listed
from service.runtime.runtime import Runtime

#: How long the cache is fresh; and how long if something was missing from it, which may be new.
_FRESH: Final = timedelta(minutes=5)
_RECENT: Final = timedelta(seconds=20)
#: Seconds that a request waits for the catalogue. It is only advice: the provider says the same later.
_TIMEOUT: Final = 5.0
_PAGE: Final = 100
_MOST_PAGES: Final = 20


class CatalogueCache:
    """The catalogue of one daemon."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._known = Catalogue()
        self._read_at: datetime | None = None
        self._reading: asyncio.Task[None] | None = None

    async def advise(self, request: SubmissionRequest) -> Advice:
        """Errors and warnings about a request. An old catalogue is read again before anything is refused because of it."""
        await self._refresh(_FRESH)
        advice = advise(request, self._known)
        if advice.field_errors or advice.warnings:
            await self._refresh(_RECENT)
            advice = advise(request, self._known)
        return advice

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _refresh(self, age: timedelta) -> None:
        if self._read_at is not None and self._rt.clock.now() < self._read_at + age:
            return
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        # Not cancelled after the timeout: what comes too late for this request serves the next one.
        await asyncio.wait({self._reading}, timeout=_TIMEOUT)
        if self._reading.done():
            self._reading.result()

    async def _read(self) -> None:
        # With a rejected key there is nothing to learn; the create job tries it again by itself.
        if not credentials_rejected(self._rt):
            client = self._rt.client
            flavors, images, environments, keypairs = await asyncio.gather(
                self._part("flavors", lambda _: client.flavors()),
                self._part("images", lambda _: client.images()),
                self._part("environments", lambda page: client.environments(page=page, page_size=_PAGE)),
                self._part("keypairs", lambda page: client.keypairs(page=page, page_size=_PAGE)),
            )
            self._known = Catalogue(flavors=flavors, images=images, environments=environments, keypairs=keypairs)
        self._read_at = self._rt.clock.now()

    async def _part(self, label: str, make: Callable[[int], Awaitable[Sequence[Flavor | Listed]]]) -> list[Offer]:
        """One list of the catalogue, complete; empty if any page of it could not be read."""
        found: dict[Offer, None] = {}
        for page in range(1, _MOST_PAGES + 1):
            result = await call_provider(self._rt, "read", label, partial(make, page))
            if result is None or result.value is None:
                return []
            new = [offer for offer in map(_offer, result.value) if offer not in found]
            found |= dict.fromkeys(new)
            # A list without paging returns the same on each page, and a short page is the last.
            if not new or len(result.value) < _PAGE:
                return list(found)
        return []


def _offer(one: Flavor | Listed) -> Offer:
    if isinstance(one, Listed):
        return Offer(one.name, one.where)
    return Offer(one.name, one.region, one.gpu_model, one.gpu_count)

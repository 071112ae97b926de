"""Search over VMs, submissions, transitions, events, calls and actions: one list, newest first, in keyset pages.

What selects VMs (an address, a name, a provider's id, a label, a caller) is looked up first, by indexes; then each kind reads what
belongs to these, newest first, as much as a page needs. A page is merged from the kinds; its cursor is a row's time, kind and key,
so that what is written meanwhile shifts nothing.
"""

import heapq
from collections.abc import Mapping
from dataclasses import fields
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import FieldError, Invalid
from service.queries import search_kinds
from service.queries.search_scope import KINDS, Kind, SearchFilter, SearchPlace, SearchResult, select_scope

#: What only some kinds have. A kind that lacks one of the given filters has nothing to show.
_ONLY: Final[Mapping[str, tuple[Kind, ...]]] = {
    "state": ("vm", "submission", "transition"),
    "operation": ("call", "action"),
    "status_code": ("call",),
    "dead_letter": ("event",),
    "text": ("event",),
}


async def page(
    conn: AsyncConnection, which: SearchFilter, *, after: SearchPlace | None, limit: int
) -> list[SearchResult]:
    """A page of what is found, newest first. Raises `Invalid` if a filter selects too much, or does not go with the kind."""
    kinds = _kinds(which)
    scope = await select_scope(conn, which)
    found = await search_kinds.read(conn, kinds, which, scope, after, limit)
    merged = heapq.merge(*found, key=lambda one: (-one.at.timestamp(), KINDS.index(one.kind)))
    return list(merged)[:limit]


def _kinds(which: SearchFilter) -> list[Kind]:
    given = [one.name for one in fields(which) if getattr(which, one.name) is not None and one.name in _ONLY]
    kinds = [kind for kind in KINDS if which.kind in {None, kind} and all(kind in _ONLY[name] for name in given)]
    if not kinds:
        raise Invalid([FieldError(name, f"goes only with kind {', '.join(_ONLY[name])}") for name in given])
    return kinds

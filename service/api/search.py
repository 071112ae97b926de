"""Handler of the search, and its query."""

import base64
import binascii
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, Literal, Self
from uuid import UUID

import orjson
from aiohttp import web
from msgspec.structs import asdict
from pydantic import Field, model_validator

from service.api import past, query, refs
from service.api.context import first, page, reading
from service.api.cursors import micros, moment
from service.core.create_body import wrong
from service.errors import FieldError, Invalid
from service.queries import search
from service.queries.search_scope import KINDS, SearchFilter, SearchPlace, SearchResult

_TEXT: Final[dict[str, Any]] = {"default": None, "pattern": r"^[^\x00]+$", "max_length": 200}


class SearchQuery(query.TimeRangeQuery):
    """What to look for; all that is given must hold."""

    kind: Literal["vm", "submission", "transition", "event", "call", "action"] | None = Field(
        default=None, description="only rows of this kind"
    )
    submission_id: UUID | None = Field(default=None, description="only of this submission")
    vm: str | None = Field(**_TEXT, description="only of this VM: the provider's id, SUBMISSION.N, or its name")
    provider_id: int | None = Field(
        default=None, ge=1, lt=2**63, description="only of VMs with this id at the provider"
    )
    name: str | None = Field(**_TEXT, description="only of the VM or the submission with this name")
    label: str | None = Field(**_TEXT, description="only of submissions with this label")
    address: str | None = Field(**_TEXT, description="only of VMs with this address, public or private")
    caller: str | None = Field(**_TEXT, description="only what this caller requested, or did")
    state: str | None = Field(**_TEXT, description="VMs and submissions in this state, and transitions to it")
    operation: str | None = Field(**_TEXT, description="calls of this operation, and actions of this kind")
    status_code: int | None = Field(
        default=None, ge=100, le=599, description="calls that were answered with this status"
    )
    dead_letter: Literal["unreadable", "unknown_vm", "failed", "any"] | None = Field(
        default=None, description="events that are dead letters, for this reason"
    )
    text: str | None = Field(
        **_TEXT, description="events with this in their bodies; needs submission_id, vm, provider_id or since"
    )
    cursor: str | None = Field(default=None, max_length=1000, description="`next` of the page before")

    @model_validator(mode="after")
    def _text_within_bounds(self) -> Self:
        if self.text is not None and not (self.submission_id or self.vm or self.provider_id or self.since):
            raise wrong("text needs submission_id, vm, provider_id or since: no index has the bodies of all events")
        return self

    @property
    def digest(self) -> str:
        """Which search a cursor belongs to."""
        return sha256(self.model_dump_json(exclude={"cursor", "limit"}).encode()).hexdigest()[:8]


async def index(request: web.Request) -> web.Response:
    """A page of what is found, newest first."""
    wanted = query.read(SearchQuery, request)
    after = _place(wanted)
    async with reading(request) as conn:
        await past.require_submission(conn, wanted.submission_id)
        vm = None if wanted.vm is None else await refs.find_by_parameter(conn, wanted.vm)
        given = wanted.model_dump(exclude={"cursor", "limit", "vm"})
        which = SearchFilter(**given, vm=None if vm is None else (vm.submission_id, vm.vm_no))
        found = await search.page(conn, which, after=after, limit=wanted.limit + 1)
    some, following = first(found, wanted.limit, lambda one: _cursor(wanted, one))
    return page([_shown(one) for one in some], following)


def _shown(one: SearchResult) -> dict[str, Any]:
    return {name: value for name, value in asdict(one).items() if name != "key"}


def _cursor(wanted: SearchQuery, one: SearchResult) -> str:
    place = [wanted.digest, micros(one.at), KINDS.index(one.kind), *map(str, one.key)]
    return base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")


def _place(wanted: SearchQuery) -> SearchPlace | None:
    if wanted.cursor is None:
        return None
    try:
        padded = wanted.cursor + "=" * (-len(wanted.cursor) % 4)
        digest, microseconds, kind, *key = orjson.loads(base64.urlsafe_b64decode(padded.encode()))
        if digest == wanted.digest:
            return SearchPlace(_moment(microseconds), kind, _key(kind, key))
    except (ValueError, TypeError, IndexError, OverflowError, binascii.Error):
        pass
    raise Invalid([FieldError("cursor", "is not the next of a page of this search")])


def _moment(microseconds: int) -> datetime:
    return moment(str(microseconds))


def _key(kind: int, values: list[str]) -> tuple[Any, ...]:
    forms = {"vm": (UUID, int), "submission": (UUID,), "transition": (UUID, int, int)}.get(KINDS[kind], (UUID, UUID))
    return tuple(form(value) for form, value in zip(forms, values, strict=True))

"""What a search looks for, and which VMs or submissions its filters select, looked up by indexes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from msgspec import Struct
from sqlalchemy import ColumnElement, literal, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import FieldError, Invalid
from service.storage.arrays import is_any
from service.storage.tables import submissions, vms

Kind = Literal["vm", "submission", "transition", "event", "call", "action"]
#: The order of kinds at the same moment.
KINDS: Final[tuple[Kind, ...]] = ("vm", "submission", "transition", "event", "call", "action")
#: VMs or submissions that a filter may select; beyond, it has to be narrowed.
MOST: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFilter:
    """What to look for; all that is given must hold. `since` is included, `until` is not."""

    kind: Kind | None = None
    submission_id: UUID | None = None
    vm: tuple[UUID, int] | None = None
    provider_id: int | None = None
    name: str | None = None
    label: str | None = None
    address: str | None = None
    caller: str | None = None
    state: str | None = None
    operation: str | None = None
    status_code: int | None = None
    dead_letter: str | None = None
    text: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class SearchResult(Struct, frozen=True, kw_only=True):
    """A row that was found. `id` names it among its kind; `text` is for people."""

    kind: Kind
    at: datetime
    submission_id: UUID | None
    vm_no: int | None
    provider_id: int | None
    id: str
    text: str
    key: tuple[Any, ...] = ()  #: for the cursor


@dataclass(frozen=True, slots=True)
class SearchPlace:
    """The last row that was seen: its time, the number of its kind, and its key."""

    at: datetime
    kind: int
    key: tuple[Any, ...]

    def bound(self, kind: Kind) -> tuple[datetime, tuple[Any, ...] | None, bool]:
        """For rows of a kind behind it: until when, behind which key, and whether that moment is included without a key."""
        number = KINDS.index(kind)
        return self.at, self.key if number == self.kind else None, number > self.kind


@dataclass(frozen=True, slots=True)
class VmKey:
    submission_id: UUID
    vm_no: int
    creation_no: int
    provider_id: int | None


@dataclass(frozen=True, slots=True)
class Scope:
    """What the filters select: VMs, or whole submissions; None if no filter does."""

    vms: Sequence[VmKey] | None = None
    submissions: Sequence[UUID] | None = None


async def select_scope(conn: AsyncConnection, which: SearchFilter) -> Scope:
    """What the filters select. Raises `Invalid` if that is too much to look through."""
    chosen = await _submissions_of(conn, which)
    where = _of_vms(which)
    if which.name is not None:
        query = select(submissions.c.submission_id).where(submissions.c.name == which.name).limit(MOST + 1)
        ids = (await conn.execute(query)).scalars().all()
        if not where and not await _any_vm(conn, which.name):
            return Scope(submissions=_both(chosen, ids))
        where.append(or_(vms.c.name == which.name, is_any(vms.c.submission_id, ids)))
    if not where:
        return Scope(submissions=chosen)
    if chosen is not None:
        where.append(is_any(vms.c.submission_id, chosen))
    key = (vms.c.submission_id, vms.c.vm_no, vms.c.creation_no, vms.c.provider_id)
    rows = (await conn.execute(select(*key).where(*where).limit(MOST + 1))).all()
    if len(rows) > MOST:
        raise too_many("name" if which.name else "address", "VMs")
    return Scope(vms=[VmKey(*row) for row in rows])


def _of_vms(which: SearchFilter) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = []
    if which.vm is not None:
        where.append(tuple_(vms.c.submission_id, vms.c.vm_no) == tuple_(*map(literal, which.vm)))
    if which.provider_id is not None:
        where.append(vms.c.provider_id == which.provider_id)
    if which.address is not None:
        where.append(or_(vms.c.floating_ip == which.address, vms.c.fixed_ip == which.address))
    return where


async def _any_vm(conn: AsyncConnection, name: str) -> bool:
    return (await conn.execute(select(vms.c.vm_no).where(vms.c.name == name).limit(1))).first() is not None


def _both(some: Sequence[UUID] | None, others: Sequence[UUID]) -> Sequence[UUID]:
    if len(others) > MOST:
        raise too_many("name", "submissions")
    return others if some is None else [one for one in others if one in some]


async def _submissions_of(conn: AsyncConnection, which: SearchFilter) -> Sequence[UUID] | None:
    """The submissions with the label and the id that are given; None if neither is."""
    where: list[ColumnElement[bool]] = []
    if which.label is not None:
        where.append(submissions.c.spec["labels"].op("?", is_comparison=True)(which.label))
    if which.submission_id is not None:
        where.append(submissions.c.submission_id == which.submission_id)
    if not where:
        return None
    query = select(submissions.c.submission_id).where(*where).limit(MOST + 1)
    found = (await conn.execute(query)).scalars().all()
    if len(found) > MOST:
        raise too_many("label", "submissions")
    return found


def too_many(field: str, what: str) -> Invalid:
    return Invalid([FieldError(field, f"matches more than {MOST} {what}; give a submission too")])

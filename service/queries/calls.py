"""Calls to the provider and their outcomes, newest first."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Integer,
    Row,
    Select,
    Uuid,
    and_,
    literal,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.ids import FLEET
from service.core.token import redact
from service.storage.arrays import in_arrays
from service.storage.tables import call_ends, calls

#: begun_at, call_id: the list is in descending order of this, and its cursor holds it.
Key = tuple[datetime, UUID]

#: Calls, and how each ended if it did.
ENDED: Final = calls.outerjoin(
    call_ends, and_(call_ends.c.submission_id == calls.c.submission_id, call_ends.c.call_id == calls.c.call_id)
)
#: The filter for calls without an end: running, or a daemon died during them.
NO_END = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFilter:
    """Which calls to list. `since` is included, `until` is not. `outcome` may be `NO_END`."""

    submission_id: UUID | None = None
    vm: tuple[UUID, int, int, int | None] | None = None  #: submission, number, creation and provider id
    operation: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSummary:
    """A call. Without an end, `outcome`, `ms` and `status` are None. `submission_id` is None if it is about the fleet."""

    call_id: UUID
    begun_at: datetime
    operation: str
    submission_id: UUID | None
    creation_no: int | None
    vm_no: int | None
    provider_id: int | None
    attempt: int | None
    outcome: str | None
    ms: int | None
    status: int | None
    error: str | None


async def page(conn: AsyncConnection, which: CallFilter, *, before: Key | None, limit: int) -> list[CallSummary]:
    """A page of calls, newest first; `before` is the key of the previous page's last one."""
    return [_summary(row) for row in await conn.execute(newest(which, before, limit))]


def newest(which: CallFilter, before: Key | None, limit: int) -> Select[Any]:
    """The query of `page`: it reads the index on `begun_at` backwards."""
    end = (call_ends.c.outcome, call_ends.c.ms, call_ends.c.status_code, call_ends.c.error)
    query = select(calls, *end).select_from(ENDED)
    if which.submission_id is not None:
        query = query.where(calls.c.submission_id == which.submission_id)
    if which.vm is not None:
        types: tuple[Any, ...] = (Uuid, Integer, Integer, BigInteger)
        arrays = [literal([value], ARRAY(kind)) for value, kind in zip(which.vm, types, strict=True)]
        query = query.where(about(VmArrays(*arrays)))
    if which.operation is not None:
        query = query.where(calls.c.operation == which.operation)
    if which.outcome is not None:
        of_it = call_ends.c.call_id.is_(None) if which.outcome == NO_END else call_ends.c.outcome == which.outcome
        query = query.where(of_it)
    if which.since is not None:
        query = query.where(calls.c.begun_at >= which.since)
    if which.until is not None:
        query = query.where(calls.c.begun_at < which.until)
    if before is not None:
        query = query.where(calls.c.begun_at <= before[0], tuple_(calls.c.begun_at, calls.c.call_id) < before)
    return query.order_by(calls.c.begun_at.desc(), calls.c.call_id.desc()).limit(limit)


async def get(conn: AsyncConnection, submission_id: UUID, call_id: UUID) -> Mapping[str, Any] | None:
    """The row of a call, whether or not it has ended."""
    mine = (calls.c.submission_id == submission_id, calls.c.call_id == call_id)
    found = (await conn.execute(select(calls).where(*mine))).mappings().one_or_none()
    return None if found is None else {**found}


class VmArrays(NamedTuple):
    """VMs, as arrays of the same length. A provider id that is not known yet is null."""

    submissions: ColumnElement[Any]
    numbers: ColumnElement[Any]
    creations: ColumnElement[Any]
    provider_ids: ColumnElement[Any]


def about(vms: VmArrays) -> ColumnElement[bool]:
    """Calls about VMs, or for the whole creation of one."""
    own = in_arrays((calls.c.submission_id, calls.c.vm_no), (vms.submissions, vms.numbers))
    creation = in_arrays((calls.c.submission_id, calls.c.creation_no), (vms.submissions, vms.creations))
    known = in_arrays((calls.c.submission_id, calls.c.provider_id), (vms.submissions, vms.provider_ids))
    parts = (own, and_(creation, calls.c.vm_no.is_(None)), known)
    ids = union_all(*(select(calls.c.submission_id, calls.c.call_id).where(part) for part in parts)).subquery("about")
    return tuple_(calls.c.submission_id, calls.c.call_id).in_(select(ids.c.submission_id, ids.c.call_id))


def _summary(row: Row[Any]) -> CallSummary:
    return CallSummary(
        call_id=row.call_id,
        begun_at=row.begun_at,
        operation=row.operation,
        submission_id=None if row.submission_id == FLEET else row.submission_id,
        creation_no=row.creation_no,
        vm_no=row.vm_no,
        provider_id=row.provider_id,
        attempt=row.attempt,
        outcome=row.outcome,
        ms=row.ms,
        status=row.status_code,
        error=row.error and redact(row.error),
    )

"""What is different between two moments: VMs that appeared, that are gone, and that changed. Each moment is as in `as_of`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Select, Subquery, and_, case, func, not_, or_, select, tuple_
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.lifecycle import ENDED, VmState
from service.queries.as_of import as_of
from service.storage.rows import from_rows
from service.storage.tables import vms
from service.storage.vms import Ref

Change = Literal["appeared", "gone", "changed"]
#: What a VM can differ in.
_COMPARED: Final = ("state", "provider_id", "contract_outcome", "off_contract")


class Moments(NamedTuple):
    """The two moments to compare, of the fleet or of one submission."""

    from_: datetime
    to: datetime
    submission_id: UUID | None = None


class VmDifference(Struct, frozen=True):
    """A VM that is different. One that appeared, or that came and went in between, has no `state_from`."""

    change: Change
    submission_id: UUID
    vm_no: int
    provider_id: int | None
    name: str | None
    flavor: str
    region: str | None
    state_from: VmState | None
    state_to: VmState
    since: datetime  #: of the state that it has at the end
    changed: list[str]  #: fields that differ


async def page(conn: AsyncConnection, moments: Moments, *, after: Ref | None, limit: int) -> list[VmDifference]:
    """A page of the VMs that differ, in the order of their keys."""
    found = _differences(moments)
    key = (found.c.submission_id, found.c.vm_no)
    query = select(found).order_by(*key).limit(limit)
    if after is not None:
        query = query.where(tuple_(*key) > after)
    return await from_rows(VmDifference, await conn.execute(query))


async def total(conn: AsyncConnection, moments: Moments) -> Mapping[str, int]:
    """How many VMs differ in each way."""
    found = _differences(moments)
    rows = await conn.execute(select(found.c.change, func.count()).group_by(found.c.change))
    return {"appeared": 0, "gone": 0, "changed": 0} | {row[0]: row[1] for row in rows}


def _differences(moments: Moments) -> Subquery:
    # A VM that had ended by the first moment, and is where it was, does not differ. Most VMs of a long record are such.
    may_differ = or_(vms.c.state_since > moments.from_, vms.c.state.not_in(sorted(ENDED)))
    before, now = (
        as_of(at, moments.submission_id).where(may_differ).subquery(name)
        for at, name in ((moments.from_, "before"), (moments.to, "now"))
    )
    same = and_(before.c.submission_id == now.c.submission_id, before.c.vm_no == now.c.vm_no)
    ended = now.c.state.in_(sorted(ENDED))
    new = before.c.submission_id.is_(None)
    differs = [before.c[name].is_distinct_from(now.c[name]) for name in _COMPARED]
    change = case((ended, "gone"), (new, "appeared"), else_="changed")
    query: Select[Any] = select(
        change.label("change"),
        *(now.c[name] for name in ("submission_id", "vm_no", "provider_id", "name", "flavor", "region", "since")),
        before.c.state.label("state_from"),
        now.c.state.label("state_to"),
        func.array_remove(array([case((one, name)) for one, name in zip(differs, _COMPARED, strict=True)]), None).label(
            "changed"
        ),
    ).select_from(now.outerjoin(before, same))
    was_there = or_(new, not_(before.c.state.in_(sorted(ENDED))))
    return query.where(was_there, or_(new, *differs)).subquery("differences")

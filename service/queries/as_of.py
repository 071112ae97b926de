"""The fleet as of a past moment, and what ran off contract in a period.

Computed from transitions and assignments, whose rows are never updated or dropped, so the answer for a past moment never
changes. "As of" means as recorded by then: the `at` of a row is when Rollcall learned of it. "As known" at a later moment means as
it happened, by the times of the evidence, as far as it was on record by that moment: a late callback changes what is known of the
past. Fields without history (names, regions, GPUs) are the current ones.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import (
    ColumnElement,
    Float,
    Select,
    Subquery,
    and_,
    case,
    cast,
    distinct,
    false,
    func,
    not_,
    or_,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.selectable import LateralFromClause

from service.core.lifecycle import ENDED, VmState
from service.queries.fleet import Counts
from service.storage.arrays import is_any
from service.storage.rows import from_rows
from service.storage.tables import assignments, transitions, vms
from service.storage.vms import Ref

#: The outcomes that begin and end a time off contract.
_OFF: Final = "on_demand"
_ON: Final = "assigned"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetAsOf:
    """The VMs submitted by `at`, replacements included. Regions and flavors count VMs that had not ended."""

    at: datetime
    by_state: Counts
    by_region: Counts
    by_flavor: Counts
    alive: int
    ever_ready: int  #: had been ready at least once by then
    off_contract: int


class VmAsOf(Struct, frozen=True):
    """A VM as of a moment. Without evidence, nothing had moved it since it was requested."""

    submission_id: UUID
    vm_no: int
    provider_id: int | None  #: like the name, None until it was bound
    name: str | None
    flavor: str
    region: str | None
    state: VmState
    since: datetime
    evidence: str | None
    evidence_id: UUID | None
    contract_requested: int | None
    contract_outcome: str | None  #: of the last step towards its contract
    off_contract: bool


class OffContract(Struct, frozen=True):
    """A time during which a VM ran on demand although a contract was requested, cut to the period."""

    submission_id: UUID
    vm_no: int
    provider_id: int | None
    name: str | None
    flavor: str
    gpu_model: str | None
    gpu_count: int | None
    contract_requested: int | None
    since: datetime
    until: datetime | None  #: None if it went on when the period ended
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OffContractTotal:
    """The sum of all times off contract in a period."""

    vms: int
    times: int
    seconds: float
    gpu_seconds: float
    seconds_of_unknown_gpus: float  #: of VMs whose number of GPUs is not known; not in `gpu_seconds`


async def count(
    conn: AsyncConnection, *, at: datetime, known_at: datetime | None = None, submission_id: UUID | None = None
) -> FleetAsOf:
    """The fleet, or one submission, in numbers, as of a moment."""
    if known_at is None:
        moved = as_of(at, submission_id).where(not_(_is_settled(at)))
        counted = union_all(_counted(moved), _settled(at, submission_id)).subquery("then")
    else:
        counted = _counted(as_of(at, submission_id, known_at=known_at)).subquery("then")
    shape = (counted.c.state, counted.c.region, counted.c.flavor)
    rows = await conn.execute(
        select(
            *shape,
            func.count().label("vms"),
            func.count().filter(counted.c.ever_ready).label("ever_ready"),
            func.count().filter(counted.c.off_contract).label("off_contract"),
        )
        .group_by(*shape)
        .order_by(*shape)
    )
    by_state, by_region, by_flavor = Counter[str](), Counter[str](), Counter[str]()
    ever_ready = off_contract = 0
    for row in rows:
        by_state[row.state] += row.vms
        ever_ready += row.ever_ready
        off_contract += row.off_contract
        if row.state not in ENDED:
            by_region["none" if row.region is None else row.region] += row.vms
            by_flavor[row.flavor] += row.vms
    return FleetAsOf(
        at=at,
        by_state=by_state,
        by_region=by_region,
        by_flavor=by_flavor,
        alive=by_flavor.total(),
        ever_ready=ever_ready,
        off_contract=off_contract,
    )


async def page(
    conn: AsyncConnection,
    *,
    at: datetime,
    known_at: datetime | None = None,
    submission_id: UUID | None,
    state: str | None,
    after: Ref | None,
    limit: int,
) -> list[VmAsOf]:
    """A page of the VMs that `count` counts, in the order of their keys."""
    then = as_of(at, submission_id, state, known_at=known_at).order_by(vms.c.submission_id, vms.c.vm_no).limit(limit)
    if after is not None:
        then = then.where(tuple_(vms.c.submission_id, vms.c.vm_no) > after)
    return await from_rows(VmAsOf, await conn.execute(then))


async def off_contract(
    conn: AsyncConnection,
    *,
    since: datetime | None,
    until: datetime,
    submission_id: UUID | None,
    after: tuple[UUID, int, datetime] | None,
    limit: int,
) -> list[OffContract]:
    """A page of the times off contract in a period, VM by VM; `after` is the key and `since` of the last one seen."""
    times = _times(since, until, submission_id, from_=after and after[:2])
    query = select(times).order_by(times.c.submission_id, times.c.vm_no, times.c.since).limit(limit)
    if after is not None:
        query = query.where(tuple_(times.c.submission_id, times.c.vm_no, times.c.since) > after)
    return await from_rows(OffContract, await conn.execute(query))


async def off_contract_total(
    conn: AsyncConnection, *, since: datetime | None, until: datetime, submission_id: UUID | None
) -> OffContractTotal:
    """The sum of all times off contract in a period."""
    times = _times(since, until, submission_id)
    unknown = times.c.gpu_count.is_(None)
    row = (
        await conn.execute(
            select(
                func.count(distinct(tuple_(times.c.submission_id, times.c.vm_no))).label("vms"),
                func.count().label("times"),
                func.coalesce(func.sum(times.c.seconds), 0.0).label("seconds"),
                func.coalesce(func.sum(times.c.seconds * times.c.gpu_count), 0.0).label("gpu_seconds"),
                func.coalesce(func.sum(times.c.seconds).filter(unknown), 0.0).label("unknown"),
            )
        )
    ).one()
    return OffContractTotal(
        vms=row.vms,
        times=row.times,
        seconds=round(row.seconds, 3),
        gpu_seconds=round(row.gpu_seconds, 3),
        seconds_of_unknown_gpus=round(row.unknown, 3),
    )


def _counted(query: Select[Any]) -> Select[Any]:
    """What is counted of VMs as they were; `_settled` has the same columns."""
    found = query.subquery("looked_up")
    return select(*(found.c[name] for name in ("state", "region", "flavor", "ever_ready", "off_contract")))


def _is_settled(at: datetime) -> ColumnElement[bool]:
    """Whether a VM is now as it was, so that its row says all that is counted: most VMs have ended long ago."""
    has_no_contract_time = or_(vms.c.state.in_(sorted(ENDED)), vms.c.contract_id.is_(None))
    return and_(vms.c.state_since <= at, has_no_contract_time)


def _settled(at: datetime, submission_id: UUID | None) -> Select[Any]:
    query = select(
        vms.c.state,
        vms.c.region,
        vms.c.flavor,
        func.coalesce(vms.c.ready_at <= at, False).label("ever_ready"),
        false().label("off_contract"),
    ).where(vms.c.created_at <= at, _is_settled(at))
    return query if submission_id is None else query.where(vms.c.submission_id == submission_id)


def as_of(
    at: datetime, submission_id: UUID | None, state: str | None = None, *, known_at: datetime | None = None
) -> Select[Any]:
    """Each VM as it was. Its last transition and notes are found by its key; no table is read whole."""
    noted_by = at if known_at is None else min(at, known_at)
    noted, turned = _noted(noted_by, "noted"), _noted(noted_by, "turned", only=(_OFF, _ON))
    moved = _recorded(at) if known_at is None else _happened(at, known_at)
    bound = vms.c.bound_at <= (known_at or at)
    then = func.coalesce(moved.c.to_state, VmState.REQUESTED.value)
    off = and_(then.not_in(sorted(ENDED)), func.coalesce(turned.c.outcome, _ON) == _OFF)
    found = vms.outerjoin(moved, true()).outerjoin(noted, true()).outerjoin(turned, true())
    query = (
        select(
            vms.c.submission_id,
            vms.c.vm_no,
            case((bound, vms.c.provider_id)).label("provider_id"),
            case((bound, vms.c.name)).label("name"),
            vms.c.flavor,
            vms.c.region,
            then.label("state"),
            func.coalesce(moved.c.since, vms.c.created_at).label("since"),
            moved.c.evidence,
            moved.c.evidence_id,
            vms.c.contract_id.label("contract_requested"),
            noted.c.outcome.label("contract_outcome"),
            off.label("off_contract"),
            func.coalesce(vms.c.ready_at <= at, False).label("ever_ready"),
        )
        .select_from(found)
        .where(vms.c.created_at <= noted_by)
    )
    if submission_id is not None:
        query = query.where(vms.c.submission_id == submission_id)
    if state is None:
        return query
    if known_at is None:  # what did not move since is not looked up
        query = query.where(or_(vms.c.state_since > at, vms.c.state == state))
    return query.where(then == state)


def _recorded(at: datetime) -> LateralFromClause:
    """The last move of a VM that was on record by then."""
    return _moves(transitions.c.at).where(transitions.c.at <= at).order_by(transitions.c.seq.desc()).lateral("moved")


def _happened(at: datetime, known_at: datetime) -> LateralFromClause:
    """The last move of a VM by the time of its evidence, of those that were on record at `known_at`."""
    happened = transitions.c.evidence_at
    known = _moves(happened).where(happened <= at, transitions.c.at <= known_at)
    return known.order_by(happened.desc(), transitions.c.seq.desc()).lateral("moved")


def _moves(since: ColumnElement[Any]) -> Select[Any]:
    named = (transitions.c.to_state, since.label("since"), transitions.c.evidence, transitions.c.evidence_id)
    mine = (transitions.c.submission_id == vms.c.submission_id, transitions.c.vm_no == vms.c.vm_no)
    return select(*named).where(*mine, transitions.c.verdict == "moved").limit(1)


def _noted(at: datetime, name: str, only: tuple[str, ...] = ()) -> LateralFromClause:
    """The last step of a VM towards its contract by then; only for VMs that should be on one."""
    query = (
        select(assignments.c.outcome)
        .where(assignments.c.submission_id == vms.c.submission_id, assignments.c.vm_no == vms.c.vm_no)
        .where(assignments.c.at <= at, vms.c.contract_id.is_not(None))
        .order_by(assignments.c.at.desc(), assignments.c.attempt.desc())
        .limit(1)
    )
    return (query.where(is_any(assignments.c.outcome, only)) if only else query).lateral(name)


def _times(since: datetime | None, until: datetime, submission_id: UUID | None, from_: Ref | None = None) -> Subquery:
    """Times off contract: from the step that noticed it to the step that found it on the contract, or to the VM's end."""
    turns = _turns(until, submission_id, from_)
    over = func.least(turns.c.following, vms.c.ended_at)  # ignores nulls
    ended = case((over <= until, over))
    began = turns.c.at if since is None else func.greatest(turns.c.at, since)
    seconds = func.extract("epoch", func.coalesce(ended, until) - began)
    same = and_(vms.c.submission_id == turns.c.submission_id, vms.c.vm_no == turns.c.vm_no)
    return (
        select(
            turns.c.submission_id,
            turns.c.vm_no,
            vms.c.provider_id,
            vms.c.name,
            vms.c.flavor,
            vms.c.gpu_model,
            vms.c.gpu_count,
            vms.c.contract_id.label("contract_requested"),
            began.label("since"),
            ended.label("until"),
            cast(seconds, Float).label("seconds"),
        )
        .select_from(turns.join(vms, same))
        .where(turns.c.outcome == _OFF, func.coalesce(ended, until) > began)
        .subquery("times")
    )


def _turns(until: datetime, submission_id: UUID | None, from_: Ref | None) -> Subquery:
    """The steps by which VMs went off or onto their contracts, each with the time of the next one."""
    key = (assignments.c.submission_id, assignments.c.vm_no)
    following = func.lead(assignments.c.at).over(partition_by=key, order_by=(assignments.c.at, assignments.c.attempt))
    steps = select(*key, assignments.c.at, assignments.c.outcome, following.label("following")).where(
        assignments.c.outcome.in_((_OFF, _ON)), assignments.c.at <= until
    )
    if submission_id is not None:
        steps = steps.where(assignments.c.submission_id == submission_id)
    if from_ is not None:
        steps = steps.where(tuple_(*key) >= from_)
    return steps.subquery("turns")

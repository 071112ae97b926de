"""The fleet in numbers, now."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Float, cast, func, select, text, true, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage import events as stored_events
from service.storage.orphans import Orphan
from service.storage.rows import from_rows
from service.storage.tables import call_ends, calls, dead_letters, events, orphans, submissions, transitions, vms

Counts = Mapping[str, int]

_OPEN: Final = submissions.c.state == text("'open'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Counts of the members of submissions that have not ended. Times are in seconds."""

    at: datetime
    by_state: Counts  #: of all members, ended ones included
    by_assignment: Counts
    by_region: Counts
    by_flavor: Counts
    by_contract: Counts
    alive: int
    ready: int
    stuck: int
    off_contract: int
    on_demand_seconds: float
    seconds_to_ready: Mapping[str, float | None]
    submissions: Counts
    orphans: Counts
    dead_letters: Counts
    events_waiting: int
    oldest_waiting_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceCounts:
    """The evidence about a submission: events, the moves that each kind of evidence made, calls."""

    events: Mapping[str, Counts]  #: by source: how many, and how many of them were repeats
    moves: Counts
    calls: Mapping[str, Counts]


async def answers(conn: AsyncConnection) -> None:
    """Return if the database answers at all."""
    await conn.execute(select(1))


@dataclass(frozen=True, slots=True)
class EveryVm:
    """Counts of all VMs that there ever were, replaced ones included."""

    by_state: Counts
    off_contract: int


async def count(
    conn: AsyncConnection, *, now: datetime, submission_id: UUID | None = None, times: bool = True
) -> Fleet:
    """The fleet, or one submission, in numbers; without `times`, which cost half of it, no seconds to ready."""
    return (await _count(conn, now, submission_id, times=times))[0]


async def count_every(conn: AsyncConnection, *, now: datetime) -> tuple[Fleet, EveryVm]:
    """The fleet in numbers, and every VM."""
    return await _count(conn, now, None, times=True)


async def _count(
    conn: AsyncConnection, now: datetime, submission_id: UUID | None, *, times: bool
) -> tuple[Fleet, EveryVm]:
    mine = _of(vms.c.submission_id, submission_id)
    living, ended = await _living(conn, mine, now), await _ended(conn, mine)
    members = [row for row in living if row.member]
    waiting, oldest = await stored_events.inbox_size(conn)
    found = Fleet(
        at=now,
        by_state=_sums((row.state, row.vms) for row in [*ended, *living] if row.member),
        by_assignment=_sums((row.assignment, row.vms) for row in members),
        by_region=_sums((row.region, row.vms) for row in members),
        by_flavor=_sums((row.flavor, row.vms) for row in members),
        by_contract=_sums((row.contract_id, row.vms) for row in members),
        alive=sum(row.vms for row in members),
        ready=sum(row.vms for row in members if row.ready),
        stuck=sum(row.vms for row in members if row.stuck),
        off_contract=sum(row.vms for row in members if row.off_contract),
        # Replaced VMs ran on demand too, and cost money.
        on_demand_seconds=round(sum(row.on_demand_seconds for row in living) + await _ended_on_demand(conn, mine), 3),
        seconds_to_ready=await _seconds_to_ready(conn, submission_id) if times else {},
        submissions=await _submissions(conn, _of(submissions.c.submission_id, submission_id)),
        orphans=await _by(conn, orphans.c.state, _of(orphans.c.submission_id, submission_id)),
        dead_letters=await _by(conn, dead_letters.c.kind, _of(dead_letters.c.submission_id, submission_id)),
        events_waiting=waiting,
        oldest_waiting_seconds=max(0.0, (now - oldest).total_seconds()) if oldest else 0.0,
    )
    off_contract = sum(row.vms for row in living if row.off_contract)
    return found, EveryVm(_sums((row.state, row.vms) for row in [*ended, *living]), off_contract)


async def evidence_counts(conn: AsyncConnection, submission_id: UUID) -> EvidenceCounts:
    """The evidence about one submission. For the whole fleet this would read every event."""
    counted_events = await conn.execute(
        select(events.c.source, func.count(), func.count(func.distinct(events.c.digest)))
        .where(events.c.submission_id == submission_id)
        .group_by(events.c.source)
    )
    ended = (call_ends.c.submission_id == calls.c.submission_id) & (call_ends.c.call_id == calls.c.call_id)
    called = await conn.execute(
        select(calls.c.operation, func.coalesce(call_ends.c.outcome, "no answer"), func.count())
        .outerjoin(call_ends, ended)
        .where(calls.c.submission_id == submission_id)
        .group_by(calls.c.operation, text("2"))
        .order_by(calls.c.operation, text("2"))
    )
    by_operation: dict[str, dict[str, int]] = {}
    for operation, outcome, number in called:
        by_operation.setdefault(operation, {})[outcome] = number
    moved = (transitions.c.submission_id == submission_id) & (transitions.c.verdict == "moved")
    return EvidenceCounts(
        events={
            source: {"count": number, "repeated": number - distinct} for source, number, distinct in counted_events
        },
        moves=await _by(conn, transitions.c.evidence, moved),
        calls=by_operation,
    )


async def orphans_page(
    conn: AsyncConnection, *, submission_id: UUID | None, before: tuple[datetime, int] | None, limit: int
) -> list[Orphan]:
    """A page of orphans, newest first; `before` is the (found_at, provider_id) of the previous page's last one."""
    query = (
        select(orphans)
        .where(_of(orphans.c.submission_id, submission_id))
        .order_by(orphans.c.found_at.desc(), orphans.c.provider_id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(tuple_(orphans.c.found_at, orphans.c.provider_id) < before)
    return await from_rows(Orphan, await conn.execute(query))


async def _living(conn: AsyncConnection, mine: ColumnElement[bool], now: datetime) -> Sequence[Any]:
    """How many VMs have not ended, by all that is counted: one pass over them, by the index on `ended_at`."""
    running = func.coalesce(func.extract("epoch", now - vms.c.on_demand_since), 0.0)
    by = (
        vms.c.state, vms.c.assignment, vms.c.region, vms.c.flavor, vms.c.observed_contract_id.label("contract_id"),
        vms.c.member, vms.c.ready, vms.c.stuck, vms.c.on_demand_since.is_not(None).label("off_contract"),
    )  # fmt: skip
    on_demand = cast(func.sum(vms.c.on_demand_seconds + running), Float).label("on_demand_seconds")
    rows = await conn.execute(
        select(*by, func.count().label("vms"), on_demand).where(mine, vms.c.ended_at.is_(None)).group_by(*by)
    )
    return rows.all()


async def _ended(conn: AsyncConnection, mine: ColumnElement[bool]) -> Sequence[Any]:
    """How many VMs have ended, by state and whether they are members. For the fleet, from an index alone."""
    by = (vms.c.state, vms.c.member)
    ended = select(*by, func.count().label("vms")).where(mine, vms.c.ended_at.is_not(None)).group_by(*by)
    return (await conn.execute(ended)).all()


async def _submissions(conn: AsyncConnection, mine: ColumnElement[bool]) -> dict[str, int]:
    """Submissions by state: those that are open and the others, since each have their index."""
    of = [await _by(conn, submissions.c.state, mine & which) for which in (_OPEN, ~_OPEN)]
    return dict(sorted((of[0] | of[1]).items()))


async def _ended_on_demand(conn: AsyncConnection, mine: ColumnElement[bool]) -> float:
    which = mine & vms.c.ended_at.is_not(None) & (vms.c.on_demand_seconds > 0)
    return (await conn.execute(select(func.sum(vms.c.on_demand_seconds)).where(which))).scalar_one() or 0.0


async def _seconds_to_ready(conn: AsyncConnection, submission_id: UUID | None) -> dict[str, float | None]:
    """Of a submission's members. Of the fleet's, only of those alive, or it would cost more with every VM there ever was."""
    which = vms.c.ended_at.is_(None) if submission_id is None else vms.c.submission_id == submission_id
    took = cast(func.extract("epoch", vms.c.ready_at - vms.c.created_at), Float)
    values = [*(func.percentile_cont(part).within_group(took) for part in (0.5, 0.95)), func.max(took)]
    found = (await conn.execute(select(*values).where(which, vms.c.member, vms.c.ready_at.is_not(None)))).one()
    return dict(zip(("p50", "p95", "max"), found, strict=True))


def _sums(counted: Iterable[tuple[object, int]]) -> dict[str, int]:
    sums = Counter[str]()
    for value, number in counted:
        sums["none" if value is None else str(value)] += number
    return dict(sorted(sums.items()))


async def _by(conn: AsyncConnection, column: ColumnElement[Any], which: ColumnElement[bool]) -> dict[str, int]:
    rows = await conn.execute(select(column, func.count()).where(which).group_by(column).order_by(column))
    return {"none" if value is None else str(value): number for value, number in rows}


def _of(column: ColumnElement[Any], submission_id: UUID | None) -> ColumnElement[bool]:
    return true() if submission_id is None else column == submission_id

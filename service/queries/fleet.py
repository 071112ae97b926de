"""The fleet in numbers, now."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Float, cast, func, select, text, true, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage import events as stored_events
from service.storage.orphans import Orphan
from service.storage.rows import from_rows
from service.storage.tables import call_ends, calls, dead_letters, events, orphans, submissions, transitions, vms

Counts = Mapping[str, int]


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


async def count(conn: AsyncConnection, *, now: datetime, submission_id: UUID | None = None) -> Fleet:
    """The fleet, or one submission, in numbers."""
    mine = true() if submission_id is None else vms.c.submission_id == submission_id
    member = mine & vms.c.member
    alive = member & vms.c.ended_at.is_(None)
    totals = (await conn.execute(_totals(mine, now))).one()
    waiting, oldest = await stored_events.inbox_size(conn)
    return Fleet(
        at=now,
        by_state=await _by(conn, vms.c.state, member),
        by_assignment=await _by(conn, vms.c.assignment, alive),
        by_region=await _by(conn, vms.c.region, alive),
        by_flavor=await _by(conn, vms.c.flavor, alive),
        by_contract=await _by(conn, vms.c.observed_contract_id, alive),
        alive=totals.alive,
        ready=totals.ready,
        stuck=totals.stuck,
        off_contract=totals.off_contract,
        on_demand_seconds=round(totals.on_demand_seconds, 3),
        seconds_to_ready={"p50": totals.p50, "p95": totals.p95, "max": totals.slowest},
        submissions=await _by(conn, submissions.c.state, _of(submissions.c.submission_id, submission_id)),
        orphans=await _by(conn, orphans.c.state, _of(orphans.c.submission_id, submission_id)),
        dead_letters=await _by(conn, dead_letters.c.kind, _of(dead_letters.c.submission_id, submission_id)),
        events_waiting=waiting,
        oldest_waiting_seconds=max(0.0, (now - oldest).total_seconds()) if oldest else 0.0,
    )


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


def _totals(mine: ColumnElement[bool], now: datetime) -> Any:
    alive = vms.c.ended_at.is_(None)
    member = vms.c.member
    running = func.coalesce(func.extract("epoch", now - vms.c.on_demand_since), 0.0)
    to_ready = cast(func.extract("epoch", vms.c.ready_at - vms.c.created_at), Float)
    first_ready = member & vms.c.ready_at.is_not(None)
    return select(
        func.count().filter(member & alive).label("alive"),
        func.count().filter(member & vms.c.ready).label("ready"),
        func.count().filter(member & alive & vms.c.stuck).label("stuck"),
        func.count().filter(member & alive & vms.c.on_demand_since.is_not(None)).label("off_contract"),
        # Replaced VMs ran on demand too, and cost money.
        cast(func.coalesce(func.sum(vms.c.on_demand_seconds + running), 0.0), Float).label("on_demand_seconds"),
        func.percentile_cont(0.5).within_group(to_ready).filter(first_ready).label("p50"),
        func.percentile_cont(0.95).within_group(to_ready).filter(first_ready).label("p95"),
        func.max(to_ready).filter(first_ready).label("slowest"),
    ).where(mine)


async def _by(conn: AsyncConnection, column: ColumnElement[Any], which: ColumnElement[bool]) -> dict[str, int]:
    rows = await conn.execute(select(column, func.count()).where(which).group_by(column).order_by(column))
    return {"none" if value is None else str(value): number for value, number in rows}


def _of(column: ColumnElement[Any], submission_id: UUID | None) -> ColumnElement[bool]:
    return true() if submission_id is None else column == submission_id

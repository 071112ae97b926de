"""The table `vms`: lock, write, claim what is due, list."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, and_, func, literal_column, or_, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.ids import uuid7
from service.core.lifecycle import ENDED, VmState
from service.core.vm import Change, Vm
from service.storage import fair_claims
from service.storage.arrays import are_any, is_any
from service.storage.rows import from_row, from_rows, insert_many, update_many
from service.storage.tables import BROKEN, assignments, creations, transitions, vms

_KEY = ("submission_id", "vm_no")
Ref = tuple[UUID, int]


async def insert(conn: AsyncConnection, new: Iterable[Vm]) -> None:
    """Write new VMs, all of them REQUESTED."""
    await insert_many(conn, vms, new)


async def lock(conn: AsyncConnection, refs: Iterable[Ref]) -> dict[Ref, Vm]:
    """Lock VMs for this transaction, always in the order of their keys, so that no two transactions deadlock."""
    return await _locked(conn, are_any((vms.c.submission_id, vms.c.vm_no), list(refs)))


async def lock_free(conn: AsyncConnection, refs: Iterable[Ref]) -> dict[Ref, Vm]:
    """The same, without the VMs that another transaction has locked."""
    return await _locked(conn, are_any((vms.c.submission_id, vms.c.vm_no), list(refs)), skip_locked=True)


async def lock_creation(conn: AsyncConnection, submission_id: UUID, creation_no: int) -> dict[Ref, Vm]:
    """Lock the VMs of a creation, in the order of their keys."""
    return await _locked(conn, and_(vms.c.submission_id == submission_id, vms.c.creation_no == creation_no))


async def _locked(conn: AsyncConnection, which: ColumnElement[bool], *, skip_locked: bool = False) -> dict[Ref, Vm]:
    query = select(vms).where(which).order_by(vms.c.submission_id, vms.c.vm_no)
    rows = await conn.execute(query.with_for_update(key_share=True, skip_locked=skip_locked))
    return {vm.ref: vm for vm in await from_rows(Vm, rows)}


async def save(conn: AsyncConnection, changed: Iterable[Vm]) -> None:
    """Write VMs that this transaction has locked."""
    await update_many(conn, vms, _KEY, changed)


async def save_changes(conn: AsyncConnection, latest: Iterable[Vm], changes: Sequence[Change]) -> None:
    """Write the changes of locked VMs: each VM's latest record, and all transitions and steps."""
    await save(conn, latest)
    await insert_many(conn, transitions, [change.transition for change in changes if change.transition])
    await insert_many(conn, assignments, [change.note for change in changes if change.note])


async def read(conn: AsyncConnection, refs: Iterable[Ref]) -> list[Vm]:
    """The VMs with these keys, in the order of their keys."""
    which = are_any((vms.c.submission_id, vms.c.vm_no), list(refs))
    return await from_rows(Vm, await conn.execute(select(vms).where(which).order_by(vms.c.submission_id, vms.c.vm_no)))


async def get(conn: AsyncConnection, submission_id: UUID, vm_no: int) -> Vm | None:
    rows = await conn.execute(select(vms).where(vms.c.submission_id == submission_id, vms.c.vm_no == vm_no))
    row = rows.mappings().one_or_none()
    return from_row(Vm, row) if row else None


async def by_provider_id(conn: AsyncConnection, provider_ids: Iterable[int]) -> list[Vm]:
    """The VMs bound to these provider ids. More than one for an id is an error elsewhere."""
    rows = await conn.execute(select(vms).where(is_any(vms.c.provider_id, provider_ids)))
    return await from_rows(Vm, rows)


async def of_creation(conn: AsyncConnection, submission_id: UUID, creation_no: int) -> list[Vm]:
    rows = await conn.execute(
        select(vms).where(vms.c.submission_id == submission_id, vms.c.creation_no == creation_no).order_by(vms.c.vm_no)
    )
    return await from_rows(Vm, rows)


async def count_histories(conn: AsyncConnection, *, now: datetime, limit: int) -> int:
    """How many VMs' events histories are due, up to `limit`."""
    # Ordered, so by the index; without an order Postgres may read the table.
    due = select(vms.c.vm_no).where(vms.c.history_due_at <= now).order_by(vms.c.history_due_at).limit(limit)
    return (await conn.execute(select(func.count()).select_from(due.subquery()))).scalar_one()


async def claim_histories(conn: AsyncConnection, *, now: datetime, again: datetime, limit: int) -> list[Vm]:
    """Up to `limit` VMs whose events histories are due, fair between submissions; each is next due at `again`."""
    candidates = await fair_claims.due_histories(conn, now=now, again=again, limit=2 * limit)
    changes = {"history_due_at": again}
    return await claim_in_turn(conn, candidates, vms.c.history_due_at <= now, limit=limit, changes=changes)


async def defer_history(conn: AsyncConnection, ref: Ref, due_at: datetime | None) -> None:
    """Set when the events history of a VM is due next, if at all."""
    await conn.execute(
        update(vms).where(vms.c.submission_id == ref[0], vms.c.vm_no == ref[1]).values(history_due_at=due_at)
    )


async def bound_alive(conn: AsyncConnection) -> list[Vm]:
    """Every VM that the provider should show in a list."""
    rows = await conn.execute(
        select(vms)
        .where(vms.c.provider_id.is_not(None), vms.c.ended_at.is_(None))
        .order_by(vms.c.submission_id, vms.c.vm_no)
    )
    return await from_rows(Vm, rows)


async def wanted(conn: AsyncConnection, submission_id: UUID, *, limit: int) -> list[Ref]:
    """VMs of a submission that have not ended and whose deletion was not requested."""
    rows = await conn.execute(
        select(vms.c.submission_id, vms.c.vm_no)
        .where(vms.c.submission_id == submission_id, vms.c.ended_at.is_(None), vms.c.desired_state == "present")
        .order_by(vms.c.vm_no)
        .limit(limit)
    )
    return [(row.submission_id, row.vm_no) for row in rows]


async def has_requested(conn: AsyncConnection, submission_id: UUID) -> bool:
    """Whether a submission has VMs that are wanted and not bound."""
    wanted = select(vms.c.vm_no).where(
        vms.c.submission_id == submission_id, vms.c.state == "REQUESTED", vms.c.desired_state == "present"
    )
    return (await conn.execute(wanted.limit(1))).first() is not None


async def waiting_unsent(conn: AsyncConnection, submission_id: UUID) -> list[Vm]:
    """The VMs of a submission whose creation is due, the latest first."""
    rows = await conn.execute(
        select(vms)
        .join(
            creations,
            and_(creations.c.submission_id == vms.c.submission_id, creations.c.creation_no == vms.c.creation_no),
        )
        .where(vms.c.submission_id == submission_id, vms.c.state == "REQUESTED", vms.c.desired_state == "present")
        .where(creations.c.state == "due")
        .order_by(vms.c.vm_no.desc())
    )
    return await from_rows(Vm, rows)


async def claim_deletes(conn: AsyncConnection, *, now: datetime, lease: timedelta, token: UUID, limit: int) -> list[Vm]:
    """Lease up to `limit` VMs whose deletion is due, fair between submissions."""
    candidates = await fair_claims.due_deletions(conn, now=now, limit=2 * limit)
    which = and_(vms.c.delete_due_at <= now, is_free(now))
    changes = {"lease_token": token, "lease_until": now + lease}
    return await claim_in_turn(conn, candidates, which, limit=limit, changes=changes)


def is_free(now: datetime) -> ColumnElement[bool]:
    """Whether nobody has the lease of a VM."""
    return or_(vms.c.lease_token.is_(None), vms.c.lease_until < now)


async def claim_in_turn(
    conn: AsyncConnection,
    candidates: Sequence[Ref],
    which: ColumnElement[bool],
    *,
    limit: int,
    changes: Mapping[str, object],
) -> list[Vm]:
    """Change the first `limit` of `candidates` that are still in `which`; those that others are claiming are passed over.

    So there should be more candidates than needed.
    """
    turn = fair_claims.turns(candidates)
    due = (
        select(vms.c.submission_id, vms.c.vm_no)
        .join(turn, and_(vms.c.submission_id == turn.c.submission_id, vms.c.vm_no == turn.c.number))
        .where(which)
        .order_by(turn.c.turn)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True, of=vms)
        .cte("due")  # a CTE, as in `claim_where`
    )
    return await _change(conn, due, changes)


async def claim_where(
    conn: AsyncConnection,
    which: ColumnElement[bool],
    order: ColumnElement[object],
    *,
    limit: int,
    now: datetime,
    changes: Mapping[str, object],
) -> list[Vm]:
    """Change the first VMs that nobody holds in an order."""
    due = (
        select(vms.c.submission_id, vms.c.vm_no)
        .where(which, is_free(now))
        .order_by(order, vms.c.submission_id, vms.c.vm_no)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
        # A CTE: the planner may run a subquery more than once, and each run would lease another `limit` rows.
        .cte("due")
    )
    return await _change(conn, due, changes)


async def _change(conn: AsyncConnection, due: CTE, changes: Mapping[str, object]) -> list[Vm]:
    claimed = await conn.execute(
        update(vms)
        .where(vms.c.submission_id == due.c.submission_id, vms.c.vm_no == due.c.vm_no)
        .values(**changes)
        .returning(vms)
    )
    return sorted(await from_rows(Vm, claimed), key=lambda vm: vm.ref)


@dataclass(frozen=True, slots=True, kw_only=True)
class VmFilter:
    """The filters of `GET /v1/vms`."""

    submission_id: UUID | None = None
    state: str | None = None
    assignment: str | None = None
    ready: bool | None = None
    stuck: bool | None = None
    region: str | None = None
    flavor: str | None = None
    contract_id: int | None = None
    name: str | None = None  # a part of the name
    alive: bool | None = None  # has not ended


async def page(conn: AsyncConnection, wanted: VmFilter, *, after: Ref | None, limit: int) -> list[Vm]:
    """A page of VMs in the order of their keys: oldest submission first."""
    query = select(vms).order_by(vms.c.submission_id, vms.c.vm_no).limit(limit)
    query = query.where(*_equals(wanted), *_in_partial_indexes(wanted))
    if wanted.name:
        query = query.where(vms.c.name.icontains(wanted.name, autoescape=True))
    if after:
        query = query.where(tuple_(vms.c.submission_id, vms.c.vm_no) > after)
    rows = await conn.execute(query)
    return await from_rows(Vm, rows)


def _equals(wanted: VmFilter) -> Iterator[ColumnElement[bool]]:
    for column in ("submission_id", "state", "assignment", "region", "flavor", "contract_id"):
        value = getattr(wanted, column)
        if value is not None:
            yield vms.c[column] == value


def _in_partial_indexes(wanted: VmFilter) -> Iterator[ColumnElement[bool]]:
    """What partial indexes hold has to stand in the statement: no plan is made from a parameter."""
    for flag, column in (
        (wanted.ready, vms.c.ready),
        (wanted.stuck, vms.c.stuck),
        (wanted.alive, vms.c.ended_at.is_(None)),
    ):
        if flag is not None:
            yield column if flag else ~column
    if wanted.ready or (wanted.state is not None and wanted.state not in ENDED):
        yield vms.c.ended_at.is_(None)
    if wanted.state in {VmState.ERROR, VmState.LOST}:
        yield literal_column(BROKEN)


async def boot_times(conn: AsyncConnection, *, since: datetime, at_least: int) -> dict[tuple[str, str | None], float]:
    """The 95th percentile of the seconds until VMs became ACTIVE, by flavor and region, if at least `at_least` did.

    Older submissions than `since` are not read: their ids begin with their time.
    """
    took = func.extract("epoch", vms.c.active_at - vms.c.bound_at)
    rows = await conn.execute(
        select(vms.c.flavor, vms.c.region, func.percentile_cont(0.95).within_group(took).label("p95"))
        .where(vms.c.submission_id >= uuid7(since, bytes(8)))
        .where(vms.c.active_at >= since, vms.c.bound_at.is_not(None))
        .group_by(vms.c.flavor, vms.c.region)
        .having(func.count() >= at_least)
    )
    return {(row.flavor, row.region): float(row.p95) for row in rows}


async def times_replaced(conn: AsyncConnection, vm: Vm) -> int:
    """How many VMs this one replaced, one after another."""
    row = await conn.execute(
        text("""
        WITH RECURSIVE before AS (
            SELECT CAST(:submission_id AS uuid) AS submission_id, CAST(:replaces AS int) AS vm_no
            UNION ALL
            SELECT vms.submission_id, vms.replaces FROM vms JOIN before USING (submission_id, vm_no)
        )
        SELECT count(*) FROM before WHERE vm_no IS NOT NULL
        """),
        {"submission_id": vm.submission_id, "replaces": vm.replaces},
    )
    return int(row.scalar_one())

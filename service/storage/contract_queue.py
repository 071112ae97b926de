"""The table `vms` as the queues of contracts: who waits, whose room is promised, and what is being replaced."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import and_, delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.vm import Vm
from service.storage import fair_claims
from service.storage.arrays import is_any
from service.storage.tables import ON_CONTRACT, REFILLING, REPLACING, WAITING, contract_leases, vms
from service.storage.vms import Ref, claim_in_turn, claim_where, is_free

#: The submission of a VM, its number, and that of the VM that is created in its place.
Pair = tuple[UUID, int, int | None]


async def claim_contracts(
    conn: AsyncConnection, *, now: datetime, lease: timedelta, token: UUID, limit: int
) -> list[Vm]:
    """Lease VMs that are not on their contract and due for another try, fair between submissions."""
    candidates = await fair_claims.due_contracts(conn, now=now, limit=2 * limit)
    which = and_(vms.c.contract_due_at <= now, vms.c.desired_state == "present", is_free(now))
    changes = {"lease_token": token, "lease_until": now + lease}
    return await claim_in_turn(conn, candidates, which, limit=limit, changes=changes)


async def claim_ahead(
    conn: AsyncConnection,
    contract_id: int,
    *,
    before: datetime,
    soon: datetime,
    now: datetime,
    lease: timedelta,
    token: UUID,
    limit: int,
) -> list[Vm]:
    """Lease VMs that are not due and have waited for a contract since before a time, those first that wait longest.

    Those that are due by `soon` are leased too.
    """
    which = and_(text(WAITING), vms.c.contract_id == contract_id, vms.c.contract_due_at > now)
    wanted = or_(vms.c.on_demand_since < before, vms.c.contract_due_at <= soon)
    return await claim_where(
        conn,
        and_(which, wanted, vms.c.desired_state == "present"),
        vms.c.on_demand_since,
        limit=limit,
        now=now,
        changes={"lease_token": token, "lease_until": now + lease},
    )


async def promised_gpus(conn: AsyncConnection, contract_id: int) -> dict[str | None, int]:
    """The GPUs of a contract, by model, that VMs will take which were asked for on it and are not made yet.

    VMs that are being deleted to be replaced count too. A VM whose number of GPUs is not known counts as one; those whose
    model is not known are under None.
    """
    wanted = and_(vms.c.state == "REQUESTED", vms.c.assignment == "wanted", vms.c.ended_at.is_(None))
    rows = await conn.execute(
        select(vms.c.gpu_model, func.sum(func.coalesce(vms.c.gpu_count, 1)).label("gpus"))
        .where(vms.c.contract_id == contract_id, or_(wanted, text(REFILLING)))
        .group_by(vms.c.gpu_model)
    )
    return {row.gpu_model: int(row.gpus) for row in rows}


async def count_replacing(conn: AsyncConnection, submission_ids: Iterable[UUID]) -> dict[UUID, int]:
    """How many VMs of each submission are being replaced to get onto their contract.

    A VM that was replaced, or a replacement that was dropped, counts until its deletion has begun: until then there is one
    more than asked for.
    """
    newer = vms.alias("newer")
    created_first = and_(vms.c.member, vms.c.replaced_by.is_not(None))
    surplus = or_(vms.c.replaced_by.is_not(None), and_(vms.c.replaces.is_not(None), ~vms.c.member))
    retiring = and_(vms.c.delete_due_at.is_not(None), surplus, vms.c.state.not_in(("DELETING", "LOST")))
    deleted_first = and_(
        vms.c.refill, or_(newer.c.vm_no.is_(None), and_(newer.c.ready_at.is_(None), newer.c.ended_at.is_(None)))
    )
    rows = await conn.execute(
        select(vms.c.submission_id, func.count().label("vms"))
        .outerjoin(newer, and_(newer.c.submission_id == vms.c.submission_id, newer.c.vm_no == vms.c.replaced_by))
        .where(is_any(vms.c.submission_id, submission_ids), or_(created_first, retiring, deleted_first))
        .group_by(vms.c.submission_id)
    )
    return {row.submission_id: row.vms for row in rows}


async def unresolved(conn: AsyncConnection, *, limit: int) -> list[Pair]:
    """VMs with replacements under way that nothing is tried for any more."""
    which = and_(text(REPLACING), vms.c.contract_due_at.is_(None))
    rows = await conn.execute(select(vms.c.submission_id, vms.c.vm_no, vms.c.replaced_by).where(which).limit(limit))
    return [(row.submission_id, row.vm_no, row.replaced_by) for row in rows]


async def contracts_in_use(conn: AsyncConnection) -> list[int]:
    """The contracts that living VMs are on, or were on until they ended."""
    rows = await conn.execute(
        select(vms.c.contract_id)
        .where(text(ON_CONTRACT), vms.c.contract_id.is_not(None))
        .group_by(vms.c.contract_id)
        .order_by(vms.c.contract_id)
    )
    return list(rows.scalars())


async def on_contract(conn: AsyncConnection, contract_id: int, *, ended: bool, limit: int) -> list[Ref]:
    """VMs that are on a contract; with `ended` those of which it is on record that the contract has ended."""
    rows = await conn.execute(
        select(vms.c.submission_id, vms.c.vm_no)
        .where(text(ON_CONTRACT), vms.c.contract_id == contract_id, vms.c.contract_ended == ended)
        .where(vms.c.desired_state == "present")
        .order_by(vms.c.submission_id, vms.c.vm_no)
        .limit(limit)
    )
    return [(row.submission_id, row.vm_no) for row in rows]


async def gone_to_refill(conn: AsyncConnection, *, limit: int) -> list[Ref]:
    """VMs that were deleted to be replaced, and that are gone."""
    rows = await conn.execute(
        select(vms.c.submission_id, vms.c.vm_no).where(text(REFILLING), vms.c.ended_at.is_not(None)).limit(limit)
    )
    return [(row.submission_id, row.vm_no) for row in rows]


async def wake_waiting(conn: AsyncConnection, contract_id: int, *, now: datetime, limit: int) -> int:
    """Make the VMs due that have waited longest for room on a contract; how many. Those that somebody holds are left alone."""
    first = (
        select(vms.c.submission_id, vms.c.vm_no)
        .where(text(WAITING), vms.c.contract_id == contract_id, vms.c.contract_due_at > now)
        .where(vms.c.lease_token.is_(None))
        .order_by(vms.c.on_demand_since, vms.c.submission_id, vms.c.vm_no)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
        .cte("first")
    )
    done = await conn.execute(
        update(vms)
        .where(vms.c.submission_id == first.c.submission_id, vms.c.vm_no == first.c.vm_no)
        .values(contract_due_at=now)
    )
    return done.rowcount


async def lease_contract(
    conn: AsyncConnection, contract_id: int, *, token: UUID, now: datetime, lease: timedelta
) -> bool:
    """Take the right to deal with a contract's queue. Returns whether nobody else has it."""
    until = now + lease
    taken = insert(contract_leases).values(contract_id=contract_id, lease_token=token, lease_until=until)
    done = await conn.execute(
        taken.on_conflict_do_update(
            constraint="contract_leases_pkey",
            set_={"lease_token": token, "lease_until": until},
            where=contract_leases.c.lease_until < now,
        )
    )
    return done.rowcount > 0


async def release_contract(conn: AsyncConnection, contract_id: int, *, token: UUID) -> None:
    """Give that right back, if `token` still has it."""
    await conn.execute(
        delete(contract_leases).where(
            contract_leases.c.contract_id == contract_id, contract_leases.c.lease_token == token
        )
    )

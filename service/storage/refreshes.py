"""The table `vms` as refreshes need it: what is due, what a list shows otherwise than the record, what it does not show."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, not_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.vm import Vm
from service.storage.arrays import are_any
from service.storage.rows import from_rows
from service.storage.tables import vms
from service.storage.vms import Ref


async def due_refreshes(conn: AsyncConnection, *, now: datetime, limit: int, without: Iterable[Ref] = ()) -> list[Vm]:
    """VMs whose refresh is due, those that wait longest first; without those that another transaction has locked.

    Those in `without` are not locked either, so that what is under way can be completed meanwhile.
    """
    rows = await conn.execute(
        select(vms)
        .where(vms.c.next_refresh_at <= now, vms.c.provider_id.is_not(None))
        .where(not_(are_any((vms.c.submission_id, vms.c.vm_no), list(without))))
        .order_by(vms.c.next_refresh_at, vms.c.submission_id, vms.c.vm_no)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    )
    return await from_rows(Vm, rows)


async def count_due_refreshes(conn: AsyncConnection, *, now: datetime, limit: int) -> int:
    """How many VMs' refreshes are due, up to `limit`."""
    due = select(vms.c.vm_no).where(vms.c.next_refresh_at <= now, vms.c.provider_id.is_not(None))
    due = due.order_by(vms.c.next_refresh_at).limit(limit)  # by the index; without an order Postgres may read the table
    return (await conn.execute(select(func.count()).select_from(due.subquery()))).scalar_one()


@dataclass(frozen=True, slots=True)
class ListedVm:
    """What a list shows of a VM, as far as it may differ from the record."""

    provider_id: int
    state: str | None
    status: str | None
    contract_id: int | None
    floating_ip: str | None
    fixed_ip: str | None


_TO_REFRESH = """
SELECT vms.submission_id, vms.vm_no
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[])
     AS listed (provider_id, state, status, contract_id, floating_ip, fixed_ip)
JOIN vms USING (provider_id)
WHERE vms.ended_at IS NULL AND vms.state <> 'REQUESTED'
  AND (vms.next_refresh_at <= $7
       OR listed.state <> vms.state
       OR listed.state IS NULL AND listed.status IS DISTINCT FROM vms.provider_status
       OR listed.contract_id IS DISTINCT FROM vms.observed_contract_id
       OR listed.floating_ip IS DISTINCT FROM vms.floating_ip
       OR listed.fixed_ip IS DISTINCT FROM vms.fixed_ip)
ORDER BY vms.submission_id, vms.vm_no
"""


async def to_refresh(conn: AsyncConnection, listed: Sequence[ListedVm], *, now: datetime) -> list[Ref]:
    """The living VMs whose refresh is due, or of which a list shows something else than the record has."""
    columns = [
        [getattr(one, name) for one in listed]
        for name in ("provider_id", "state", "status", "contract_id", "floating_ip", "fixed_ip")
    ]
    rows = await conn.exec_driver_sql(_TO_REFRESH, (*columns, now))
    return [(row.submission_id, row.vm_no) for row in rows]


async def absent(conn: AsyncConnection, listed: Container[int], *, now: datetime, limit: int = 5000) -> dict[Ref, bool]:
    """VMs whose refresh is due and that are not among the listed provider ids; whether their end was announced.

    To be called when the list was applied: the refreshes of the VMs that it shows are due no more.
    """
    rows = await conn.execute(
        select(vms.c.submission_id, vms.c.vm_no, vms.c.provider_id, vms.c.deletion_announced)
        .where(vms.c.next_refresh_at <= now, vms.c.provider_id.is_not(None))
        .order_by(vms.c.next_refresh_at, vms.c.submission_id, vms.c.vm_no)
        .limit(limit)
    )
    missing = [row for row in rows if row.provider_id not in listed]
    return {(row.submission_id, row.vm_no): row.deletion_announced for row in missing}


_UNKNOWN = """
SELECT listed.id FROM unnest($1::bigint[]) AS listed (id)
WHERE NOT EXISTS (
    SELECT FROM vms WHERE vms.provider_id = listed.id
      AND (vms.ended_at IS NULL OR vms.ended_at >= $2 OR vms.state = 'RELEASED')
)
"""


async def unknown_ids(conn: AsyncConnection, provider_ids: Iterable[int], *, at: datetime) -> list[int]:
    """The ids of a list begun at `at` that no record has. A VM that ended since may still be in the list: it is known.

    So is one that was released: nothing is done to it any more.
    """
    rows = await conn.exec_driver_sql(_UNKNOWN, (list(provider_ids), at))
    return list(rows.scalars())


async def defer_refreshes(
    conn: AsyncConnection, refs: Iterable[Ref], *, until: datetime, reason: str | None = None
) -> None:
    """Make refreshes due at `until`, count the attempt, and note the reason on the VMs if there is one."""
    values = {"next_refresh_at": until, "refresh_attempts": vms.c.refresh_attempts + 1}
    await conn.execute(
        update(vms)
        .where(are_any((vms.c.submission_id, vms.c.vm_no), list(refs)), vms.c.next_refresh_at.is_not(None))
        .values(**values, **({"reason": reason} if reason else {}))
    )


async def count_alive(conn: AsyncConnection, *, limit: int) -> int:
    """How many VMs the provider should show in a list, up to `limit`."""
    alive = select(vms.c.vm_no).where(vms.c.next_refresh_at.is_not(None), vms.c.provider_id.is_not(None)).limit(limit)
    return (await conn.execute(select(func.count()).select_from(alive.subquery()))).scalar_one()

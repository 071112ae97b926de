"""The way of VMs until they were ready, as the record has it."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.journey import Journey, JourneyCall
from service.core.vm import Transition, Vm
from service.queries.timeline import calls_of, transitions_of
from service.storage.arrays import are_any, is_any
from service.storage.rows import from_rows
from service.storage.tables import submissions, vms


async def read(conn: AsyncConnection, refs: Iterable[tuple[UUID, int]]) -> list[Journey]:
    """The journeys of VMs, so far. Those that do not exist are left out."""
    key = (vms.c.submission_id, vms.c.vm_no)
    found = await from_rows(Vm, await conn.execute(select(vms).where(are_any(key, list(refs)))))
    wanted = select(
        submissions.c.submission_id, submissions.c.name, submissions.c.requested_by, submissions.c.traceparent
    ).where(is_any(submissions.c.submission_id, {vm.submission_id for vm in found}))
    asked = {row.submission_id: row for row in await conn.execute(wanted)}
    return [await _of_vm(conn, vm, asked[vm.submission_id]) for vm in found]


async def _of_vm(conn: AsyncConnection, vm: Vm, asked: Any) -> Journey:
    moves: Sequence[Transition] = await from_rows(Transition, await transitions_of(conn, vm))
    calls = await calls_of(conn, vm, [one.evidence_id for one in moves if one.evidence_id])
    return Journey(
        vm=vm,
        submission_name=asked.name,
        requested_by=asked.requested_by,
        traceparent=asked.traceparent,
        calls=await from_rows(JourneyCall, calls),
        transitions=moves,
    )

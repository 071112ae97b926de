"""Wakes VMs that wait for room on a contract when others leave it."""

from collections import Counter
from collections.abc import Iterable

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.contract import Assignment
from service.core.lifecycle import ENDED
from service.core.vm import Change
from service.runtime.runtime import Runtime
from service.storage import contract_queue


async def wake_for(rt: Runtime, conn: AsyncConnection, changes: Iterable[Change]) -> None:
    """Make as many waiting VMs due as GPUs became free by `changes`, those first that have waited longest."""
    freed = Counter[int]()
    for change in changes:
        vm = change.vm
        gone = vm.state in ENDED and vm.assignment is Assignment.ASSIGNED and change.transition is not None
        left = change.note is not None and change.note.outcome == "on_demand" and change.note.step == "refresh"
        if vm.contract_id is not None and (gone or left):
            freed[vm.contract_id] += max(vm.gpu_count or 1, 1)
    for contract_id, gpus in sorted(freed.items()):
        await contract_queue.wake_waiting(conn, contract_id, now=rt.clock.now(), limit=gpus)

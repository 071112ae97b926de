"""Reads the events histories of VMs whose callbacks seem to be missing, and stores the entries as events.

They move no VM, since a refresh did that already; they complete the timeline (infrahub-api.md section 5.3).
"""

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.observation import HistoryEntry
from service.core.vm import Vm
from service.errors import CredentialsRejected, TryLater, Unconfirmed
from service.operations.provider_calls import CallResult, acquire, call_about, make_call, record_results
from service.provider.decoding import encode
from service.runtime.runtime import Runtime
from service.runtime.slots import Claimed, slots
from service.storage import calls, events, vms
from service.storage.calls import Call
from service.storage.engine import transact
from service.storage.events import Event, history_of


async def run_once(rt: Runtime) -> int:
    """Read due histories, as many as there are slots, and wait for the answers. Returns how many."""
    claimed = await claim(rt, slots(rt.settings)["history"])
    return await claimed.make_calls()


async def claim(rt: Runtime, free: int) -> Claimed:
    """Claim up to `free` due histories, within the rate limit. Returns the calls that read them."""
    to_call = await transact(rt.engine, lambda conn: _claim(rt, conn, free))
    return Claimed(len(to_call), [partial(_read, rt, vm, call) for vm, call in to_call])


async def _claim(rt: Runtime, conn: AsyncConnection, free: int) -> list[tuple[Vm, Call]]:
    now = rt.clock.now()
    granted = await acquire(rt, conn, "history", await vms.count_histories(conn, now=now, limit=free))
    if not granted:
        return []
    # If this process dies, it is due again then. Reading a history twice does no harm.
    again = now + rt.lease(rt.settings.call_timeout)
    claimed = await vms.claim_histories(conn, now=now, again=again, limit=granted)
    to_call = [(vm, call_about(rt, vm, "history")) for vm in claimed]
    await calls.begin(conn, [call for _, call in to_call])
    return to_call


async def _read(rt: Runtime, vm: Vm, call: Call) -> None:
    provider_id = vm.provider_id
    assert provider_id is not None  # noqa: S101  only bound VMs have a history
    result = await make_call(rt, call, lambda: rt.client.vm_events(provider_id))
    await transact(rt.engine, lambda conn: _complete(rt, conn, vm, result))


async def _complete(rt: Runtime, conn: AsyncConnection, vm: Vm, result: CallResult[tuple[HistoryEntry, ...]]) -> None:
    await record_results(rt, conn, [result])
    match result.error:
        case None:
            await events.insert_history(conn, _events(rt, vm, result.value or ()), since=vm.created_at)
            due_at = None
        case TryLater() | Unconfirmed() | CredentialsRejected():
            due_at = rt.clock.now() + timedelta(seconds=rt.settings.resync_seconds)
        case _:  # the VM is gone, or has no readable history: another call would not help
            due_at = None
    await vms.defer_history(conn, vm.ref, due_at)


def _events(rt: Runtime, vm: Vm, items: Sequence[HistoryEntry]) -> list[Event]:
    # Sorted keys, so that the same entry always has the same digest.
    bodies = dict.fromkeys(encode(item.raw) for item in items)
    return [
        Event(
            submission_id=vm.submission_id,
            received_at=rt.clock.now(),
            event_id=rt.uuid(),
            creation_no=vm.creation_no,
            source="history",
            body=body,
            headers={},
            peer=history_of(vm.provider_id),
            digest=hashlib.sha256(body).digest(),
        )
        for body in bodies
    ]

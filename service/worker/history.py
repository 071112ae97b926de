"""Reads the provider's events history of VMs whose callbacks seem to be missing, and keeps it beside the callbacks.

What it says moves nothing: a reading did that already. It is kept so that the story of a VM has no gaps, as events
with a source of their own (infrahub-api.md section 5.3).
"""

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.observation import HistoryEntry
from service.core.vm import Vm
from service.errors import CredentialsRejected, TryLater, Unconfirmed
from service.operations.provider_calls import CallResult, acquire, call_about, make_call, record_results
from service.runtime.runtime import Runtime
from service.storage import calls, events, vms
from service.storage.calls import Call
from service.storage.engine import transact
from service.storage.events import Event, history_of

_AT_ONCE = 8


async def run_once(rt: Runtime) -> int:
    """Read the histories that are due, as far as the budget allows; how many."""
    to_call = await transact(rt.engine, partial(_claim, rt))
    await asyncio.gather(*(_read(rt, vm, call) for vm, call in to_call))
    return len(to_call)


async def _claim(rt: Runtime, conn: AsyncConnection) -> list[tuple[Vm, Call]]:
    now = rt.clock.now()
    granted = await acquire(rt, conn, "history", await vms.count_histories(conn, now=now, limit=_AT_ONCE))
    if not granted:
        return []
    # Who dies in the middle leaves it due again a little later; reading a history twice does no harm.
    again = now + timedelta(seconds=rt.settings.call_timeout + 30)
    to_call = [
        (vm, call_about(rt, vm, "history"))
        for vm in await vms.claim_histories(conn, now=now, again=again, limit=granted)
    ]
    await calls.begin(conn, [call for _, call in to_call])
    return to_call


async def _read(rt: Runtime, vm: Vm, call: Call) -> None:
    provider_id = vm.provider_id
    assert provider_id is not None  # noqa: S101  only bound VMs are due for a reading
    asked = await make_call(rt, call, lambda: rt.client.vm_events(provider_id))
    await transact(rt.engine, lambda conn: _settle(rt, conn, vm, asked))


async def _settle(rt: Runtime, conn: AsyncConnection, vm: Vm, asked: CallResult[tuple[HistoryEntry, ...]]) -> None:
    await record_results(rt, conn, [asked])
    match asked.error:
        case None:
            await events.insert_history(conn, _events(rt, vm, asked.value or ()), since=vm.created_at)
            due_at = None
        case TryLater() | Unconfirmed() | CredentialsRejected():
            due_at = rt.clock.now() + timedelta(seconds=rt.settings.resync_seconds)
        case _:  # it is gone, or has no history for us: asking again would not change that
            due_at = None
    await vms.defer_history(conn, vm.ref, due_at)


def _events(rt: Runtime, vm: Vm, items: Sequence[HistoryEntry]) -> list[Event]:
    # Sorted keys: the same entry has the same digest, in whatever order the provider writes it next time.
    bodies = dict.fromkeys(orjson.dumps(dict(item.raw), option=orjson.OPT_SORT_KEYS) for item in items)
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

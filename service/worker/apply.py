"""Applies kept callbacks: hundreds in a transaction, VMs locked in one order, judged in memory, written by sets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.event import Callback, Unreadable, parse
from service.core.evidence import hear
from service.core.lifecycle import EvidenceKind
from service.core.token import CreationRef
from service.core.vm import Change, Source, Vm
from service.errors import StorageError, StorageUnavailable
from service.runtime import Runtime
from service.storage import creations, events, vms
from service.storage.creations import Creation
from service.storage.engine import transact
from service.storage.events import Event, Queued, SetAside
from service.worker import binding

GROUP = 500
_MAX_TRIES = 5
#: The longest that an event waits which came before its creation was answered. Settling the creation wakes it sooner.
_PARK = timedelta(seconds=30)
_UNSETTLED = frozenset({"due", "calling", "unconfirmed"})


@dataclass(slots=True)
class _Sorted:
    """What is to be done with each event of a group."""

    heard: list[tuple[Event, Callback]] = field(default_factory=list)
    aside: list[SetAside] = field(default_factory=list)
    parked: list[Event] = field(default_factory=list)
    strangers: list[tuple[Event, Callback]] = field(default_factory=list)


async def run_once(rt: Runtime, *, limit: int = GROUP) -> int:
    """Apply a group of queued events; how many were taken from the queue or put off.

    A group that cannot be applied is applied one by one, so that a poison event stands alone and is set aside
    after a few tries, and never blocks another.
    """
    try:
        return await transact(rt.engine, lambda conn: _apply(rt, conn, limit))
    except StorageUnavailable:
        raise
    except (StorageError, ValueError):
        return await _one_by_one(rt, limit)


async def _one_by_one(rt: Runtime, limit: int) -> int:
    done = 0
    for _ in range(limit):
        try:
            taken = await transact(rt.engine, lambda conn: _apply(rt, conn, 1))
        except StorageUnavailable:
            raise
        except (StorageError, ValueError) as error:
            taken = await transact(rt.engine, partial(_poison, rt, reason=str(error)))
        if not taken:
            break
        done += taken
    return done


async def _poison(rt: Runtime, conn: AsyncConnection, *, reason: str) -> int:
    """Put off the event that is first in the queue, or set it aside when it was tried often enough."""
    now = rt.clock.now()
    queued = await events.take_queued(conn, now=now, limit=1)
    for one in queued:
        if one.tries + 1 < _MAX_TRIES:
            await events.count_failure(conn, [one.event], until=now + rt.retry.after(one.tries + 1, rt.jitter()))
        else:
            await _put_aside(rt, conn, [_aside(rt, one.event, "poison", reason)])
            await events.dequeue(conn, [one.event])
    return len(queued)


async def _apply(rt: Runtime, conn: AsyncConnection, limit: int) -> int:
    queued = await events.take_queued(conn, now=rt.clock.now(), limit=limit)
    if not queued:
        return 0
    sorted_, bound = await _sort(rt, conn, queued)
    changes, latest = _hear_all(rt, sorted_.heard, bound)
    await vms.save_changes(conn, latest, changes)
    await _put_aside(rt, conn, sorted_.aside)
    await events.park(conn, sorted_.parked, now=rt.clock.now(), longest=_PARK)
    for event, callback in sorted_.strangers:
        await _note_stranger(rt, conn, event, callback)
    parked = {event.key for event in sorted_.parked}
    await events.dequeue(conn, [one.event for one in queued if one.event.key not in parked])
    _count(rt, changes)
    return len(queued)


async def _sort(
    rt: Runtime, conn: AsyncConnection, queued: Sequence[Queued]
) -> tuple[_Sorted, dict[tuple[object, int], Vm]]:
    sorted_, named = _Sorted(), list[tuple[Event, Callback]]()
    for one in queued:
        match parse(one.event.body):
            case Unreadable(reason):
                sorted_.aside.append(_aside(rt, one.event, "unreadable", reason))
            case callback:
                named.append((one.event, callback))
    locked = await vms.lock_bound(conn, {(event.submission_id, callback.provider_id) for event, callback in named})
    bound: dict[tuple[object, int], Vm] = {
        (vm.submission_id, vm.provider_id): vm for vm in locked.values() if vm.provider_id is not None
    }
    unbound = [one for one in named if (one[0].submission_id, one[1].provider_id) not in bound]
    known = await creations.read(conn, sorted({event.ref for event, _ in unbound})) if unbound else {}
    bound |= await _bound_meanwhile(conn, unbound, known)
    sorted_.heard = [one for one in named if (one[0].submission_id, one[1].provider_id) in bound]
    for event, callback in unbound:
        if (event.submission_id, callback.provider_id) not in bound:
            _sort_unbound(rt, sorted_, event, callback, known.get(event.ref))
    return sorted_, bound


async def _bound_meanwhile(
    conn: AsyncConnection, unbound: Sequence[tuple[Event, Callback]], known: Mapping[CreationRef, Creation]
) -> dict[tuple[object, int], Vm]:
    """VMs of creations that are settled: each may have been bound between our looks at VMs and at creations."""
    doubtful = {
        (event.submission_id, callback.provider_id)
        for event, callback in unbound
        if (creation := known.get(event.ref)) is not None and creation.state not in _UNSETTLED
    }
    locked = await vms.lock_bound(conn, doubtful) if doubtful else {}
    return {(vm.submission_id, vm.provider_id): vm for vm in locked.values() if vm.provider_id is not None}


def _sort_unbound(rt: Runtime, sorted_: _Sorted, event: Event, callback: Callback, creation: Creation | None) -> None:
    if creation is not None and creation.state in _UNSETTLED:
        sorted_.parked.append(event)
        if creation.state == "due" and creation.attempt > 0:
            # It is about to be sent again, and a VM of an earlier attempt speaks: that one is looked at first.
            sorted_.strangers.append((event, callback))
        return
    reason = "the creation is settled without it" if creation else "no creation of ours"
    sorted_.aside.append(_aside(rt, event, "unknown_vm", reason, callback.provider_id))
    if creation is not None:
        sorted_.strangers.append((event, callback))


def _hear_all(
    rt: Runtime, heard: Iterable[tuple[Event, Callback]], bound: dict[tuple[object, int], Vm]
) -> tuple[list[Change], list[Vm]]:
    """Judge events in the order they came in; the changes, and each changed VM's latest record."""
    now = rt.clock.now()
    changes: list[Change] = []
    latest: dict[tuple[object, int], Vm] = {}
    for event, callback in heard:
        key = (event.submission_id, callback.provider_id)
        source = Source(kind=EvidenceKind.EVENT, at=event.received_at, now=now, id=event.event_id)
        change = hear(latest.get(key, bound[key]), callback, source, rt.pace)
        changes.append(change)
        latest[key] = change.vm
    return changes, [vm for key, vm in latest.items() if vm != bound[key]]


async def _note_stranger(rt: Runtime, conn: AsyncConnection, event: Event, callback: Callback) -> None:
    """A VM that nobody waits for speaks on a URL of ours: perhaps a call that was fulfilled late. It is looked at."""
    ref = CreationRef(event.submission_id, event.creation_no)
    reason = "heard of by a callback after its creation was settled without it"
    await binding.note_orphan(rt, conn, ref, callback.provider_id, name=None, state="suspected", reason=reason)


def _aside(rt: Runtime, event: Event, kind: str, reason: str, provider_id: int | None = None) -> SetAside:
    submission_id, received_at, event_id = event.key
    return SetAside(
        submission_id=submission_id,
        received_at=received_at,
        event_id=event_id,
        kind=kind,
        reason=reason[:500],
        provider_id=provider_id,
        at=rt.clock.now(),
    )


async def _put_aside(rt: Runtime, conn: AsyncConnection, which: Sequence[SetAside]) -> None:
    await events.put_aside(conn, which)
    for one in which:
        rt.metrics.set_aside.labels(one.kind).inc()


def _count(rt: Runtime, changes: Sequence[Change]) -> None:
    for change in changes:
        rt.metrics.events.labels(change.verdict).inc()
    binding.count(rt, changes)

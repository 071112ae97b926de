"""Applies kept callbacks: hundreds in a transaction, VMs locked in one order, judged in memory, written by sets."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.event import Callback, Unreadable, parse
from service.core.evidence import apply_callback
from service.core.lifecycle import EvidenceKind
from service.core.token import CreationRef
from service.core.vm import Change, Provenance, Vm
from service.errors import Unstorable
from service.operations import binding
from service.runtime.runtime import Runtime
from service.storage import apply_callbacks, creations, events
from service.storage.apply_callbacks import Bound
from service.storage.creations import Creation
from service.storage.engine import transact
from service.storage.events import DeadLetter, InboxEvent, Lane

#: The most that one transaction applies. Larger groups gain nothing, and keep VMs locked for longer.
GROUP = 1000
_WHOLE = Lane()
_LANES = (Lane(0, 2), Lane(1, 2))
#: The most groups of a lane in one pass, so that a daemon that is to stop is not kept waiting.
_GROUPS = 16
#: How many events are judged in one go: callbacks that come in meanwhile wait for no more than these.
_AT_ONCE = 100
_MAX_TRIES = 5
#: The longest that an event waits which came before its creation was answered. Settling the creation wakes it sooner.
_PARK = timedelta(seconds=30)
_UNSETTLED = creations.INCOMPLETE


#: An event and what it claims.
_Named = tuple[InboxEvent, Callback]


@dataclass(slots=True)
class _Sorted:
    """What is to be done with each event of a group."""

    heard: list[_Named] = field(default_factory=list)
    aside: list[DeadLetter] = field(default_factory=list)
    parked: list[InboxEvent] = field(default_factory=list)
    strangers: list[_Named] = field(default_factory=list)


async def run_once(rt: Runtime, *, limit: int = GROUP) -> int:
    """Apply a group of queued events, and of a longer queue many; how many were taken from the queue or put off.

    A long queue is applied in lanes, so that one lane is judged while Postgres works for another. A VM's events are
    all in one lane, and so keep their order.
    """
    done = await _group(rt, limit, _WHOLE)
    if done < limit:
        return done
    lanes = await asyncio.gather(*(_many(rt, limit, lane) for lane in _LANES), return_exceptions=True)
    for failed in lanes:
        if isinstance(failed, BaseException):
            raise failed
        done += failed
    return done


async def _many(rt: Runtime, limit: int, lane: Lane) -> int:
    done = 0
    for _ in range(_GROUPS):
        taken = await _group(rt, limit, lane)
        done += taken
        if taken < limit:
            break
    return done


async def _group(rt: Runtime, limit: int, lane: Lane) -> int:
    """Apply a group. One that cannot be applied is applied in smaller and smaller ones, until a poison event is alone.

    It is set aside after a few tries, and never blocks another. A database that fails by itself (a right that is
    missing, a damaged index) is no event's fault: then all wait for it, and the error is raised.
    """
    try:
        return await transact(rt.engine, partial(_apply, rt, limit=limit, lane=lane))
    except (Unstorable, ValueError):
        return await _in_parts(rt, limit, lane)


async def _in_parts(rt: Runtime, limit: int, lane: Lane) -> int:
    done, part = 0, limit
    while done < limit:
        try:
            taken = await transact(rt.engine, partial(_apply, rt, limit=part, lane=lane))
        except (Unstorable, ValueError) as error:
            if part > 1:
                part //= 2
                continue
            taken = await transact(rt.engine, partial(_poison, rt, lane=lane, reason=str(error)))
        if not taken:
            break
        done, part = done + taken, min(2 * part, limit - done - taken)
    return done


async def _poison(rt: Runtime, conn: AsyncConnection, *, lane: Lane, reason: str) -> int:
    """Put off the event that is first in the queue, or set it aside when it was tried often enough."""
    now = rt.clock.now()
    queued = await events.take_due(conn, now=now, limit=1, lane=lane)
    for one in queued:
        if one.attempts + 1 < _MAX_TRIES:
            await events.record_failure(conn, [one], until=now + rt.retry.after(one.attempts + 1, rt.jitter()))
        else:
            await _put_aside(rt, conn, [_aside(rt, one, "failed", reason)])
            await events.remove_from_inbox(conn, [one])
    return len(queued)


async def _apply(rt: Runtime, conn: AsyncConnection, *, limit: int, lane: Lane) -> int:
    queued = await events.take_due(conn, now=rt.clock.now(), limit=limit, lane=lane)
    if not queued:
        return 0
    sorted_, bound = await _sort(rt, conn, queued)
    changes, latest = await _hear_all(rt, sorted_.heard, bound)
    parked = {event.key for event in sorted_.parked}
    applied = [one for one in queued if one.key not in parked] if parked else queued
    await apply_callbacks.save_applied(conn, latest, changes, applied)
    await _put_aside(rt, conn, sorted_.aside)
    await events.defer(conn, sorted_.parked, now=rt.clock.now(), longest=_PARK)
    for event, callback in sorted_.strangers:
        await _note_stranger(rt, conn, event, callback)
    _count(rt, changes)
    return len(queued)


async def _sort(rt: Runtime, conn: AsyncConnection, queued: Sequence[InboxEvent]) -> tuple[_Sorted, dict[Bound, Vm]]:
    sorted_, named = _Sorted(), list[_Named]()
    for number, one in enumerate(queued):
        if number % _AT_ONCE == _AT_ONCE - 1:
            await asyncio.sleep(0)
        match parse(one.body):
            case Unreadable(reason):
                sorted_.aside.append(_aside(rt, one, "unreadable", reason))
            case callback:
                named.append((one, callback))
    bound = await apply_callbacks.lock_bound(conn, {_whom(one) for one in named})
    unbound = [one for one in named if _whom(one) not in bound]
    if not unbound:
        sorted_.heard = named
        return sorted_, bound
    known = await creations.read(conn, sorted({event.ref for event, _ in unbound}))
    bound |= await _bound_meanwhile(conn, unbound, known)
    sorted_.heard = [one for one in named if _whom(one) in bound]
    for event, callback in unbound:
        if _whom((event, callback)) not in bound:
            _sort_unbound(rt, sorted_, event, callback, known.get(event.ref))
    return sorted_, bound


def _whom(named: _Named) -> Bound:
    event, callback = named
    return event.submission_id, callback.provider_id


async def _bound_meanwhile(
    conn: AsyncConnection, unbound: Sequence[_Named], known: Mapping[CreationRef, Creation]
) -> dict[Bound, Vm]:
    """VMs of creations that are settled: each may have been bound between our looks at VMs and at creations."""
    doubtful = {
        _whom(one)
        for one in unbound
        if (creation := known.get(one[0].ref)) is not None and creation.state not in _UNSETTLED
    }
    return await apply_callbacks.lock_bound(conn, doubtful)


def _sort_unbound(
    rt: Runtime, sorted_: _Sorted, event: InboxEvent, callback: Callback, creation: Creation | None
) -> None:
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


async def _hear_all(rt: Runtime, heard: Sequence[_Named], bound: Mapping[Bound, Vm]) -> tuple[list[Change], list[Vm]]:
    """Judge events in the order they came in; the changes, and each changed VM's latest record."""
    now, refresh_policy = rt.clock.now(), rt.refresh_policy
    changes: list[Change] = []
    latest: dict[Bound, Vm] = {}
    for number, one in enumerate(heard):
        if number % _AT_ONCE == _AT_ONCE - 1:
            await asyncio.sleep(0)
        (event, callback), whom = one, _whom(one)
        provenance = Provenance(kind=EvidenceKind.EVENT, at=event.received_at, now=now, id=event.event_id)
        change = apply_callback(latest.get(whom) or bound[whom], callback, provenance, refresh_policy)
        changes.append(change)
        latest[whom] = change.vm
    return changes, [vm for whom, vm in latest.items() if _differ(vm, bound[whom])]


def _differ(one: Vm, other: Vm) -> bool:
    # The records are wide; what left a transition need not be compared in full.
    return one.seq != other.seq or (one is not other and one != other)


async def _note_stranger(rt: Runtime, conn: AsyncConnection, event: InboxEvent, callback: Callback) -> None:
    """A VM that nobody waits for speaks on a URL of ours: perhaps a call that was fulfilled late. It is looked at."""
    ref = CreationRef(event.submission_id, event.creation_no)
    reason = "heard of by a callback after its creation was settled without it"
    await binding.record_orphan(rt, conn, ref, callback.provider_id, name=None, state="suspected", reason=reason)


def _aside(rt: Runtime, event: InboxEvent, kind: str, reason: str, provider_id: int | None = None) -> DeadLetter:
    submission_id, received_at, event_id = event.key
    return DeadLetter(
        submission_id=submission_id,
        received_at=received_at,
        event_id=event_id,
        kind=kind,
        reason=reason[:500],
        provider_id=provider_id,
        at=rt.clock.now(),
    )


async def _put_aside(rt: Runtime, conn: AsyncConnection, which: Sequence[DeadLetter]) -> None:
    await events.insert_dead_letters(conn, which)
    for one in which:
        rt.metrics.dead_letters.labels(one.kind).inc()


def _count(rt: Runtime, changes: Sequence[Change]) -> None:
    for verdict, times in Counter(change.verdict for change in changes).items():
        rt.metrics.events.labels(verdict).inc(times)
    binding.count_changes(rt, changes)

"""Applies callbacks: hundreds in a transaction, VMs locked in one order, decided in memory, written in sets."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core import storable
from service.core.event import Callback, Unreadable, parse
from service.core.evidence import apply_callback
from service.core.lifecycle import EvidenceKind
from service.core.token import CreationRef
from service.core.vm import Change, Provenance, Vm
from service.operations import binding
from service.operations.parts import ITEM_ERRORS
from service.runtime.cpu import paced
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.runtime.tasks import gather_all
from service.storage import apply_callbacks, creations, events, orphans
from service.storage.apply_callbacks import Bound
from service.storage.creations import Creation
from service.storage.engine import transact
from service.storage.events import DeadLetter, InboxEvent, Lane
from service.storage.orphans import Suspect

#: The most that one transaction applies. Larger groups gain nothing, and lock VMs for longer.
GROUP = 1000
#: The most that one transaction applies while many callbacks come in, so that none of its steps holds the loop for long.
_SMALL: Final = 500
#: Seconds that it rests at most after a group: one that waited for a slow database did not use the loop.
_LONGEST_REST: Final = 0.5
_WHOLE = Lane()
_LANES = (Lane(0, 2), Lane(1, 2))
#: The most groups of a lane in one run, so that a daemon that is to stop need not wait.
_GROUPS = 16
_MAX_TRIES = 5
#: The longest that an event is deferred which came before its creation was complete, or whose VM somebody has locked.
#: Completing the creation resumes it sooner.
_DEFERRED = timedelta(seconds=30)
_INCOMPLETE = creations.INCOMPLETE
_LOCKED: Final = "locked_vms"


#: An event and what it claims.
_Named = tuple[InboxEvent, Callback]


@dataclass(slots=True)
class _Sorted:
    """What is to be done with each event of a group."""

    to_apply: list[_Named] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    deferred: list[InboxEvent] = field(default_factory=list)
    suspects: list[Suspect] = field(default_factory=list)
    locked: set[Bound] = field(default_factory=set)  # VMs that another transaction has locked
    vms: dict[Bound, Vm] = field(default_factory=dict)


async def run_once(rt: Runtime, *, limit: int = GROUP) -> int:
    """Apply a group of due events, and many groups if the inbox is longer. Returns how many left the inbox or were deferred.

    A long inbox is applied in lanes, so that one lane is decided while Postgres works for another. A VM's events are
    all in one lane, and so stay in order. While many callbacks come in, receiving them comes first: see `_beside_receiving`.
    """
    done = await _beside_receiving(rt, min(limit, _SMALL))
    if _share_left(rt) < 1:
        return done
    taken = await _group(rt, limit, _WHOLE)
    if taken == limit:
        taken += sum(await gather_all(_many(rt, limit, lane) for lane in _LANES))
    return done + taken


def _share_left(rt: Runtime) -> float:
    return rt.receive_rate.share_left(rt.clock.now(), rt.callbacks_stored)


async def _beside_receiving(rt: Runtime, limit: int) -> int:
    """Apply small groups while many callbacks come in, and rest after each, so that receiving has its share of the time."""
    done = 0
    for _ in range(_GROUPS):
        if _share_left(rt) == 1:
            break
        begun = rt.clock.monotonic()
        taken = await _group(rt, limit, _WHOLE)
        done += taken
        worked = rt.clock.monotonic() - begun
        await rt.clock.sleep(min(_LONGEST_REST, worked / _share_left(rt) - worked))
        if taken < limit:
            break
    return done


async def _many(rt: Runtime, limit: int, lane: Lane) -> int:
    """Apply groups of a lane, until many callbacks come in."""
    done = 0
    for _ in range(_GROUPS):
        taken = await _group(rt, limit, lane)
        done += taken
        if taken < limit or _share_left(rt) < 1:
            break
    return done


async def _group(rt: Runtime, limit: int, lane: Lane) -> int:
    """Apply a group. One that fails is applied in smaller and smaller ones, until the event that fails is alone.

    It becomes a dead letter after a few tries, and never blocks another. A database that fails by itself (a right that
    is missing, a damaged index) is no event's fault: then all wait for it, and the error is raised.
    """
    try:
        return await _try(rt, limit, lane)
    except ITEM_ERRORS:
        return await _in_parts(rt, limit, lane)


async def _in_parts(rt: Runtime, limit: int, lane: Lane) -> int:
    done, part = 0, limit
    while done < limit:
        try:
            taken = await _try(rt, part, lane)
        except ITEM_ERRORS as error:
            if part > 1:
                part //= 2
                continue
            taken = await transact(rt.engine, partial(_fail, rt, lane=lane, reason=str(error)))
        if not taken:
            break
        done, part = done + taken, min(2 * part, limit - done - taken)
    return done


async def _fail(rt: Runtime, conn: AsyncConnection, *, lane: Lane, reason: str) -> int:
    """Defer the first event of the inbox, or make it a dead letter if it was tried often enough."""
    now = rt.clock.now()
    first = await events.take_due(conn, now=now, limit=1, lane=lane)
    for one in first:
        if one.attempts + 1 < _MAX_TRIES:
            await events.record_failure(conn, [one], until=now + rt.retry.after(one.attempts + 1, rt.jitter()))
        else:
            await _insert_dead_letters(rt, conn, [_dead_letter(rt, one, "failed", reason)])
            await events.remove_from_inbox(conn, [one])
    return len(first)


async def _try(rt: Runtime, limit: int, lane: Lane) -> int:
    taken, done = await transact(rt.engine, partial(_apply, rt, limit=limit, lane=lane))
    _report_locked(rt, done)
    return taken


async def _apply(rt: Runtime, conn: AsyncConnection, *, limit: int, lane: Lane) -> tuple[int, _Sorted]:
    taken = await events.take_due(conn, now=rt.clock.now(), limit=limit, lane=lane)
    if not taken:
        return 0, _Sorted()
    done = await _sort(rt, conn, taken)
    changes, latest = await _apply_all(rt, done)
    deferred = {event.key for event in done.deferred}
    applied = [one for one in taken if one.key not in deferred] if deferred else taken
    await apply_callbacks.save_applied(conn, latest, changes, applied)
    await _insert_dead_letters(rt, conn, done.dead)
    await events.defer(conn, done.deferred, now=rt.clock.now(), longest=_DEFERRED)
    if done.suspects:
        rt.metrics.orphans.inc(await orphans.suspect(conn, done.suspects, now=rt.clock.now()))
    _count(rt, changes)
    return len(taken), done


async def _sort(rt: Runtime, conn: AsyncConnection, taken: Sequence[InboxEvent]) -> _Sorted:
    done, named = _Sorted(), list[_Named]()
    async for one in paced(taken):
        match parse(one.body):
            case Unreadable(reason):
                done.dead.append(_dead_letter(rt, one, "unreadable", reason))
            case callback:
                named.append((one, callback))
    done.vms, done.locked = await apply_callbacks.lock_bound(conn, {_bound_of(one) for one in named})
    unbound = [one for one in named if _bound_of(one) not in done.vms and _bound_of(one) not in done.locked]
    if unbound:
        known = await creations.read(conn, sorted({event.ref for event, _ in unbound}))
        await _lock_bound_meanwhile(conn, done, unbound, known)
        for event, callback in unbound:
            key = _bound_of((event, callback))
            if key not in done.vms and key not in done.locked:
                _sort_unbound(rt, done, event, callback, known.get(event.ref))
    done.to_apply = [one for one in named if _bound_of(one) in done.vms]
    done.deferred += [event for event, callback in named if _bound_of((event, callback)) in done.locked]
    return done


def _bound_of(named: _Named) -> Bound:
    event, callback = named
    return event.submission_id, callback.provider_id


async def _lock_bound_meanwhile(
    conn: AsyncConnection, done: _Sorted, unbound: Sequence[_Named], known: Mapping[CreationRef, Creation]
) -> None:
    """Lock VMs of complete creations: each may have been bound after VMs were read and before creations were."""
    unbound_refs = {
        _bound_of(one)
        for one in unbound
        if (creation := known.get(one[0].ref)) is not None and creation.state not in _INCOMPLETE
    }
    bound, locked = await apply_callbacks.lock_bound(conn, unbound_refs)
    done.vms |= bound
    done.locked |= locked


def _sort_unbound(rt: Runtime, done: _Sorted, event: InboxEvent, callback: Callback, creation: Creation | None) -> None:
    suspect = Suspect(event.submission_id, event.creation_no, callback.provider_id)
    if creation is not None and creation.state in _INCOMPLETE:
        done.deferred.append(event)
        if creation.state == "due" and creation.attempt > 0:
            # It is about to be sent again, and a callback names a VM of an earlier attempt: that one is read first.
            done.suspects.append(suspect)
        return
    reason = "the creation was completed without it" if creation else "no creation of ours"
    done.dead.append(_dead_letter(rt, event, "unknown_vm", reason, callback.provider_id))
    if creation is not None:
        done.suspects.append(suspect)


async def _apply_all(rt: Runtime, done: _Sorted) -> tuple[list[Change], list[Vm]]:
    """Apply events in the order in which they were received. Returns the changes, and each changed VM's latest record."""
    now, refresh_policy, bound = rt.clock.now(), rt.refresh_policy, done.vms
    changes: list[Change] = []
    latest: dict[Bound, Vm] = {}
    async for event, callback in paced(done.to_apply):
        key = event.submission_id, callback.provider_id
        provenance = Provenance(kind=EvidenceKind.EVENT, at=event.received_at, now=now, id=event.event_id)
        change = apply_callback(latest.get(key) or bound[key], callback, provenance, refresh_policy)
        changes.append(change)
        latest[key] = change.vm
    return changes, [vm for key, vm in latest.items() if _differ(vm, bound[key])]


def _differ(one: Vm, other: Vm) -> bool:
    # The records are wide; one with a new transition need not be compared in full.
    return one.seq != other.seq or (one is not other and one != other)


def _report_locked(rt: Runtime, done: _Sorted) -> None:
    """Report the VMs whose rows another transaction has locked; their events wait, all others were applied."""
    rt.locked_vms -= set(done.vms)
    if done.locked:
        rt.locked_vms |= done.locked
        names = ", ".join(str(provider_id) for _, provider_id in sorted(rt.locked_vms)[:5])
        text = f"{len(rt.locked_vms)} VM(s) are locked by another transaction, and their events wait: {names}"
        logger().warning("events deferred", action="apply", outcome="locked", vms=len(rt.locked_vms), first=names)
        rt.health.report(_LOCKED, text)
    elif not rt.locked_vms:
        rt.health.resolve(_LOCKED)


def _dead_letter(rt: Runtime, event: InboxEvent, kind: str, reason: str, provider_id: int | None = None) -> DeadLetter:
    submission_id, received_at, event_id = event.key
    return DeadLetter(
        submission_id=submission_id,
        received_at=received_at,
        event_id=event_id,
        kind=kind,
        reason=storable.text(reason, longest=500) or kind,
        provider_id=provider_id,
        at=rt.clock.now(),
    )


async def _insert_dead_letters(rt: Runtime, conn: AsyncConnection, which: Sequence[DeadLetter]) -> None:
    await events.insert_dead_letters(conn, which)
    for one in which:
        rt.metrics.dead_letters.labels(one.kind).inc()


def _count(rt: Runtime, changes: Sequence[Change]) -> None:
    for verdict, times in Counter(change.verdict for change in changes).items():
        rt.metrics.events.labels(verdict).inc(times)
    binding.count_changes(rt, changes)

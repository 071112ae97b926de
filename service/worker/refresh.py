"""Refreshes due VMs, looks up unconfirmed creations, and resyncs the whole fleet.

One list serves all three. VMs are read singly if that costs fewer calls. Each call runs in a slot: one that hangs delays
no other. What is under way stays due on record, and is passed over by this daemon's next claims.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core import storable
from service.core.evidence import apply_absence, apply_observation
from service.core.lifecycle import EvidenceKind, state_of
from service.core.lookup import SHORTEST_WINDOW
from service.core.observation import Observation
from service.core.planning import batched
from service.core.refresh import worth_a_list
from service.core.submission import Policy
from service.core.vm import Change, Provenance, Vm
from service.errors import VmNotFound
from service.operations import binding, contract_room, listing, lookup, orphans
from service.operations.listing import FleetListing
from service.operations.parts import in_parts
from service.operations.provider_calls import CallResult, acquire, call_about, make_call, record_results
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.runtime.scheduled_runs import ClaimedRun
from service.runtime.slots import Claimed, slots
from service.runtime.tasks import gather_all
from service.storage import calls, creations, refreshes, scheduled_jobs, submissions, vms
from service.storage.calls import Call
from service.storage.creations import Creation
from service.storage.engine import begin, transact
from service.storage.refreshes import ListedVm
from service.storage.vms import Ref

RESYNC = "resync"
#: Of the VMs that a list does not show, how many are read singly before all of them are taken to be missing.
_SINGLY = 16
_LIST = "list"
#: Fleet size up to which a lookup reads the whole list as soon as that may end it.
_SMALL_FLEET = 1000
_DUE_AT_MOST = 2000
#: VMs that one statement compares with the record.
_COMPARED = 1000
#: The lease of a resync: longer than a list takes, so that only a dead process loses it.
_LEASE = timedelta(minutes=5)
#: How long VMs that are due wait for a page of the list.
_LIST_PATIENCE = timedelta(seconds=5)
_UNSTORABLE = "its last refresh could not be stored"


@dataclass(frozen=True, slots=True)
class _Needs:
    """What needs a refresh or a lookup now and is not under way: the first due VMs, how many are due, and the fleet's size."""

    due: Sequence[Vm]
    due_count: int
    unconfirmed: Sequence[Creation]
    fleet: int

    @property
    def want_a_list(self) -> bool:
        return worth_a_list(self.due_count, self.fleet, page_size=listing.PAGE_SIZE) or any(
            _is_last_lookup(one) or (self.fleet <= _SMALL_FLEET and _may_conclude(one)) for one in self.unconfirmed
        )


async def run_once(rt: Runtime) -> int:
    """One round, and wait for the answers. Returns how many VMs and creations were handled.

    What the rate limit or the provider does not allow now stays due.
    """
    return sum(await gather_all(call() for call in await _claim(rt, slots(rt.settings)["refresh"])))


async def claim(rt: Runtime, free: int) -> Claimed:
    """The calls that are to be made now, at most `free` of them. A list counts as one."""
    to_call = await _claim(rt, free) if free > 0 else []
    return Claimed(len(to_call), to_call)


async def _claim(rt: Runtime, free: int) -> list[Callable[[], Awaitable[int]]]:
    token = rt.uuid()
    take_resync = partial(scheduled_jobs.claim, job=RESYNC, now=rt.clock.now(), lease=_LEASE, token=token)
    resync = _LIST not in rt.refreshing and await transact(rt.engine, take_resync)
    needs = await _needs(rt, free)
    if resync or (needs.want_a_list and _LIST not in rt.refreshing):
        return [_under_way(rt, [_LIST, *needs.unconfirmed], partial(_list, rt, needs, token if resync else None))]
    if needs.want_a_list and not _list_hangs(rt):
        return []  # what is due waits for the list that is being read
    # Neither VMs nor creations take all slots from the others.
    lookups = needs.unconfirmed[: max((free + 1) // 2, free - len(needs.due))]
    due = needs.due[: free - len(lookups)]
    reads = await transact(rt.engine, lambda conn: _begin_reads(rt, conn, due)) if due else []
    return [
        *(_under_way(rt, [vm], partial(_refresh, rt, vm, call)) for vm, call in reads),
        *(_under_way(rt, [one], partial(lookup.lookup_by_name, rt, one)) for one in lookups),
    ]


def _list_hangs(rt: Runtime) -> bool:
    return rt.page_asked_at is not None and rt.clock.now() - rt.page_asked_at > _LIST_PATIENCE


def _under_way(
    rt: Runtime, which: Sequence[Vm | Creation | str], work: Callable[[], Awaitable[int]]
) -> Callable[[], Awaitable[int]]:
    """Mark what `work` is about as under way until it has ended."""
    keys = {_key(one) for one in which}
    rt.refreshing |= keys

    async def call() -> int:
        try:
            return await work()
        finally:
            rt.refreshing -= keys

    return call


def _key(one: Vm | Creation | str) -> object:
    return one if isinstance(one, str) else (type(one), one.ref)


async def _list(rt: Runtime, needs: _Needs, resync: UUID | None) -> int:
    if resync is None:
        return await _by_list(rt, needs)
    rest = timedelta(seconds=rt.settings.again_seconds)
    async with ClaimedRun(rt, RESYNC, resync, part_of="refresh", rest=lambda: rest):
        done = await _by_list(rt, needs)
        again = rt.clock.now() + timedelta(seconds=rt.settings.resync_seconds if done else rt.settings.again_seconds)
        await transact(
            rt.engine,
            lambda conn: scheduled_jobs.complete_if_leased(conn, RESYNC, resync, now=rt.clock.now(), due_at=again),
        )
        return done


async def _refresh(rt: Runtime, vm: Vm, call: Call) -> int:
    """Read a VM. One that cannot be read is deferred: it must not stand in front of the others."""
    if await _read_one(rt, vm, call) is not None:
        return 1
    until = rt.clock.now() + rt.look.after(vm.refresh_attempts + 1, rt.jitter())
    await transact(rt.engine, lambda conn: refreshes.defer_refreshes(conn, [vm.ref], until=until))
    return 0


async def _needs(rt: Runtime, free: int) -> _Needs:
    now, under_way = rt.clock.now(), [one[1] for one in rt.refreshing if isinstance(one, tuple) and one[0] is Vm]
    async with begin(rt.engine) as conn:
        due = await refreshes.due_refreshes(conn, now=now, limit=free, without=under_way)
        count = await refreshes.count_due_refreshes(conn, now=now, limit=_DUE_AT_MOST) if due else 0
        unconfirmed = await creations.unconfirmed_due(conn, now=now, limit=200 + len(rt.refreshing))
        # A larger fleet makes no difference to `worth_a_list`.
        fleet = await refreshes.count_alive(conn, limit=(count + 1) * listing.PAGE_SIZE) if due else 0
    waiting = [one for one in unconfirmed if (Creation, one.ref) not in rt.refreshing]
    return _Needs(due, max(len(due), count - len(under_way)), waiting, fleet)


def _may_conclude(creation: Creation) -> bool:
    """Whether a whole list may end the lookup of a creation before its window is over."""
    since, due_at = creation.unconfirmed_since, creation.due_at
    return since is not None and due_at is not None and due_at >= since + SHORTEST_WINDOW


def _is_last_lookup(creation: Creation) -> bool:
    # Before a creation is sent again, look for its VMs by every tag, not only by name.
    return (
        creation.lookup_until is not None and creation.due_at is not None and creation.due_at >= creation.lookup_until
    )


async def _by_list(rt: Runtime, needs: _Needs) -> int:
    """Read the whole list and apply it to everything that it concerns; 0 if it could not be read."""
    async with listing.reading(rt) as seen:
        if seen is None:
            return 0
        applied = await _apply_listing(rt, seen)
        confirmed = await lookup.lookup_in_list(rt, needs.unconfirmed, seen)
        await orphans.find(rt, seen)
        return applied + confirmed + 1


async def _apply_listing(rt: Runtime, seen: FleetListing) -> int:
    applied = 0
    for some in batched(seen.vms.values(), _COMPARED):
        listed = [_listed(one) for one in some]
        async with begin(rt.engine) as conn:
            refs = await refreshes.to_refresh(conn, listed, now=rt.clock.now())
        applied += await _apply(rt, refs, partial(_shown, rt, seen))
    return applied + await _apply_absences(rt, seen)


def _listed(one: Observation) -> ListedVm:
    state = state_of(one.status)
    return ListedVm(one.provider_id, state and state.value, one.status, one.contract_id, one.floating_ip, one.fixed_ip)


async def _apply_absences(rt: Runtime, seen: FleetListing) -> int:
    """Apply that due VMs are absent from a list.

    An absence alone means nothing, since lists lag. If a VM's end was announced, a certain list is enough. Other VMs are
    read singly. If too many are absent for that, some are read singly: if the provider knows none of them, and a second
    complete list shows none of the others, all are missing.
    """
    async with begin(rt.engine) as conn:
        absent = await refreshes.absent(conn, seen.vms, now=rt.clock.now())
    announced = [ref for ref, was_announced in absent.items() if was_announced and seen.certain]
    applied = await _apply(rt, announced, partial(_missing, rt, seen))
    others = [ref for ref in absent if ref not in set(announced)]
    sample, rest = others[:_SINGLY], others[_SINGLY:]
    found = await _read_singly(rt, await _read(rt, sample))
    applied += len(found)
    if rest and seen.complete and len(found) == len(sample) and not any(found):
        applied += await _complete_missing(rt, rest)
    elif rest:
        await transact(rt.engine, partial(_defer, rt, refs=rest))
    return applied


async def _complete_missing(rt: Runtime, refs: Sequence[Ref]) -> int:
    """Apply the absence of VMs that a second list does not show either."""
    async with listing.reading(rt) as again:
        if again is None or not again.complete:
            return 0
        async with begin(rt.engine) as conn:
            absent = await refreshes.absent(conn, again.vms, now=rt.clock.now())
        return await _apply(rt, [ref for ref in refs if ref in absent], partial(_missing, rt, again))


async def _defer(rt: Runtime, conn: AsyncConnection, *, refs: Sequence[Ref]) -> None:
    await refreshes.defer_refreshes(conn, refs, until=rt.clock.now() + timedelta(seconds=rt.settings.again_seconds))


async def _read(rt: Runtime, refs: Sequence[Ref]) -> list[Vm]:
    async with begin(rt.engine) as conn:
        return await vms.read(conn, refs)


async def _apply(rt: Runtime, refs: Sequence[Ref], decide: Callable[[Vm, Policy], Change | None]) -> int:
    """Apply `decide` to VMs, in sets. A VM that cannot be stored is deferred with a note."""
    failed = await in_parts(
        refs, lambda some: transact(rt.engine, partial(_apply_set, rt, refs=list(some), decide=decide))
    )
    for ref, error in failed:
        await _note_unstorable(rt, ref, error)
    return len(refs) - len(failed)


async def _apply_set(
    rt: Runtime, conn: AsyncConnection, *, refs: Sequence[Ref], decide: Callable[[Vm, Policy], Change | None]
) -> None:
    # VMs that somebody else has locked stay due.
    locked = await vms.lock_free(conn, refs)
    found = await submissions.read(conn, [vm.submission_id for vm in locked.values()])
    policies = {id_: Policy.model_validate(one.policy) for id_, one in found.items()}
    decided = [decide(vm, policies[vm.submission_id]) for vm in locked.values() if vm.ended_at is None]
    changes = [change for change in decided if change is not None]
    await vms.save_changes(conn, [change.vm for change in changes], changes)
    await contract_room.wake_for(rt, conn, changes)
    binding.count_changes(rt, changes)


def _shown(rt: Runtime, seen: FleetListing, vm: Vm, policy: Policy) -> Change | None:
    found = seen.vms.get(vm.provider_id or 0)
    provenance = seen.provenance_of(vm.provider_id, rt.clock.now())
    return apply_observation(vm, found, provenance, rt.refresh_policy, policy) if found else None


def _missing(rt: Runtime, seen: FleetListing, vm: Vm, _: Policy) -> Change:
    return _absence(rt, vm, seen.provenance_of(None, rt.clock.now()))


def _absence(rt: Runtime, vm: Vm, provenance: Provenance) -> Change:
    return apply_absence(vm, provenance, rt.refresh_policy, newborn_for=timedelta(seconds=rt.settings.newborn_seconds))


async def _note_unstorable(rt: Runtime, ref: Ref, error: Exception) -> None:
    logger().error("refresh not stored", action="refresh", submission_id=str(ref[0]), vm_no=ref[1], error=str(error))
    reason = storable.text(f"{_UNSTORABLE}: {error}", longest=300)
    until = rt.clock.now() + timedelta(seconds=rt.settings.resync_seconds)
    await transact(rt.engine, lambda conn: refreshes.defer_refreshes(conn, [ref], until=until, reason=reason))


async def _read_singly(rt: Runtime, due: Sequence[Vm]) -> list[bool]:
    """Read VMs singly, as many as the rate limit allows. Returns for each whether the provider knows it."""
    to_call = await transact(rt.engine, lambda conn: _begin_reads(rt, conn, due)) if due else []
    known = await gather_all(_read_one(rt, vm, call) for vm, call in to_call)
    return [one for one in known if one is not None]


async def _begin_reads(rt: Runtime, conn: AsyncConnection, due: Sequence[Vm]) -> list[tuple[Vm, Call]]:
    granted = await acquire(rt, conn, "read", len(due))
    to_call = [(vm, call_about(rt, vm, "get")) for vm in due[:granted]]
    await calls.begin(conn, [call for _, call in to_call])
    return to_call


async def _read_one(rt: Runtime, vm: Vm, call: Call) -> bool | None:
    """Read a VM and apply what the provider says. Returns whether the provider knows it; None without an answer."""
    provider_id = vm.provider_id
    assert provider_id is not None  # noqa: S101  only bound VMs are due for a refresh
    result = await make_call(rt, call, lambda: rt.client.get_vm(provider_id))
    await transact(rt.engine, lambda conn: record_results(rt, conn, [result]))
    if result.error is not None and not isinstance(result.error, VmNotFound):
        return None
    await _apply(rt, [vm.ref], partial(_announced, rt, result))
    return result.value is not None


def _announced(rt: Runtime, result: CallResult[Observation], vm: Vm, policy: Policy) -> Change:
    call, now = result.call, rt.clock.now()
    provenance = Provenance(kind=EvidenceKind.OBSERVATION, at=call.begun_at, now=now, id=call.call_id)
    if result.value is None:
        return _absence(rt, vm, provenance)
    return apply_observation(vm, result.value, provenance, rt.refresh_policy, policy)

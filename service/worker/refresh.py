"""Reads the provider where there is a need: due VMs, unconfirmed creations, and the slow sweep.

One list serves all three; single reads are made where they cost fewer calls. What a reading means is decided in
`core/`; what carries our marks and has no record goes to `orphan.py`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.evidence import apply_absence, apply_observation
from service.core.lifecycle import EvidenceKind, state_of
from service.core.lookup import SHORTEST_WINDOW
from service.core.observation import Observation
from service.core.refresh import worth_a_list
from service.core.submission import Policy
from service.core.vm import Change, Provenance, Vm
from service.errors import VmNotFound
from service.operations import binding, listing, lookup, orphans
from service.operations.listing import FleetListing
from service.operations.provider_calls import CallResult, acquire, call_about, make_call, record_results
from service.runtime.runtime import Runtime
from service.storage import calls, creations, scheduled_jobs, submissions, vms
from service.storage.calls import Call
from service.storage.creations import Creation
from service.storage.engine import begin, transact

RESYNC = "resync"
_AT_ONCE = 16
#: VMs up to which a lookup reads the whole list as soon as that may end it: it costs a few pages.
_SMALL_FLEET = 1000
_DUE_AT_MOST = 2000
#: Of the sweep: longer than a list that waits for the budget takes, so that only one whose process died is done again.
_LEASE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class _Needs:
    """What asks for a reading now."""

    due: Sequence[Vm]
    unconfirmed: Sequence[Creation]
    fleet: int

    @property
    def want_a_list(self) -> bool:
        return worth_a_list(len(self.due), self.fleet, page_size=listing.PAGE_SIZE) or any(
            _is_last_look(one) or (self.fleet <= _SMALL_FLEET and _may_conclude(one)) for one in self.unconfirmed
        )


async def run_once(rt: Runtime) -> int:
    """One round of readings; how many VMs and creations were looked at.

    A need that cannot be met now (no budget, no provider) stays: its time has come, and it comes again.
    """
    token = rt.uuid()
    sweeping = await transact(
        rt.engine, lambda conn: scheduled_jobs.claim(conn, RESYNC, now=rt.clock.now(), lease=_LEASE, token=token)
    )
    needs = await _needs(rt)
    if sweeping or needs.want_a_list:
        done = await _by_list(rt, needs)
    else:
        done = await _one_by_one(rt, needs.due) + await lookup.lookup_by_name(rt, needs.unconfirmed)
    if sweeping:
        again = rt.clock.now() + timedelta(seconds=rt.settings.resync_seconds if done else rt.settings.again_seconds)
        await transact(
            rt.engine,
            lambda conn: scheduled_jobs.complete_if_leased(conn, RESYNC, token, now=rt.clock.now(), due_at=again),
        )
    return done or 0


async def _needs(rt: Runtime) -> _Needs:
    now = rt.clock.now()
    async with begin(rt.engine) as conn:
        due = await vms.due_refreshes(conn, now=now, limit=_DUE_AT_MOST)
        unconfirmed = await creations.unconfirmed_due(conn, now=now, limit=200)
        fleet = await vms.count_alive(conn) if due or unconfirmed else 0
    return _Needs(due, [one for one in unconfirmed if now >= one.created_at], fleet)


def _may_conclude(creation: Creation) -> bool:
    """Whether a whole list may end the lookup of a creation before its window is over."""
    since, due_at = creation.unconfirmed_since, creation.due_at
    return since is not None and due_at is not None and due_at >= since + SHORTEST_WINDOW


def _is_last_look(creation: Creation) -> bool:
    # Before a creation is sent again, its VMs are looked for by every mark and not by name alone.
    return (
        creation.lookup_until is not None and creation.due_at is not None and creation.due_at >= creation.lookup_until
    )


async def _by_list(rt: Runtime, needs: _Needs) -> int:
    """Read the whole list and apply it to everything that it concerns; 0 where it could not be read."""
    seen = await listing.read(rt)
    if seen is None:
        return 0
    applied = await _apply_listing(rt, seen, needs.due)
    confirmed = await lookup.lookup_in_list(rt, needs.unconfirmed, seen)
    await orphans.find(rt, seen)
    return applied + confirmed + 1


async def _apply_listing(rt: Runtime, seen: FleetListing, due: Sequence[Vm]) -> int:
    async with begin(rt.engine) as conn:
        alive = await vms.bound_alive(conn)
    due_refs = {vm.ref for vm in due}
    shown = [
        vm
        for vm in alive
        if (found := seen.vms.get(vm.provider_id or 0)) and (vm.ref in due_refs or _differs(vm, found))
    ]
    for start in range(0, len(shown), 500):
        await transact(rt.engine, partial(_observe_listed, rt, seen=seen, group=shown[start : start + 500]))
    missing = [vm for vm in alive if vm.ref in due_refs and vm.provider_id not in seen.vms]
    missed = [vm for vm in missing if seen.complete and vm.deletion_announced]
    if missed:
        await transact(rt.engine, partial(_miss_listed, rt, seen=seen, group=missed))
    # Absence from a list is hearsay where nothing announced an end: the VM itself is asked for.
    told = {vm.ref for vm in missed}
    return len(shown) + len(missed) + await _one_by_one(rt, [vm for vm in missing if vm.ref not in told])


def _differs(vm: Vm, seen: Observation) -> bool:
    return (
        state_of(seen.status) is not vm.state
        or seen.contract_id != vm.observed_contract_id
        or seen.floating_ip != vm.floating_ip
        or seen.fixed_ip != vm.fixed_ip
    )


async def _observe_listed(rt: Runtime, conn: AsyncConnection, *, seen: FleetListing, group: Sequence[Vm]) -> None:
    locked = await vms.lock(conn, [vm.ref for vm in group])
    policies = await _policies(conn, list(locked.values()))
    provenance = Provenance(kind=EvidenceKind.OBSERVATION, at=seen.at, now=rt.clock.now(), id=seen.call_id)
    changes = [
        apply_observation(vm, found, provenance, rt.refresh_policy, policies[vm.submission_id])
        for vm in locked.values()
        if vm.ended_at is None and (found := seen.vms.get(vm.provider_id or 0))
    ]
    await vms.save_changes(conn, [change.vm for change in changes], changes)
    binding.count_changes(rt, changes)


async def _miss_listed(rt: Runtime, conn: AsyncConnection, *, seen: FleetListing, group: Sequence[Vm]) -> None:
    locked = await vms.lock(conn, [vm.ref for vm in group])
    provenance = Provenance(kind=EvidenceKind.OBSERVATION, at=seen.at, now=rt.clock.now(), id=seen.call_id)
    changes = [_missed(rt, vm, provenance) for vm in locked.values() if vm.deletion_announced]
    await vms.save_changes(conn, [change.vm for change in changes], changes)
    binding.count_changes(rt, changes)


def _missed(rt: Runtime, vm: Vm, provenance: Provenance) -> Change:
    return apply_absence(vm, provenance, rt.refresh_policy, newborn_for=timedelta(seconds=rt.settings.newborn_seconds))


async def _policies(conn: AsyncConnection, which: Sequence[Vm]) -> dict[object, Policy]:
    found = await submissions.read(conn, [vm.submission_id for vm in which])
    return {id_: Policy.model_validate(one.policy) for id_, one in found.items()}


async def _one_by_one(rt: Runtime, due: Sequence[Vm]) -> int:
    """Read VMs each by itself, as many as the budget allows; how many."""
    to_call = await transact(rt.engine, lambda conn: _begin_reads(rt, conn, due[:_AT_ONCE])) if due else []
    asked = await asyncio.gather(*(_read(rt, vm, call) for vm, call in to_call))
    return sum(asked)


async def _begin_reads(rt: Runtime, conn: AsyncConnection, due: Sequence[Vm]) -> list[tuple[Vm, Call]]:
    granted = await acquire(rt, conn, "read", len(due))
    to_call = [(vm, call_about(rt, vm, "get")) for vm in due[:granted]]
    await calls.begin(conn, [call for _, call in to_call])
    return to_call


async def _read(rt: Runtime, vm: Vm, call: Call) -> bool:
    provider_id = vm.provider_id
    assert provider_id is not None  # noqa: S101  only bound VMs are due for a reading
    asked = await make_call(rt, call, lambda: rt.client.get_vm(provider_id))
    return await transact(rt.engine, lambda conn: _settle_read(rt, conn, vm, asked))


async def _settle_read(rt: Runtime, conn: AsyncConnection, read: Vm, asked: CallResult[Observation]) -> bool:
    await record_results(rt, conn, [asked])
    if asked.error is not None and not isinstance(asked.error, VmNotFound):
        return False
    vm = (await vms.lock(conn, [read.ref]))[read.ref]
    if vm.ended_at is not None:
        return False
    provenance = Provenance(
        kind=EvidenceKind.OBSERVATION, at=asked.call.begun_at, now=rt.clock.now(), id=asked.call.call_id
    )
    if asked.value is None:
        change = _missed(rt, vm, provenance)
    else:
        policies = await _policies(conn, [vm])
        change = apply_observation(vm, asked.value, provenance, rt.refresh_policy, policies[vm.submission_id])
    await vms.save_changes(conn, [change.vm], [change])
    binding.count_changes(rt, [change])
    return True

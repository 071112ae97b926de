"""Finds VMs in a listing that carry our ownership tags and belong to no record. What becomes of them is decided by the job."""

from collections.abc import Sequence
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.lifecycle import VmState, state_of
from service.core.observation import Observation
from service.core.ownership import names_of, ref_of
from service.core.token import CreationRef
from service.operations import binding
from service.operations.listing import FleetListing
from service.runtime.runtime import Runtime
from service.storage import creations, orphans, vms
from service.storage.engine import begin, transact
from service.storage.orphans import Orphan

_GOING = frozenset({VmState.DELETING, VmState.DELETED})


async def find(rt: Runtime, seen: FleetListing) -> int:
    """Note what a whole list shows with our marks and no living record knows; how many.

    While its creation is not settled, a VM is not an orphan but on its way to be bound.
    """
    async with begin(rt.engine) as conn:
        records = await vms.by_provider_id(conn, seen.vms)
        # The list is as old as its beginning: what ended since then may stand in it as if it lived.
        known = {vm.provider_id for vm in records if vm.ended_at is None or vm.ended_at >= seen.at}
        strangers = [one for id_, one in seen.vms.items() if id_ not in known]
        noted = await orphans.by_provider_id(conn, [one.provider_id for one in strangers])
        refs = await _refs(rt, conn, strangers)
        settled = await creations.read(conn, sorted(set(refs.values()))) if refs else {}
    marked = [(one, refs[one.provider_id]) for one in strangers if refs.get(one.provider_id) in settled]
    for ref in sorted({ref for _, ref in marked if settled[ref].state == "due"}):
        await transact(rt.engine, partial(binding.mark_unconfirmed, rt, ref=ref))
    lost = [
        (one, ref)
        for one, ref in marked
        if settled[ref].state not in creations.INCOMPLETE
        and not _is_dealt_with(noted.get((ref.submission_id, one.provider_id)), seen)
    ]
    for one, ref in lost:
        await transact(rt.engine, partial(_note, rt, one=one, ref=ref))
    return len(lost)


def _is_dealt_with(noted: Orphan | None, seen: FleetListing) -> bool:
    return noted is not None and (noted.ended_at is None or noted.ended_at >= seen.at)


async def _refs(rt: Runtime, conn: AsyncConnection, strangers: Sequence[Observation]) -> dict[int, CreationRef]:
    refs = {one.provider_id: ref for one in strangers if (ref := ref_of(one, rt.callback_secrets))}
    names = {one.provider_id: names_of(one) for one in strangers if one.provider_id not in refs}
    by_name = await creations.by_names(conn, {name for several in names.values() for name in several})
    return refs | {id_: by_name[name] for id_, several in names.items() for name in several if name in by_name}


async def _note(rt: Runtime, conn: AsyncConnection, *, one: Observation, ref: CreationRef) -> None:
    if state_of(one.status) in _GOING:
        return
    reason = "the provider shows it with our marks, and no record waits for it"
    await binding.record_orphan(rt, conn, ref, one.provider_id, name=one.name, state="found", reason=reason)

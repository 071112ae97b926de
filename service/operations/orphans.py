"""Finds orphans in a list: VMs that carry our ownership tags and match no record. The orphan job handles them."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.lifecycle import VmState, state_of
from service.core.observation import Observation
from service.core.ownership import names_of, ref_of
from service.core.planning import batched
from service.core.token import CreationRef
from service.operations import binding
from service.operations.listing import FleetListing
from service.operations.parts import in_parts
from service.runtime.cpu import paced
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.storage import creations, orphans, refreshes
from service.storage.creations import Creation
from service.storage.engine import begin, transact
from service.storage.orphans import Orphan

#: The most suspects that a list is compared with.
_SUSPECTS = 1000
#: VMs that one statement compares with the record.
_COMPARED = 1000
_GOING = frozenset({VmState.DELETING, VmState.DELETED})


async def find(rt: Runtime, seen: FleetListing) -> int:
    """Record the orphans in a whole list. Returns how many are new.

    While its creation is not complete, a VM is about to be bound and no orphan.
    """
    async with begin(rt.engine) as conn:
        unmatched: list[Observation] = []
        for some in batched(seen.vms, _COMPARED):
            unmatched += [seen.vms[id_] for id_ in await refreshes.unknown_ids(conn, some, at=seen.at)]
        refs = await _refs(conn, seen, unmatched)
        of_refs = await creations.read(conn, sorted(set(refs.values()))) if refs else {}
        recorded = await orphans.by_provider_id(conn, list(refs))
    tagged = [(seen.vms[id_], of_refs[ref]) for id_, ref in refs.items() if ref in of_refs]
    lost = [
        (seen.vms[id_], ref)
        for id_, ref in refs.items()
        if ref not in of_refs and _is_of_lost_part(rt, seen.vms[id_], recorded.get((ref.submission_id, id_)), seen)
    ]
    await _mark_unconfirmed(rt, tagged)
    await transact(rt.engine, partial(_close_suspects, rt, seen=seen))
    found = [
        (one, creation.ref)
        for one, creation in tagged
        if creation.state not in creations.INCOMPLETE
        and state_of(one.status) not in _GOING
        and not _is_dealt_with(recorded.get((creation.submission_id, one.provider_id)), seen)
    ]
    await _each(rt, found, "the provider shows it with our tags, and it matches no VM on record")
    await _each(rt, lost, "its callback URL is one of ours, and the record has no such creation: was it restored?")
    return len(found) + len(lost)


async def _mark_unconfirmed(rt: Runtime, tagged: Sequence[tuple[Observation, Creation]]) -> None:
    for ref in sorted({creation.ref for _, creation in tagged if creation.state == "due"}):
        await transact(rt.engine, partial(binding.mark_unconfirmed, rt, ref=ref))


async def _close_suspects(rt: Runtime, conn: AsyncConnection, *, seen: FleetListing) -> None:
    """End suspects that a whole list disproves. The job reads those with our tags, or without any tag."""
    before = seen.at - timedelta(seconds=rt.settings.newborn_seconds)
    suspects = await orphans.suspected(conn, before=before, limit=_SUSPECTS)
    absent = [one for one in suspects if one.provider_id not in seen.vms and seen.complete]
    shown = [(one, seen.vms[one.provider_id]) for one in suspects if one.provider_id in seen.vms]
    others = [one for one, vm in shown if (vm.callback_url or names_of(vm)) and seen.tags.ref_of(vm) is None]
    by_name = await creations.by_names(conn, {name for one in others for name in names_of(seen.vms[one.provider_id])})
    others = [one for one in others if not any(name in by_name for name in names_of(seen.vms[one.provider_id]))]
    await orphans.close(
        conn, absent, reason="named by a callback, and the provider does not know it", now=rt.clock.now()
    )
    await orphans.close(conn, others, reason="named by a callback, and not ours", now=rt.clock.now())


def _is_of_lost_part(rt: Runtime, one: Observation, recorded: Orphan | None, seen: FleetListing) -> bool:
    """Whether a VM was made by a creation that the record has lost: its URL is signed with our secret.

    A label alone is not enough: another Rollcall may use the same account.
    """
    signed = ref_of(one, rt.callback_secrets, by_label=False) is not None
    return signed and state_of(one.status) not in _GOING and not _is_dealt_with(recorded, seen)


async def _each(rt: Runtime, found: Sequence[tuple[Observation, CreationRef]], reason: str) -> None:
    async def record(some: Sequence[tuple[Observation, CreationRef]]) -> None:
        await transact(rt.engine, partial(_record, rt, some=some, reason=reason))

    for (one, _), error in await in_parts(found, record, size=100):
        logger().error("orphan not recorded", action="orphan", provider_id=one.provider_id, error=str(error)[:500])


async def _record(
    rt: Runtime, conn: AsyncConnection, *, some: Sequence[tuple[Observation, CreationRef]], reason: str
) -> None:
    for one, ref in some:
        await binding.record_orphan(rt, conn, ref, one.provider_id, name=one.name, state="found", reason=reason)


def _is_dealt_with(recorded: Orphan | None, seen: FleetListing) -> bool:
    if recorded is None or (recorded.source == "callback" and recorded.state == "suspected"):
        return False
    return recorded.ended_at is None or recorded.ended_at >= seen.at


async def _refs(
    conn: AsyncConnection, seen: FleetListing, unmatched: Sequence[Observation]
) -> Mapping[int, CreationRef]:
    """The creation whose tags each VM carries, by provider id; VMs without a tag are left out."""
    refs: dict[int, CreationRef] = {}
    names: dict[int, tuple[str, ...]] = {}
    async for one in paced(unmatched):
        if ref := seen.tags.ref_of(one):
            refs[one.provider_id] = ref
        elif several := names_of(one):
            names[one.provider_id] = several
    by_name = await creations.by_names(conn, {name for several in names.values() for name in several})
    return refs | {id_: by_name[name] for id_, several in names.items() for name in several if name in by_name}

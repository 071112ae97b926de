"""Resolves unconfirmed creations by lookup: VMs that carry their tags are adopted; a creation without any is sent again."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.event import Callback, parse
from service.core.lookup import SHORTEST_WINDOW, Conclusion, LookupEvidence, conclude
from service.core.observation import Observation
from service.core.ownership import ref_of
from service.core.refresh import adopt
from service.core.token import CreationRef
from service.operations import binding, listing
from service.operations.binding import Found
from service.operations.listing import FleetListing
from service.operations.parts import in_parts
from service.operations.provider_calls import call_provider
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.storage import creations, events, submissions, vms
from service.storage.creations import Creation
from service.storage.engine import begin, transact

#: VMs that callbacks named and that are read singly, for each creation and lookup: anyone with a URL can name any VM.
_MOST_NAMED: Final = 20
#: Of the VMs in a list, how many of the newest may show that creations sent later are visible.
_NEWEST = 50


async def lookup_by_name(rt: Runtime, creation: Creation) -> int:
    """Look for a creation by its name. Returns whether the provider answered."""
    seen = await listing.read(rt, search=creation.name)
    if seen is None:
        return 0
    await _look(rt, [creation], seen)
    return 1


async def lookup_in_list(rt: Runtime, unconfirmed: Sequence[Creation], seen: FleetListing) -> int:
    """Look for creations in the whole list. Returns how many were looked for."""
    await _look(rt, unconfirmed, await _also_by_name(rt, unconfirmed, seen))
    return len(unconfirmed)


async def _also_by_name(rt: Runtime, unconfirmed: Sequence[Creation], seen: FleetListing) -> FleetListing:
    """The list, and what searches find of creations that it does not show in full and that are about to be sent again.

    Pages shift when VMs come and go between them, a VM's tags may be garbled, and one skipped VM would be one VM twice.
    """
    found, pages, complete = dict(seen.vms), dict(seen.pages), seen.complete
    for creation in unconfirmed:
        last_lookup = creation.lookup_until is not None and seen.at >= creation.lookup_until
        shown = len(seen.tags.of(ref=creation.ref, name=creation.name))
        if not last_lookup or shown >= creation.vm_count:
            continue
        named = await listing.read(rt, search=creation.name)
        complete = complete and named is not None
        for one in named.vms.values() if named else ():
            found[one.provider_id] = one
            seen.tags.add(one)
        pages |= named.pages if named else {}
    return replace(seen, vms=found, pages=pages, complete=complete)


async def _look(rt: Runtime, unconfirmed: Sequence[Creation], seen: FleetListing) -> None:
    tagged = {one.ref: {vm.provider_id: vm for vm in seen.tags.of(ref=one.ref, name=one.name)} for one in unconfirmed}
    await _add_named_by_callbacks(rt, unconfirmed, tagged)

    async def resolve(some: Sequence[Creation]) -> None:
        for creation in some:
            found = list(tagged[creation.ref].values())
            evidence = await _evidence(rt, creation, seen) if len(found) < creation.vm_count else None
            await transact(
                rt.engine, partial(_resolve, rt, ref=creation.ref, found=found, seen=seen, evidence=evidence)
            )

    for creation, error in await in_parts(unconfirmed, resolve, size=1):
        logger().error("lookup failed", action="lookup", creation=str(creation.ref), error=str(error)[:500])
        await transact(rt.engine, partial(_look_again, rt, creation=creation))


async def _evidence(rt: Runtime, creation: Creation, seen: FleetListing) -> LookupEvidence | None:
    """What is known about a creation that a list does not show in full; None if it is not unconfirmed."""
    if creation.lookup_until is None or creation.unconfirmed_since is None:
        return None
    evidence = LookupEvidence(
        listed_at=seen.at,
        since=creation.unconfirmed_since,
        lookup_until=creation.lookup_until,
        whole=seen.whole,
        complete=seen.complete,
        name_taken=creation.name_taken,
    )
    if not seen.whole or not seen.complete or seen.at < creation.unconfirmed_since + SHORTEST_WINDOW:
        return evidence
    later_seen = await _later_seen(rt, creation.unconfirmed_since, seen)
    if not later_seen and not creation.name_taken:
        return evidence
    result = await call_provider(
        rt,
        "read",
        "name availability",
        lambda: rt.client.name_availability(creation.name, count=creation.vm_count),
        submission_id=creation.submission_id,
    )
    available = result.value.available if result is not None and result.value is not None else None
    return replace(evidence, later_seen=later_seen, name_available=available)


async def _later_seen(rt: Runtime, since: datetime, seen: FleetListing) -> bool:
    """Whether a list shows a VM of a creation that was first sent after `since`, and a callback about it was applied."""
    newest = sorted(seen.vms, reverse=True)[:_NEWEST]
    refs = {id_: ref for id_ in newest if (ref := ref_of(seen.vms[id_], rt.callback_secrets))}
    async with begin(rt.engine) as conn:
        known = await creations.read(conn, sorted(set(refs.values()))) if refs else {}
        bound = await vms.by_provider_id(conn, refs) if refs else []
    later = {ref for ref, one in known.items() if one.first_sent_at is not None and one.first_sent_at > since}
    return any(vm.last_event_at is not None and CreationRef(vm.submission_id, vm.creation_no) in later for vm in bound)


async def _add_named_by_callbacks(
    rt: Runtime, unconfirmed: Sequence[Creation], tagged: Mapping[CreationRef, dict[int, Observation]]
) -> None:
    """Add VMs that callbacks on a creation's own URL named, and that the list does not show yet, or without a tag.

    A callback may name anybody's VM, so the VM itself must show a tag when it is read.
    """
    async with begin(rt.engine) as conn:
        waiting = await events.inbox_of(conn, [one.ref for one in unconfirmed], limit=2 * _MOST_NAMED)
    named: dict[CreationRef, dict[int, None]] = defaultdict(dict)
    for ref, provider_id in _named(waiting):
        if provider_id not in tagged[ref]:
            named[ref][provider_id] = None
    for creation in unconfirmed:
        for provider_id in list(named[creation.ref])[:_MOST_NAMED]:
            one = await _get(rt, creation.ref, provider_id)
            if one is not None and binding.belongs_to(rt, one, creation):
                tagged[creation.ref][one.provider_id] = one


def _named(waiting: Iterable[events.InboxEvent]) -> Iterable[tuple[CreationRef, int]]:
    for event in waiting:
        callback = parse(event.body)
        if isinstance(callback, Callback):
            yield event.ref, callback.provider_id


async def _get(rt: Runtime, ref: CreationRef, provider_id: int) -> Observation | None:
    result = await call_provider(
        rt,
        "read",
        "get",
        lambda: rt.client.get_vm(provider_id),
        submission_id=ref.submission_id,
        provider_id=provider_id,
    )
    return result.value if result else None


async def _resolve(
    rt: Runtime,
    conn: AsyncConnection,
    *,
    ref: CreationRef,
    found: Sequence[Observation],
    seen: FleetListing,
    evidence: LookupEvidence | None,
) -> None:
    """Adopt what was found; complete the creation, look again later, or have it sent again."""
    creation = (await creations.lock(conn, [ref]))[ref]
    if creation.state != "unconfirmed" or creation.lookup_until is None:
        return
    now = rt.clock.now()
    by_page = defaultdict(list)
    for one in found:
        by_page[seen.provenance_of(one.provider_id, now)].append(one)
    for provenance, some in by_page.items():
        await binding.bind(rt, conn, ref, Found(vms=some, provenance=provenance))
    left = [vm for vm in await vms.of_creation(conn, *ref) if vm.provider_id is None and vm.ended_at is None]
    wanted = any(vm.desired_state == "present" for vm in left)
    conclusion = Conclusion.WAIT
    # Evidence about an earlier state of the creation is no evidence about this one.
    if evidence is not None and evidence.since == creation.unconfirmed_since:
        window = timedelta(seconds=rt.settings.lookup_window_seconds)
        if evidence.name_taken and len(left) < creation.vm_count:
            # Its own VMs have the name. What is missing was not made, and is sent under another name as ever.
            until = min(evidence.lookup_until, evidence.since + window)
            evidence = replace(evidence, name_taken=False, lookup_until=until)
        conclusion = conclude(replace(evidence, wanted=wanted), window=window)
    outcome = adopt([vm.vm_no for vm in left], [], window_over=conclusion is not Conclusion.WAIT)
    if not outcome.complete:
        await _look_again(rt, conn, creation=creation)
        return
    resend = len(left) == creation.vm_count and wanted and conclusion is Conclusion.ABSENT
    await _complete(rt, conn, creation, nothing_came=len(left) == creation.vm_count, resend=resend)


async def _look_again(rt: Runtime, conn: AsyncConnection, *, creation: Creation) -> None:
    now, attempts, until = rt.clock.now(), creation.lookup_attempts + 1, creation.lookup_until
    again = now + rt.look.after(attempts, rt.jitter())
    if creation.name_taken and until is not None and now >= until:
        again = now + timedelta(seconds=rt.settings.resync_seconds)  # a health issue says so meanwhile
    again = min(again, until) if until is not None and now < until else again
    await creations.set_values(conn, creation.ref, only_in="unconfirmed", lookup_attempts=attempts, due_at=again)


async def _complete(
    rt: Runtime, conn: AsyncConnection, creation: Creation, *, nothing_came: bool, resend: bool
) -> None:
    now = rt.clock.now()
    submission = await submissions.get(conn, creation.submission_id)
    why = f"nothing came of attempt {creation.attempt}: {creation.reason}"
    if resend and submission is not None and submission.state != "cancelled":
        await creations.set_values(conn, creation.ref, only_in="unconfirmed", **creations.due(now, why))
        return
    end = creations.cancelled(now, why) if nothing_came else creations.answered(now, None)
    await creations.set_values(conn, creation.ref, only_in="unconfirmed", **end)
    await binding.top_up(rt, conn, creation)

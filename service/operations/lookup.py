"""Resolves unconfirmed creations by looking: what carries their marks is adopted, and only what stays away is sent again."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.event import Callback, parse
from service.core.lifecycle import EvidenceKind
from service.core.lookup import SHORTEST_WINDOW, Conclusion, LookupEvidence, conclude
from service.core.observation import Observation
from service.core.ownership import ref_of
from service.core.refresh import adopt
from service.core.token import CreationRef
from service.core.vm import Provenance
from service.operations import binding, listing
from service.operations.binding import Found
from service.operations.listing import FleetListing
from service.operations.provider_calls import call_provider
from service.runtime.runtime import Runtime
from service.storage import creations, events, submissions, vms
from service.storage.creations import Creation
from service.storage.engine import begin, transact

#: Of the VMs in a list, how many of the newest may show that creations sent later are visible.
_NEWEST = 50


async def lookup_by_name(rt: Runtime, unconfirmed: Sequence[Creation]) -> int:
    """Look for creations by their names, a call for each; how many were looked at."""
    looked = 0
    for creation in unconfirmed:
        seen = await listing.read(rt, search=creation.name)
        if seen is None:
            continue
        await _look(rt, [creation], seen)
        looked += 1
    return looked


async def lookup_in_list(rt: Runtime, unconfirmed: Sequence[Creation], seen: FleetListing) -> int:
    """Look for creations in the whole list; how many were looked at."""
    await _look(rt, unconfirmed, await _also_by_name(rt, unconfirmed, seen))
    return len(unconfirmed)


async def _also_by_name(rt: Runtime, unconfirmed: Sequence[Creation], seen: FleetListing) -> FleetListing:
    """The list, and what searches find of creations that it does not show and that are about to be sent again.

    Pages shift when VMs come and go between them, and one skipped VM would be one VM twice.
    """
    found = dict(seen.vms)
    complete = seen.complete
    for creation in unconfirmed:
        last_look = creation.lookup_until is not None and seen.at >= creation.lookup_until
        if last_look and not any(binding.belongs_to(rt, one, creation) for one in seen.vms.values()):
            named = await listing.read(rt, search=creation.name)
            complete = complete and named is not None
            found |= named.vms if named else {}
    return replace(seen, vms=found, complete=complete)


async def _look(rt: Runtime, unconfirmed: Sequence[Creation], seen: FleetListing) -> None:
    heard = await _heard_of(rt, unconfirmed, seen)
    for creation in unconfirmed:
        marked = [one for one in seen.vms.values() if binding.belongs_to(rt, one, creation)]
        found = {one.provider_id: one for one in [*marked, *heard.get(creation.ref, [])]}
        evidence = await _evidence(rt, creation, seen) if len(found) < creation.vm_count else None
        await transact(
            rt.engine, partial(_resolve, rt, ref=creation.ref, found=list(found.values()), seen=seen, evidence=evidence)
        )


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


async def _heard_of(
    rt: Runtime, unconfirmed: Sequence[Creation], seen: FleetListing
) -> dict[CreationRef, list[Observation]]:
    """VMs that spoke on a creation's own callback URL before it was settled, as the provider shows them.

    It finds those that the list does not show yet, or shows without a mark. What a callback names may be anybody's VM:
    whoever learned the URL can name any. So the reading of the VM itself must show a mark of ours.
    """
    async with begin(rt.engine) as conn:
        waiting = (
            await events.inbox_of(conn, [creation.ref for creation in unconfirmed], limit=1000) if unconfirmed else []
        )
    named = {creation.ref: creation for creation in unconfirmed}
    heard: dict[CreationRef, list[Observation]] = {}
    for ref, provider_id in dict.fromkeys(_named(waiting)):
        one = seen.vms.get(provider_id)
        if one is None or not binding.belongs_to(rt, one, named[ref]):
            one = await _get(rt, ref, provider_id)
        if one is not None and binding.belongs_to(rt, one, named[ref]):
            heard.setdefault(ref, []).append(one)
    return heard


def _named(waiting: Iterable[events.Event]) -> Iterable[tuple[CreationRef, int]]:
    for event in waiting:
        callback = parse(event.body)
        if isinstance(callback, Callback):
            yield event.ref, callback.provider_id


async def _get(rt: Runtime, ref: CreationRef, provider_id: int) -> Observation | None:
    asked = await call_provider(
        rt,
        "read",
        "get",
        lambda: rt.client.get_vm(provider_id),
        submission_id=ref.submission_id,
        provider_id=provider_id,
    )
    return asked.value if asked else None


async def _resolve(
    rt: Runtime,
    conn: AsyncConnection,
    *,
    ref: CreationRef,
    found: Sequence[Observation],
    seen: FleetListing,
    evidence: LookupEvidence | None,
) -> None:
    """Adopt what was found; settle the creation, look again later, or have it sent again."""
    creation = (await creations.lock(conn, [ref]))[ref]
    if creation.state != "unconfirmed" or creation.lookup_until is None:
        return
    now = rt.clock.now()
    provenance = Provenance(kind=EvidenceKind.OBSERVATION, at=seen.at, now=now, id=seen.call_id)
    await binding.bind(rt, conn, ref, Found(vms=found, provenance=provenance))
    left = [vm for vm in await vms.of_creation(conn, *ref) if vm.provider_id is None and vm.ended_at is None]
    wanted = any(vm.desired_state == "present" for vm in left)
    conclusion = Conclusion.WAIT
    # Evidence about an earlier state of the creation is no evidence about this one.
    if evidence is not None and evidence.since == creation.unconfirmed_since:
        window = timedelta(seconds=rt.settings.lookup_window_seconds)
        conclusion = conclude(replace(evidence, wanted=wanted), window=window)
    outcome = adopt([vm.vm_no for vm in left], [], quiet_over=conclusion is not Conclusion.WAIT)
    if not outcome.settled:
        again = now + rt.look.after(creation.lookup_attempts + 1, rt.jitter())
        if now >= creation.lookup_until and creation.name_taken:
            again = now + timedelta(seconds=rt.settings.resync_seconds)  # a health issue says so meanwhile
        again = min(again, creation.lookup_until) if now < creation.lookup_until else again
        await creations.set_values(
            conn, ref, only_in="unconfirmed", lookup_attempts=creation.lookup_attempts + 1, due_at=again
        )
        return
    resend = len(left) == creation.vm_count and wanted and conclusion is Conclusion.ABSENT
    await _settle(rt, conn, creation, nothing_came=len(left) == creation.vm_count, resend=resend)


async def _settle(rt: Runtime, conn: AsyncConnection, creation: Creation, *, nothing_came: bool, resend: bool) -> None:
    now = rt.clock.now()
    submission = await submissions.get(conn, creation.submission_id)
    why = f"nothing came of attempt {creation.attempt}: {creation.reason}"
    if resend and submission is not None and submission.state != "cancelled":
        await creations.set_values(conn, creation.ref, only_in="unconfirmed", **creations.due(now, why))
        return
    end = creations.cancelled(now, why) if nothing_came else creations.answered(now, None)
    await creations.set_values(conn, creation.ref, only_in="unconfirmed", **end)
    await binding.top_up(rt, conn, creation)

"""Binds the provider's VMs to our records, from a create answer or a lookup, and handles missing and extra VMs."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.evidence import apply_observation, end
from service.core.lifecycle import EvidenceKind, VerdictKind, VmState
from service.core.observation import CreateAnswer, Observation
from service.core.ownership import creation_name, has_tag_of
from service.core.submission import Policy
from service.core.token import CreationRef, redact
from service.core.vm import Change, Provenance, Vm
from service.provider.decoding import encode
from service.runtime.runtime import Runtime
from service.storage import creations, events, orphans, submissions, vms
from service.storage.calls import Call
from service.storage.creations import Creation


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """VMs at the provider that belong to a creation, and the evidence for it."""

    vms: Sequence[Observation]
    provenance: Provenance
    refused_contract: str = ""


async def complete_creation(
    rt: Runtime, conn: AsyncConnection, creation: Creation, call: Call, answer: CreateAnswer
) -> None:
    """Complete a creation that was answered: bind its VMs, top up missing ones, record extra ones as orphans.

    Raises `LeaseLost` if the lease is lost.
    """
    now = rt.clock.now()
    assert creation.lease_token is not None  # noqa: S101  a CHECK constraint: it has a lease while calling
    values = creations.answered(now, _without_secrets(answer.raw))
    await creations.complete_if_leased(conn, creation.ref, creation.lease_token, **values)
    provenance = Provenance(kind=EvidenceKind.ANSWER, at=call.begun_at, now=now, id=call.call_id)
    found = Found(vms=answer.vms, provenance=provenance, refused_contract="; ".join(answer.contract_errors))
    await bind(rt, conn, creation.ref, found)
    await top_up(rt, conn, creation)


async def bind(rt: Runtime, conn: AsyncConnection, ref: CreationRef, found: Found) -> int:
    """Bind found VMs to records of the creation that are not bound yet. Returns how many.

    VMs that are bound already are skipped; those without a record left become orphans. Callbacks that came early are
    due from now on.
    """
    of_creation = await vms.lock_creation(conn, *ref)
    submission = (await submissions.read(conn, [ref.submission_id]))[ref.submission_id]
    # In any submission, ended or not: a VM has one record.
    bound = {vm.provider_id for vm in await vms.by_provider_id(conn, [one.provider_id for one in found.vms])}
    new = sorted((one for one in found.vms if one.provider_id not in bound), key=lambda one: one.provider_id)
    open_ = [vm for vm in of_creation.values() if vm.state is VmState.REQUESTED]
    policy = Policy.model_validate(submission.policy)
    changes = [_bound(rt, vm, seen, found, policy) for vm, seen in zip(open_, new, strict=False)]
    await vms.save_changes(conn, [change.vm for change in changes], changes)
    count_changes(rt, changes)
    for extra in new[len(open_) :]:
        await record_orphan(
            rt, conn, ref, extra.provider_id, name=extra.name, state="found", reason="more VMs than asked for"
        )
    await events.resume(conn, ref, now=rt.clock.now())
    return len(changes)


def _bound(rt: Runtime, vm: Vm, seen: Observation, found: Found, policy: Policy) -> Change:
    known = replace(vm, provider_id=seen.provider_id, bound_at=found.provenance.now)
    return apply_observation(
        known, seen, found.provenance, rt.refresh_policy, policy, refused_contract=found.refused_contract
    )


def belongs_to(rt: Runtime, seen: Observation, creation: Creation) -> bool:
    """Whether an observed VM carries an ownership tag of a creation."""
    return has_tag_of(seen, ref=creation.ref, name=creation.name, secrets=rt.callback_secrets)


async def mark_unconfirmed(rt: Runtime, conn: AsyncConnection, *, ref: CreationRef) -> bool:
    """Look a due creation up before it is sent again, since one of its VMs has shown up. Returns whether it was due.

    The provider had refused it, or a lookup had found nothing, and then it was completed late.
    """
    now = rt.clock.now()
    until = now + timedelta(seconds=rt.settings.lookup_window_seconds)
    values = creations.unconfirmed(now, now, until, "a VM of an earlier attempt was made late")
    return await creations.set_values(conn, ref, only_in="due", **values)


async def top_up(rt: Runtime, conn: AsyncConnection, creation: Creation) -> int:
    """Move the VMs of a completed creation that were not made to a further creation. Returns how many.

    VMs whose deletion was requested are cancelled instead.
    """
    found = await vms.lock_creation(conn, creation.submission_id, creation.creation_no)
    left = [vm for vm in found.values() if vm.state is VmState.REQUESTED]
    unwanted = [
        ended(rt, vm, VmState.CANCELLED, "cancelled before it was made") for vm in left if vm.desired_state == "deleted"
    ]
    await vms.save_changes(conn, [change.vm for change in unwanted], unwanted)
    wanted = [vm for vm in left if vm.desired_state == "present"]
    if wanted:
        first, _ = await submissions.take_numbers(conn, creation.submission_id, creations=1, vms=0)
        submission = (await submissions.read(conn, [creation.submission_id]))[creation.submission_id]
        ref = CreationRef(creation.submission_id, first)
        further = replace(
            new_creation(ref, submission.name, len(wanted), rt.clock.now(), creation.deadline_at),
            alternative=creation.alternative,
            refused_alternatives=creation.refused_alternatives,
        )
        await creations.insert(conn, [further])
        await vms.save(conn, [replace(vm, creation_no=first) for vm in wanted])
    return len(wanted)


def new_creation(ref: CreationRef, base: str, count_: int, now: datetime, deadline_at: datetime) -> Creation:
    """A creation that is due now."""
    return Creation(
        submission_id=ref.submission_id,
        creation_no=ref.creation_no,
        vm_count=count_,
        name=creation_name(base, ref),
        due_at=now,
        created_at=now,
        deadline_at=deadline_at,
    )


def ended(rt: Runtime, vm: Vm, state: VmState, reason: str, evidence_id: UUID | None = None) -> Change:
    """The change that ends a VM that was never made: REFUSED or CANCELLED."""
    now = rt.clock.now()
    kind = EvidenceKind.ANSWER if evidence_id else EvidenceKind.DECISION
    return end(vm, state, Provenance(kind=kind, at=now, now=now, id=evidence_id), rt.refresh_policy, reason)


async def record_orphan(
    rt: Runtime, conn: AsyncConnection, ref: CreationRef, provider_id: int, *, name: str | None, state: str, reason: str
) -> None:
    """Record an orphan, once."""
    now = rt.clock.now()
    new = await orphans.note(
        conn,
        submission_id=ref.submission_id,
        provider_id=provider_id,
        creation_no=ref.creation_no,
        state="suspected" if state == "found" else state,  # each is read before anything is done about it
        reason=reason,
        now=now,
        due_at=now,
        name=name,
    )
    if new:
        rt.metrics.orphans.inc()


async def retry_replaced(conn: AsyncConnection, given_up: Iterable[Vm], now: datetime) -> None:
    """Let VMs whose replacements will not come try again."""
    olds = [(vm.submission_id, vm.replaces) for vm in given_up if vm.replaces is not None and not vm.member]
    if olds:
        locked = await vms.lock(conn, olds)
        waiting = [vm for vm in locked.values() if vm.contract_due_at is not None]
        await vms.save(conn, [replace(vm, contract_due_at=now) for vm in waiting])


def count_changes(rt: Runtime, changes: Collection[Change]) -> None:
    """Count changes in the metrics, and note them for traces."""
    if rt.traces is not None:
        rt.traces.note((change.vm for change in changes), rt.clock.now())
    moves, notes = Counter[tuple[VmState, EvidenceKind]](), Counter[str]()
    for change in changes:
        if change.transition is not None and change.verdict is VerdictKind.MOVED:
            moves[change.vm.state, change.transition.evidence] += 1
        if change.note is not None:
            notes[change.note.outcome] += 1
    for labels, times in moves.items():
        rt.metrics.transitions.labels(*labels).inc(times)
    for outcome, times in notes.items():
        rt.metrics.assignments.labels(outcome).inc(times)


def _without_secrets(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The answer without the MACs of callback tokens."""
    stored: dict[str, Any] = orjson.loads(redact(encode(raw).decode()))
    return stored

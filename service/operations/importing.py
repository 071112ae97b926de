"""Imports VMs that others made: from then on they are watched, audited and costed like any other."""

from dataclasses import dataclass
from functools import partial
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.contract import Assignment
from service.core.create_body import MAX_COUNT
from service.core.evidence import apply_observation
from service.core.importing import POLICY, ImportRequest, ImportSelection, select
from service.core.lifecycle import VmState
from service.core.observation import Observation
from service.core.ownership import callback_url, creation_name
from service.core.planning import batched
from service.core.submission import Policy, SubmissionState
from service.core.token import CreationRef
from service.core.vm import Change, Provenance, Vm
from service.errors import Invalid, TryLater
from service.operations import binding, listing
from service.operations.callbacks import Callbacks
from service.operations.listing import FleetListing
from service.runtime.runtime import Runtime
from service.runtime.tasks import gather_all
from service.storage import actions, creations, imports, submissions, vms
from service.storage.actions import Action
from service.storage.creations import Creation
from service.storage.engine import begin, transact
from service.storage.submissions import Submission


@dataclass(frozen=True, slots=True)
class Imported:
    """A VM that is imported, or would be. `callback`: attached, replaced, of others, or why it could not be attached."""

    provider_id: int
    name: str | None
    status: str | None
    callback: str
    vm_no: int | None = None


async def look(rt: Runtime, request: ImportRequest) -> tuple[ImportSelection, FleetListing]:
    """What an import would take now. Raises `TryLater` if the VMs cannot be listed, and `Invalid`."""
    seen = await listing.read(rt)
    if seen is None:
        raise TryLater("the provider's VMs cannot be listed now; try again")
    async with begin(rt.engine) as conn:
        found = await _select(conn, request, seen)
    if found.field_errors:
        raise Invalid(found.field_errors)
    return found, seen


async def _select(conn: AsyncConnection, request: ImportRequest, seen: FleetListing) -> ImportSelection:
    candidates = [one for one in seen.vms.values() if request.matches(one)]
    records = [
        record
        for some in batched((one.provider_id for one in candidates), 1000)
        for record in await vms.by_provider_id(conn, some)
    ]
    on_record = {vm.provider_id for vm in records if vm.state is not VmState.RELEASED and vm.provider_id}
    released = {vm.provider_id for vm in records if vm.state is VmState.RELEASED}
    tagged = {one.provider_id for one in candidates if seen.tags.ref_of(one) is not None} - released
    return select(request, seen.vms, on_record=on_record, tagged=tagged)


async def import_vms(
    rt: Runtime, request: ImportRequest, *, caller: str
) -> tuple[UUID, list[Imported], ImportSelection]:
    """Put VMs on record and attach our callback URLs. Raises `Invalid` and `TryLater`.

    A VM whose URL cannot be attached is on record all the same, and followed by refreshes.
    """
    found, seen = await look(rt, request)
    submission_id = rt.uuid()
    kept = await transact(rt.engine, partial(_store, rt, request, seen, submission_id, caller))
    shown, attaching = {one.provider_id: one for one in seen.vms.values()}, Callbacks(rt, caller)
    done = await gather_all(_attach(rt, attaching, request, vm, shown[vm.provider_id or 0]) for vm in kept)
    return submission_id, list(done), found


def callback_of(seen: Observation, request: ImportRequest) -> str:
    """What an import does about a VM's callback URL."""
    if seen.callback_url is None:
        return "attached"
    return "replaced" if request.replace_callbacks else "of others"


async def _store(
    rt: Runtime, request: ImportRequest, seen: FleetListing, submission_id: UUID, caller: str, conn: AsyncConnection
) -> list[Vm]:
    await imports.lock(conn)
    if await submissions.get(conn, submission_id) is not None:  # a lost commit
        return await vms.read(conn, await imports.living(conn, submission_id))
    found = await _select(conn, request, seen)
    if found.field_errors:
        raise Invalid(found.field_errors)
    chosen = sorted(found.chosen, key=lambda one: one.provider_id)
    now, parts = rt.clock.now(), list(batched(chosen, MAX_COUNT))
    await submissions.insert_one(conn, watched(rt, request.name, submission_id, caller, len(chosen), len(parts)))
    made = [
        never_sent(rt, CreationRef(submission_id, no), request.name, len(part), "its VMs were imported")
        for no, part in enumerate(parts, 1)
    ]
    await creations.insert(conn, made)
    changes = [
        first_change(
            rt,
            CreationRef(submission_id, 1 + index // MAX_COUNT),
            index + 1,
            one,
            seen.provenance_of(one.provider_id, now),
        )
        for index, one in enumerate(chosen)
    ]
    await vms.insert(conn, [unbound(change.vm) for change in changes])
    await vms.save_changes(conn, [change.vm for change in changes], changes)
    binding.count_changes(rt, changes)
    await actions.insert(conn, Action(submission_id, rt.uuid(), "import", caller, now, detail=f"{len(chosen)} VMs"))
    return [change.vm for change in changes]


def watched(rt: Runtime, name: str, submission_id: UUID, caller: str, count: int, parts: int) -> Submission:
    """A submission whose VMs are on record, and to which nothing is done."""
    now = rt.clock.now()
    return Submission(
        submission_id=submission_id,
        name=name,
        origin="imported",
        count=count,
        spec={"name": name},
        policy=POLICY.model_dump(mode="json"),
        reasons=[],
        warnings=[],
        requested_by=caller,
        next_creation_no=parts + 1,
        next_vm_no=count + 1,
        created_at=now,
        deadline_at=now,
        state=SubmissionState.READY,  # nothing is waited for
        ended_at=now,
    )


def never_sent(rt: Runtime, ref: CreationRef, name: str, count: int, reason: str) -> Creation:
    """A creation that the record never sent: the callback URLs of its VMs name it."""
    now = rt.clock.now()
    return Creation(
        submission_id=ref.submission_id,
        creation_no=ref.creation_no,
        vm_count=count,
        name=creation_name(name, ref),
        state="answered",
        due_at=None,
        deadline_at=now,
        reason=reason,
        created_at=now,
        completed_at=now,
    )


def unbound(vm: Vm) -> Vm:
    """The row as it is before its first transition."""
    return Vm(
        submission_id=vm.submission_id,
        vm_no=vm.vm_no,
        creation_no=vm.creation_no,
        state_since=vm.created_at,
        flavor=vm.flavor,
        environment=vm.environment,
        created_at=vm.created_at,
    )


def first_change(
    rt: Runtime, ref: CreationRef, vm_no: int, one: Observation, provenance: Provenance, policy: Policy = POLICY
) -> Change:
    """The record of a VM as it is shown. The contract that it is on is the one that it should be on."""
    now = provenance.now
    vm = Vm(
        submission_id=ref.submission_id,
        vm_no=vm_no,
        creation_no=ref.creation_no,
        state_since=now,
        flavor=one.flavor or "unknown",
        environment=one.environment or "unknown",
        created_at=now,
        provider_id=one.provider_id,
        bound_at=now,
        assignment=Assignment.NONE if one.contract_id is None else Assignment.WANTED,
        contract_id=one.contract_id,
    )
    return apply_observation(vm, one, provenance, rt.refresh_policy, policy)


async def _attach(rt: Runtime, attaching: Callbacks, request: ImportRequest, vm: Vm, seen: Observation) -> Imported:
    callback, old = callback_of(seen, request), seen.callback_url
    if callback != "of others":
        url = callback_url(rt.public_url, CreationRef(vm.submission_id, vm.creation_no), rt.callback_secrets[0])
        callback = await attaching.attach(vm, url, old=old) or callback
    return Imported(seen.provider_id, seen.name, seen.status, callback, vm.vm_no)

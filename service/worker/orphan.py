"""Handles orphans by the submission's policy: reports, adopts or deletes them."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core import storable
from service.core.lifecycle import EvidenceKind, VmState
from service.core.observation import Observation
from service.core.ownership import may_belong_to, ref_of
from service.core.submission import Policy, SubmissionState
from service.core.token import CreationRef
from service.core.vm import Provenance, Vm
from service.errors import VmNotFound
from service.operations import binding, recovery, restored
from service.operations.binding import Found
from service.operations.parts import ITEM_ERRORS
from service.operations.provider_calls import CallResult, call_provider
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.runtime.slots import Claimed, slots
from service.storage import creations, orphans, submissions, vms
from service.storage.creations import Creation
from service.storage.engine import begin, transact
from service.storage.orphans import Orphan
from service.storage.submissions import Submission

Value = TypeVar("Value")

_FLOOD: Final = "callback_flood"


async def run_once(rt: Runtime) -> int:
    """Read due orphans, as many as there are slots, and handle them. Returns how many; one that could not be called about
    is deferred.
    """
    claimed = await claim(rt, slots(rt.settings)["orphan"])
    return await claimed.make_calls()


async def claim(rt: Runtime, free: int) -> Claimed:
    """Claim up to `free` due orphans. Returns the calls that handle them."""
    # Two calls for each.
    lease = rt.lease(2 * rt.settings.call_timeout)
    due = await transact(rt.engine, lambda conn: orphans.claim_due(conn, now=rt.clock.now(), lease=lease, limit=free))
    if due or _FLOOD in rt.health.issues:
        await _report_flood(rt)
    return Claimed(len(due), [partial(_one, rt, orphan) for orphan in due])


async def _report_flood(rt: Runtime) -> None:
    """Report that callbacks on a creation's URL name more unknown VMs than are read."""
    async with begin(rt.engine) as conn:
        ref = await orphans.flooded(conn, now=rt.clock.now())
    if ref is None:
        rt.health.resolve(_FLOOD)
        return
    rt.health.report(
        _FLOOD,
        f"callbacks on the URL of creation {ref.creation_no} of {ref.submission_id} name unknown VMs; "
        f"at most {orphans.MOST_SUSPECTS} an hour are read",
        advisory=True,  # anyone with a callback URL can cause it, and must not make the daemon unready
    )


async def _one(rt: Runtime, orphan: Orphan) -> bool:
    """Deal with an orphan; whether it was read. One that cannot be dealt with is deferred with its reason, and costs
    no other.
    """
    try:
        return await _deal_with(rt, orphan)
    except ITEM_ERRORS as error:
        logger().error("orphan deferred", action="orphan", provider_id=orphan.provider_id, error=str(error)[:500])
        until = rt.clock.now() + timedelta(seconds=rt.settings.resync_seconds)
        reason = storable.text(f"{orphan.reason}; last try: {error}", longest=500)
        await transact(rt.engine, partial(orphans.update_if_claimed, claimed=orphan, due_at=until, reason=reason))
        return True


async def _deal_with(rt: Runtime, orphan: Orphan) -> bool:
    # Suspects that a callback named come last: they use what the rate limit leaves to events histories.
    share = "history" if (orphan.source, orphan.state) == ("callback", "suspected") else "read"
    result = await _call(rt, orphan, share, "get", rt.client.get_vm)
    if result is None or (result.error is not None and not isinstance(result.error, VmNotFound)):
        await transact(rt.engine, partial(_again, rt, orphan=orphan, state=orphan.state))
    elif result.value is None:
        await transact(rt.engine, partial(_missing, rt, orphan=orphan))
    else:
        await _present(rt, orphan, result)
    return result is not None


async def _call(
    rt: Runtime, orphan: Orphan, operation: str, label: str, make: Callable[[int], Awaitable[Value]]
) -> CallResult[Value] | None:
    # Without creation_no, so that the call is not in the timelines of the creation's VMs.
    return await call_provider(
        rt,
        operation,
        label,
        lambda: make(orphan.provider_id),
        submission_id=orphan.submission_id,
        provider_id=orphan.provider_id,
    )


async def _present(rt: Runtime, orphan: Orphan, result: CallResult[Observation]) -> None:
    origin = CreationRef(orphan.submission_id, orphan.creation_no)
    async with begin(rt.engine) as conn:
        submission = await submissions.get(conn, orphan.submission_id)
        records = await vms.by_provider_id(conn, [orphan.provider_id])
        creation = (await creations.read(conn, [origin])).get(origin)
    if not records and _is_of_lost_part(rt, result.value_or_raise(), creation, origin):
        if submission is not None and submission.cancelled_at is not None:
            await _delete(rt, orphan)
        else:
            await transact(rt.engine, partial(_recover, rt, orphan=orphan, result=result))
        return
    if submission is None or creation is None or not binding.belongs_to(rt, result.value_or_raise(), creation):
        # Anyone with a callback URL can name any VM. Do nothing to a VM without our tags.
        since = creation.first_sent_at if creation else None
        unclear = not records and may_belong_to(result.value_or_raise(), since=since, secrets=rt.callback_secrets)
        close = _report if unclear else partial(_not_ours, rt)
        await transact(rt.engine, partial(close, orphan=orphan))
        return
    if any(vm.state is VmState.RELEASED for vm in records) and all(vm.ended_at for vm in records):
        await transact(rt.engine, partial(_released, rt, orphan=orphan))
        return
    living = any(vm.ended_at is None for vm in records)
    if living or creation.state in creations.INCOMPLETE:
        # It is no orphan: it is on record, or about to be bound.
        await transact(rt.engine, partial(_no_orphan, rt, orphan=orphan, unclear=not living))
        return
    await _by_policy(rt, orphan, result, submission, records)


async def _by_policy(
    rt: Runtime, orphan: Orphan, result: CallResult[Observation], submission: Submission, records: Sequence[Vm]
) -> None:
    async with begin(rt.engine) as conn:
        uncertain = await restored.is_uncertain(rt, conn, submission)
    policy = Policy.model_validate(submission.policy)
    # What was cancelled or deleted is unwanted, whatever the policy.
    cancelled = submission.cancelled_at is not None or submission.state is SubmissionState.CANCELLED
    unwanted = cancelled or any(vm.desired_state == "deleted" for vm in records)
    if uncertain and not unwanted and not records:
        await transact(rt.engine, partial(_adopt_meanwhile, rt, orphan=orphan, result=result))
    elif policy.on_orphan == "delete" or unwanted or orphan.state == "deleting":
        await _delete(rt, orphan)
    elif policy.on_orphan == "adopt" and not records:
        await transact(rt.engine, partial(_adopt, rt, orphan=orphan, result=result))
    else:
        await transact(rt.engine, partial(_report_ours, orphan=orphan))


def _is_of_lost_part(rt: Runtime, seen: Observation, creation: Creation | None, origin: CreationRef) -> bool:
    """Whether the record went back in time, and has lost the VM's creation, or all of its submission."""
    return recovery.is_lost(creation) and ref_of(seen, rt.callback_secrets, by_label=False) == origin


async def _recover(rt: Runtime, conn: AsyncConnection, *, orphan: Orphan, result: CallResult[Observation]) -> None:
    """Put a VM of the lost part back on record: in the place of one that is still to be made, or besides the others."""
    submission = await submissions.get(conn, orphan.submission_id)
    ref = CreationRef(orphan.submission_id, orphan.creation_no)
    if await restored.is_uncertain(rt, conn, submission):
        # What is topped up meanwhile must not get the number of the lost one: its VMs would be looked for instead of matched.
        await submissions.pass_number(conn, ref)
        await _adopt_meanwhile(rt, conn, orphan=orphan, result=result, lost=True)
        return
    if await orphans.update_if_claimed(conn, orphan, state="adopted", due_at=None, ended_at=rt.clock.now()):
        await recovery.recover(rt, conn, ref, result.value_or_raise(), _provenance(rt, result))


async def _adopt_meanwhile(
    rt: Runtime, conn: AsyncConnection, *, orphan: Orphan, result: CallResult[Observation], lost: bool = False
) -> None:
    """While the record is uncertain, whatever the policy: adopt an orphan if there is a place for it, or try again later."""
    if not await _take_place(rt, conn, orphan=orphan, result=result, lost=lost):
        await _again(rt, conn, orphan=orphan, state=orphan.state)


def _provenance(rt: Runtime, result: CallResult[Observation]) -> Provenance:
    return Provenance(
        kind=EvidenceKind.OBSERVATION, at=result.call.begun_at, now=rt.clock.now(), id=result.call.call_id
    )


async def _not_ours(rt: Runtime, conn: AsyncConnection, *, orphan: Orphan) -> None:
    reason = "named by a callback on our URL, and carries none of our tags: not ours"
    await orphans.update_if_claimed(conn, orphan, state="gone", reason=reason, due_at=None, ended_at=rt.clock.now())


async def _released(rt: Runtime, conn: AsyncConnection, *, orphan: Orphan) -> None:
    reason = "it was imported and released: not ours any more"
    await orphans.update_if_claimed(conn, orphan, state="gone", reason=reason, due_at=None, ended_at=rt.clock.now())


async def _no_orphan(rt: Runtime, conn: AsyncConnection, *, orphan: Orphan, unclear: bool) -> None:
    if unclear:
        await binding.mark_unconfirmed(rt, conn, ref=CreationRef(orphan.submission_id, orphan.creation_no))
    await orphans.update_if_claimed(conn, orphan, state="adopted", due_at=None, ended_at=rt.clock.now())


async def _delete(rt: Runtime, orphan: Orphan) -> None:
    result = await _call(rt, orphan, "delete", "delete", rt.client.delete_vm)
    state = orphan.state if result is None else "deleting"
    await transact(rt.engine, partial(_again, rt, orphan=orphan, state=state))


async def _again(rt: Runtime, conn: AsyncConnection, *, orphan: Orphan, state: str) -> None:
    due_at = rt.clock.now() + rt.look.after(orphan.attempts, rt.jitter())
    await orphans.update_if_claimed(conn, orphan, state=state, due_at=due_at)


async def _missing(rt: Runtime, conn: AsyncConnection, *, orphan: Orphan) -> None:
    now = rt.clock.now()
    believed_at = orphan.found_at + timedelta(seconds=rt.settings.newborn_seconds)
    if now < believed_at and orphan.state == "suspected":
        # Reads may lag behind callbacks, so read it once more.
        await orphans.update_if_claimed(conn, orphan, due_at=believed_at)
        return
    await orphans.update_if_claimed(conn, orphan, state="gone", due_at=None, ended_at=now)


async def _report_ours(conn: AsyncConnection, *, orphan: Orphan) -> None:
    # If the submission was cancelled meanwhile, the orphan is read again after this claim, and deleted then.
    if not await submissions.is_cancelled(conn, orphan.submission_id):
        await _report(conn, orphan=orphan)


async def _report(conn: AsyncConnection, *, orphan: Orphan) -> None:
    if await orphans.update_if_claimed(conn, orphan, state="found", due_at=None):
        reason = f"VM {orphan.provider_id} at the provider is an orphan: {orphan.reason}"
        await submissions.add_reason(conn, orphan.submission_id, reason)


async def _adopt(rt: Runtime, conn: AsyncConnection, *, orphan: Orphan, result: CallResult[Observation]) -> None:
    """Bind an orphan to a VM of a creation that was not sent yet; report it if there is none."""
    if not await _take_place(rt, conn, orphan=orphan, result=result):
        await _report_ours(conn, orphan=orphan)


async def _take_place(
    rt: Runtime, conn: AsyncConnection, *, orphan: Orphan, result: CallResult[Observation], lost: bool = False
) -> bool:
    """Bind an orphan to a VM of a creation that was not sent yet. Returns whether there is one. `lost`: the orphan's own is not on record."""
    now = rt.clock.now()
    waiting = await vms.waiting_unsent(conn, orphan.submission_id)
    if not waiting:
        return False
    vm = waiting[0]
    ref = CreationRef(vm.submission_id, vm.creation_no)
    creation = (await creations.lock(conn, [ref]))[ref]
    locked = (await vms.lock(conn, [vm.ref]))[vm.ref]
    unsent = (VmState.REQUESTED, "present", creation.creation_no)
    if creation.state != "due" or (locked.state, locked.desired_state, locked.creation_no) != unsent:
        await _again(rt, conn, orphan=orphan, state=orphan.state)
        return True
    if not await orphans.update_if_claimed(conn, orphan, state="adopted", due_at=None, ended_at=now):
        return True
    # Bind it to its own creation, and make the unsent creation smaller.
    origin = CreationRef(orphan.submission_id, orphan.creation_no)
    if lost:
        await recovery.make_creation(rt, conn, origin)
    await vms.save(conn, [replace(locked, creation_no=orphan.creation_no)])
    await creations.give_back_place(conn, creation, now=now, reason="its VM was adopted")
    found = Found(vms=[result.value_or_raise()], provenance=_provenance(rt, result))
    await binding.bind(rt, conn, origin, found)
    return True

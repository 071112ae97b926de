"""VMs at the provider that carry our marks and have no record to bind to: found, read, and dealt with by policy."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TypeVar

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.lifecycle import EvidenceKind, VmState
from service.core.observation import Observation
from service.core.ownership import may_belong_to
from service.core.submission import Policy, SubmissionState
from service.core.token import CreationRef
from service.core.vm import Provenance
from service.errors import VmNotFound
from service.operations import binding
from service.operations.binding import Found
from service.operations.provider_calls import CallResult, call_provider
from service.runtime.runtime import Runtime
from service.storage import creations, orphans, submissions, vms
from service.storage.engine import begin, transact
from service.storage.orphans import Orphan

Value = TypeVar("Value")

_AT_ONCE = 8


async def run_once(rt: Runtime) -> int:
    """Look at suspected orphans and deal with them; how many."""
    # Two calls for each, all of them at once.
    lease = timedelta(seconds=rt.settings.call_timeout * 2 + 30)
    due = await transact(
        rt.engine, lambda conn: orphans.claim_due(conn, now=rt.clock.now(), lease=lease, limit=_AT_ONCE)
    )
    await asyncio.gather(*(_deal_with(rt, one) for one in due))
    return len(due)


async def _deal_with(rt: Runtime, orphan: Orphan) -> None:
    asked = await _ask(rt, orphan, "read", "get", rt.client.get_vm)
    if asked is None or (asked.error is not None and not isinstance(asked.error, VmNotFound)):
        await transact(rt.engine, partial(_again, rt, orphan=orphan, state=orphan.state))
    elif asked.value is None:
        await transact(rt.engine, partial(_missing, rt, orphan=orphan))
    else:
        await _present(rt, orphan, asked)


async def _ask(
    rt: Runtime, orphan: Orphan, operation: str, label: str, make: Callable[[int], Awaitable[Value]]
) -> CallResult[Value] | None:
    # No creation is named: in the stories of the VMs that it did make this call would be out of place.
    return await call_provider(
        rt,
        operation,
        label,
        lambda: make(orphan.provider_id),
        submission_id=orphan.submission_id,
        provider_id=orphan.provider_id,
    )


async def _present(rt: Runtime, orphan: Orphan, asked: CallResult[Observation]) -> None:
    origin = CreationRef(orphan.submission_id, orphan.creation_no)
    async with begin(rt.engine) as conn:
        submission = await submissions.get(conn, orphan.submission_id)
        records = await vms.by_provider_id(conn, [orphan.provider_id])
        creation = (await creations.read(conn, [origin])).get(origin)
    if submission is None or creation is None or not binding.belongs_to(rt, asked.value_or_raise(), creation):
        # Whoever knows a callback URL can name any VM in a callback. Nothing is done to one without a mark of ours.
        since = creation.first_sent_at if creation else None
        doubtful = not records and may_belong_to(asked.value_or_raise(), since=since, secrets=rt.callback_secrets)
        settle = _report if doubtful else partial(_not_ours, rt)
        await transact(rt.engine, partial(settle, orphan=orphan))
        return
    living = any(vm.ended_at is None for vm in records)
    if living or creation.state in creations.INCOMPLETE:
        # What was suspected of it is not so: a record was waiting for it after all, or is about to.
        await transact(rt.engine, partial(_no_orphan, rt, orphan=orphan, doubtful=not living))
        return
    policy = Policy.model_validate(submission.policy)
    # What was cancelled or wished away is not wanted by anyone, whatever its policy said of the living.
    cancelled = submission.cancelled_at is not None or submission.state is SubmissionState.CANCELLED
    unwanted = cancelled or any(vm.desired_state == "deleted" for vm in records)
    if policy.on_orphan == "delete" or unwanted or orphan.state == "deleting":
        await _delete(rt, orphan)
    elif policy.on_orphan == "adopt" and not records:
        await transact(rt.engine, partial(_adopt, rt, orphan=orphan, asked=asked))
    else:
        await transact(rt.engine, partial(_report_ours, orphan=orphan))


async def _not_ours(rt: Runtime, conn: AsyncConnection, *, orphan: Orphan) -> None:
    reason = "named by a callback on our URL, and carries none of our marks: not ours"
    await orphans.update_if_claimed(conn, orphan, state="gone", reason=reason, due_at=None, ended_at=rt.clock.now())


async def _no_orphan(rt: Runtime, conn: AsyncConnection, *, orphan: Orphan, doubtful: bool) -> None:
    if doubtful:
        await binding.mark_unconfirmed(rt, conn, ref=CreationRef(orphan.submission_id, orphan.creation_no))
    await orphans.update_if_claimed(conn, orphan, state="adopted", due_at=None, ended_at=rt.clock.now())


async def _delete(rt: Runtime, orphan: Orphan) -> None:
    asked = await _ask(rt, orphan, "delete", "delete", rt.client.delete_vm)
    state = orphan.state if asked is None else "deleting"
    await transact(rt.engine, partial(_again, rt, orphan=orphan, state=state))


async def _again(rt: Runtime, conn: AsyncConnection, *, orphan: Orphan, state: str) -> None:
    due_at = rt.clock.now() + rt.look.after(orphan.attempts, rt.jitter())
    await orphans.update_if_claimed(conn, orphan, state=state, due_at=due_at)


async def _missing(rt: Runtime, conn: AsyncConnection, *, orphan: Orphan) -> None:
    now = rt.clock.now()
    believed_at = orphan.found_at + timedelta(seconds=rt.settings.newborn_seconds)
    if now < believed_at and orphan.state == "suspected":
        # It may lag behind its own callback. One more look settles it: anyone who learned a URL could name any id.
        await orphans.update_if_claimed(conn, orphan, due_at=believed_at)
        return
    await orphans.update_if_claimed(conn, orphan, state="gone", due_at=None, ended_at=now)


async def _report_ours(conn: AsyncConnection, *, orphan: Orphan) -> None:
    # Cancelled since it was read: it is looked at again when this claim is over, and then not wanted.
    if not await submissions.is_cancelled(conn, orphan.submission_id):
        await _report(conn, orphan=orphan)


async def _report(conn: AsyncConnection, *, orphan: Orphan) -> None:
    if await orphans.update_if_claimed(conn, orphan, state="found", due_at=None):
        reason = f"VM {orphan.provider_id} at the provider is an orphan: {orphan.reason}"
        await submissions.add_reason(conn, orphan.submission_id, reason)


async def _adopt(rt: Runtime, conn: AsyncConnection, *, orphan: Orphan, asked: CallResult[Observation]) -> None:
    """Bind an orphan to a VM that still waits in a creation that was not sent yet; report it where there is none."""
    now = rt.clock.now()
    seen = asked.value_or_raise()
    waiting = await vms.waiting_unsent(conn, orphan.submission_id)
    if not waiting:
        await _report_ours(conn, orphan=orphan)
        return
    vm = waiting[0]
    ref = CreationRef(vm.submission_id, vm.creation_no)
    creation = (await creations.lock(conn, [ref]))[ref]
    locked = (await vms.lock(conn, [vm.ref]))[vm.ref]
    unsent = (VmState.REQUESTED, "present", creation.creation_no)
    if creation.state != "due" or (locked.state, locked.desired_state, locked.creation_no) != unsent:
        await _again(rt, conn, orphan=orphan, state=orphan.state)
        return
    if not await orphans.update_if_claimed(conn, orphan, state="adopted", due_at=None, ended_at=now):
        return
    # It is bound where it came from, and its place in the unsent creation is given back.
    await vms.save(conn, [replace(locked, creation_no=orphan.creation_no)])
    await creations.give_back_place(conn, creation, now=now, reason="its VM was adopted")
    origin = CreationRef(orphan.submission_id, orphan.creation_no)
    provenance = Provenance(kind=EvidenceKind.OBSERVATION, at=asked.call.begun_at, now=now, id=asked.call.call_id)
    await binding.bind(rt, conn, origin, Found(vms=[seen], provenance=provenance))

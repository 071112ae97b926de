"""Puts VMs back on record whose creations a restored record has lost. Their callback URLs, signed with our secret, name them."""

from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.create_body import MAX_COUNT
from service.core.observation import Observation
from service.core.submission import Policy
from service.core.token import CreationRef
from service.core.vm import Provenance
from service.operations import binding, importing
from service.runtime.runtime import Runtime
from service.storage import creations, events, imports, submissions, vms
from service.storage.creations import Creation
from service.storage.submissions import Submission

#: The name of a submission that is lost, and who asked for it as far as the record knows.
_NAME: Final = "recovered"
_REASON: Final = "found at the provider after the record was restored"


def is_lost(creation: Creation | None) -> bool:
    """Whether the record lacks a creation, or has it only because VMs of it were recovered."""
    return creation is None or creation.reason == _REASON


async def recover(
    rt: Runtime, conn: AsyncConnection, ref: CreationRef, seen: Observation, provenance: Provenance
) -> None:
    """Record a VM under the creation that its callback URL names, so that its callbacks are applied again.

    If the submission is lost, too, nobody knows what was wanted: it is recorded as an import is, and nothing is done to its VMs.
    """
    submission = await make_creation(rt, conn, ref)
    _, vm_no = await submissions.take_numbers(conn, ref.submission_id, creations=0, vms=1)
    if submission.origin == "imported":
        await submissions.set_values(conn, ref.submission_id, count=vm_no)
    policy = Policy.model_validate(submission.policy)
    change = importing.first_change(rt, ref, vm_no, seen, provenance, policy)
    await vms.insert(conn, [importing.unbound(change.vm)])
    await vms.save_changes(conn, [change.vm], [change])
    binding.count_changes(rt, [change])
    await events.resume(conn, ref, now=provenance.now)


async def make_creation(rt: Runtime, conn: AsyncConnection, ref: CreationRef) -> Submission:
    """Record a lost creation, and its submission if that is lost, with room for one VM more. Returns the submission."""
    await imports.lock(conn)  # several VMs of one creation may be recovered at the same time
    submission = await submissions.get(conn, ref.submission_id)
    if submission is None:
        made = importing.watched(rt, _NAME, ref.submission_id, _NAME, count=0, parts=ref.creation_no)
        await submissions.insert_one(conn, submission := made)
    else:
        await submissions.pass_number(conn, ref)
    known = (await creations.read(conn, [ref])).get(ref)
    if known is None:
        await creations.insert(conn, [importing.never_sent(rt, ref, submission.name, 1, _REASON)])
    else:
        await creations.set_values(conn, ref, only_in="answered", vm_count=min(MAX_COUNT, known.vm_count + 1))
    return submission

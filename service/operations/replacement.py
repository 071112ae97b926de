"""Adds replacements for VMs."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.submission import cut
from service.core.token import CreationRef
from service.core.vm import Vm, replacement_for
from service.operations import binding
from service.runtime.runtime import Runtime
from service.storage import creations, submissions, vms


async def add_replacements(rt: Runtime, conn: AsyncConnection, olds: Sequence[Vm], *, member: bool) -> list[Vm]:
    """Insert a VM to replace each of `olds`, all of one submission, and the creations for them."""
    now, submission_id = rt.clock.now(), olds[0].submission_id
    groups = len(list(cut(len(olds))))
    first_creation, first_vm = await submissions.take_numbers(conn, submission_id, creations=groups, vms=len(olds))
    submission = (await submissions.read(conn, [submission_id]))[submission_id]
    made: list[Vm] = []
    for offset, numbers in enumerate(cut(len(olds), first_vm)):
        ref = CreationRef(submission_id, first_creation + offset)
        await creations.insert(conn, [binding.new_creation(ref, submission.name, len(numbers), now)])
        made += [
            replacement_for(olds[no - first_vm], vm_no=no, creation_no=ref.creation_no, member=member, now=now)
            for no in numbers
        ]
    await vms.insert(conn, made)
    return made

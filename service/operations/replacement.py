"""Adds replacements for VMs."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.submission import Policy, cut
from service.core.token import CreationRef
from service.core.vm import Vm, replacement_for
from service.operations import binding
from service.runtime.runtime import Runtime
from service.storage import creations, submissions, vms


async def add_replacements(
    rt: Runtime,
    conn: AsyncConnection,
    olds: Sequence[Vm],
    *,
    member: bool,
    deadline_at: datetime | None = None,
    pinned: bool = False,
    repair: bool = False,
) -> list[Vm]:
    """Insert a VM to replace each of `olds`, all of one submission, and the creations for them.

    They are made from the same alternative as the old ones; unless `pinned`, other alternatives may be tried too.
    `deadline_at` is by default the submission's. `repair`: the old VMs failed after they were ready. The result is in the order of `olds`.
    """
    now, submission_id = rt.clock.now(), olds[0].submission_id
    groups = _groups(olds)
    first_creation, first_vm = await submissions.take_numbers(conn, submission_id, creations=len(groups), vms=len(olds))
    submission = (await submissions.read(conn, [submission_id]))[submission_id]
    choices = range(len(Policy.model_validate(submission.policy).alternatives) + 1)
    made: dict[int, Vm] = {}
    for offset, group in enumerate(groups):
        ref = CreationRef(submission_id, first_creation + offset)
        number = group[0].alternative
        creation = replace(
            binding.new_creation(ref, submission.name, len(group), now, deadline_at or submission.deadline_at),
            alternative=number,
            refused_alternatives=[one for one in choices if one != number] if pinned else [],
        )
        await creations.insert(conn, [creation])
        for old in group:
            vm_no = first_vm + len(made)
            made[old.vm_no] = replacement_for(
                old, vm_no=vm_no, creation_no=ref.creation_no, member=member, now=now, repair=repair
            )
    await vms.insert(conn, made.values())
    return [made[old.vm_no] for old in olds]


def _groups(olds: Sequence[Vm]) -> list[list[Vm]]:
    """VMs that go into a create call together: at most 20, made from the same alternative."""
    by_alternative: dict[int, list[Vm]] = defaultdict(list)
    for old in olds:
        by_alternative[old.alternative].append(old)
    return [[of_it[no - 1] for no in numbers] for of_it in by_alternative.values() for numbers in cut(len(of_it))]

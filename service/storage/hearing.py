"""What applying callbacks reads and writes: VMs locked and saved in sets, by the driver's connection and by arrays.

Everyone else reads and writes whole rows (`vms.py`). A storm of callbacks is thousands of VMs a second, of which
hearing changes a few columns; so only those are written, and each column travels as one array.
"""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Final
from uuid import UUID

from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.vm import Change, Transition, Vm
from service.storage.engine import driver
from service.storage.rows import columns_of, insert_many, maker
from service.storage.tables import assignments, vms

#: Who a VM is to those who speak of it: its submission, and the provider's id.
Bound = tuple[UUID, int]

_KEY: Final = ("submission_id", "vm_no")
#: All that `core.evidence.hear` changes of a VM; a test compares the two.
HEARD: Final = (
    "state", "provider_status", "state_since", "seq", "heard_at", "next_reading_at", "reading_tries", "fixed_ip",
    "floating_ip", "delete_told", "ready", "stuck", "reason", "active_at", "ready_at",
)  # fmt: skip


def _arrays(columns: Iterable[str]) -> str:
    """A parameter for each column of a VM: an array of the column's type."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's own
    types = [vms.c[name].type.compile(dialect=dialect) for name in columns]
    return ", ".join(f"${number}::{type_}[]" for number, type_ in enumerate(types, 1))


_LOCK: Final = f"""
SELECT {", ".join(f"vms.{name}" for name in columns_of(Vm))}
FROM vms JOIN unnest($1::uuid[], $2::bigint[]) AS wanted (submission_id, provider_id)
  ON vms.submission_id = wanted.submission_id AND vms.provider_id = wanted.provider_id
ORDER BY vms.submission_id, vms.vm_no
FOR NO KEY UPDATE OF vms
"""  # noqa: S608  names of our own columns
_SAVE: Final = f"""
UPDATE vms AS old SET {", ".join(f"{name} = new.{name}" for name in HEARD)}
FROM unnest({_arrays(_KEY + HEARD)}) AS new ({", ".join(_KEY + HEARD)})
WHERE old.submission_id = new.submission_id AND old.vm_no = new.vm_no
"""  # noqa: S608  as above
_vm_of = maker(Vm)
_heard_of = attrgetter(*_KEY, *HEARD)
_TRANSITION: Final = columns_of(Transition)
_transition_of = attrgetter(*_TRANSITION)


async def lock_bound(conn: AsyncConnection, bound: Iterable[Bound]) -> dict[Bound, Vm]:
    """Lock the VMs with these ids of the provider's, always in the order of their keys, so that nobody deadlocks."""
    wanted = list(bound)
    if not wanted:
        return {}
    connection = await driver(conn)
    rows = await connection.fetch(_LOCK, [one[0] for one in wanted], [one[1] for one in wanted])
    found = map(_vm_of, rows)
    return {(vm.submission_id, vm.provider_id): vm for vm in found if vm.provider_id is not None}


async def save_heard(conn: AsyncConnection, latest: Sequence[Vm], changes: Sequence[Change]) -> None:
    """Write what became of locked VMs by hearing: each VM's latest record, every transition, every note."""
    connection = await driver(conn)
    if latest:
        await connection.execute(_SAVE, *map(list, zip(*map(_heard_of, latest), strict=True)))
    kept = [change.transition for change in changes if change.transition]
    if kept:
        records = map(_transition_of, kept)
        await connection.copy_records_to_table("transitions", records=records, columns=_TRANSITION)
    await insert_many(conn, assignments, [change.note for change in changes if change.note])

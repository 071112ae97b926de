"""What applying callbacks reads and writes: VMs locked and saved in sets, by the driver's connection and by arrays.

Everyone else reads and writes whole rows (`vms.py`). A storm of callbacks is thousands of VMs a second, of which
hearing changes a few columns; so only those are written, and each column travels as one array.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.vm import Change, Transition, Vm
from service.storage.engine import driver
from service.storage.events import InboxEvent
from service.storage.rows import columns_of, insert_many, row_factory
from service.storage.tables import assignments, transitions, vms

#: Who a VM is to those who speak of it: its submission, and the provider's id.
Bound = tuple[UUID, int]

_KEY: Final = ("submission_id", "vm_no")
#: All that `core.evidence.hear` changes of a VM; a test compares the two.
HEARD: Final = (
    "state", "provider_status", "state_since", "seq", "last_event_at", "next_refresh_at", "refresh_attempts", "fixed_ip",
    "floating_ip", "deletion_announced", "ready", "stuck", "reason", "active_at", "ready_at",
)  # fmt: skip


def _arrays(table: Table, columns: Iterable[str], numbers: Iterator[int]) -> str:
    """A parameter for each column: an array of the column's type."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's own
    types = [table.c[name].type.compile(dialect=dialect) for name in columns]
    return ", ".join(f"${next(numbers)}::{type_}[]" for type_ in types)


_LOCK: Final = f"""
SELECT {", ".join(f"vms.{name}" for name in columns_of(Vm))}
FROM vms JOIN unnest($1::uuid[], $2::bigint[]) AS wanted (submission_id, provider_id)
  ON vms.submission_id = wanted.submission_id AND vms.provider_id = wanted.provider_id
ORDER BY vms.submission_id, vms.vm_no
FOR NO KEY UPDATE OF vms
"""  # noqa: S608  names of our own columns
_HEARD: Final = _KEY + HEARD
_TRANSITION: Final = columns_of(Transition)
_numbers = count(1)
#: One statement and not three: a pass that has little to apply is as long as its round trips.
_SAVE: Final = f"""
WITH heard AS (
    UPDATE vms AS old SET {", ".join(f"{name} = new.{name}" for name in HEARD)}
    FROM unnest({_arrays(vms, _HEARD, _numbers)}) AS new ({", ".join(_HEARD)})
    WHERE old.submission_id = new.submission_id AND old.vm_no = new.vm_no
), moved AS (
    INSERT INTO transitions ({", ".join(_TRANSITION)})
    SELECT * FROM unnest({_arrays(transitions, _TRANSITION, _numbers)})
)
DELETE FROM inbox WHERE ctid = ANY (${next(_numbers)}::text[]::tid[])
"""  # noqa: S608  as above
_vm_of = row_factory(Vm)
_heard_of = attrgetter(*_HEARD)
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


async def save_applied(
    conn: AsyncConnection, latest: Sequence[Vm], changes: Sequence[Change], applied: Sequence[InboxEvent] = ()
) -> None:
    """Write what became of locked VMs by hearing: each VM's latest record, every transition, every note.

    Applied events, which this transaction took, leave the queue. The events themselves stay.
    """
    kept = [change.transition for change in changes if change.transition]
    if latest or kept or applied:
        heard = _columns(map(_heard_of, latest), len(_HEARD))
        moved = _columns(map(_transition_of, kept), len(_TRANSITION))
        places = [one.place for one in applied]
        await (await driver(conn)).execute(_SAVE, *heard, *moved, places)
    await insert_many(conn, assignments, [change.note for change in changes if change.note])


def _columns(rows: Iterable[Sequence[Any]], number: int) -> Iterable[Sequence[Any]]:
    return list(zip(*rows, strict=True)) or [()] * number

"""The statements that apply callbacks: they lock and save sets of VMs, through asyncpg, one array for each column.

Other jobs write whole rows (`vms.py`). Callbacks change a few columns of thousands of VMs a second, so only those are
written.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

import asyncpg
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.vm import Change, Transition, Vm
from service.storage.engine import driver
from service.storage.events import InboxEvent
from service.storage.rows import columns_of, insert_many, row_factory
from service.storage.tables import assignments, transitions, vms

#: A VM as a callback names it: its submission, and the provider's id.
Bound = tuple[UUID, int]

_KEY: Final = ("submission_id", "vm_no")
#: All that `core.evidence.apply_callback` changes of a VM; a test compares the two.
CHANGED: Final = (
    "state", "provider_status", "state_since", "seq", "last_event_at", "next_refresh_at", "refresh_attempts", "fixed_ip",
    "floating_ip", "deletion_announced", "ready", "stuck", "reason", "active_at", "ready_at",
    "delete_due_at",
)  # fmt: skip


def _arrays(table: Table, columns: Iterable[str], numbers: Iterator[int]) -> str:
    """A parameter for each column: an array of the column's type.

    Read by a SELECT of its own, so that no plan depends on its length: for a long one Postgres would read whole tables.
    """
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's own
    types = [table.c[name].type.compile(dialect=dialect) for name in columns]
    return ", ".join(f"(SELECT ${next(numbers)}::{type_}[])" for type_ in types)


_WANTED: Final = _arrays(vms, ("submission_id", "provider_id"), count(1))
_LOCK: Final = f"""
SELECT {", ".join(f"vms.{name}" for name in columns_of(Vm))}
FROM vms JOIN unnest({_WANTED}) AS wanted (submission_id, provider_id)
  ON vms.submission_id = wanted.submission_id AND vms.provider_id = wanted.provider_id
ORDER BY vms.submission_id, vms.vm_no
FOR NO KEY UPDATE OF vms
"""  # noqa: S608  names of our own columns
_LOCK_FREE: Final = f"{_LOCK} SKIP LOCKED"
_EXISTING: Final = f"""
SELECT submission_id, provider_id
FROM vms JOIN unnest({_WANTED}) AS wanted (submission_id, provider_id) USING (submission_id, provider_id)
"""  # noqa: S608  as above
#: How long VMs that another transaction has locked are waited for. Our own transactions are shorter.
_PATIENCE: Final = "SET LOCAL lock_timeout = '300ms'"
_COLUMNS: Final = _KEY + CHANGED
_TRANSITION: Final = columns_of(Transition)
_numbers = count(1)
#: One statement and not three: a run with little to apply takes as long as its round trips.
_SAVE: Final = f"""
WITH saved AS (
    UPDATE vms AS old SET {", ".join(f"{name} = new.{name}" for name in CHANGED)}
    FROM unnest({_arrays(vms, _COLUMNS, _numbers)}) AS new ({", ".join(_COLUMNS)})
    WHERE old.submission_id = new.submission_id AND old.vm_no = new.vm_no
), moved AS (
    INSERT INTO transitions ({", ".join(_TRANSITION)})
    SELECT * FROM unnest({_arrays(transitions, _TRANSITION, _numbers)})
)
DELETE FROM inbox WHERE ctid = ANY (${next(_numbers)}::text[]::tid[])
"""  # noqa: S608  as above
_vm_of = row_factory(Vm)
_changed_of = attrgetter(*_COLUMNS)
_transition_of = attrgetter(*_TRANSITION)


async def lock_bound(conn: AsyncConnection, bound: Iterable[Bound]) -> tuple[dict[Bound, Vm], set[Bound]]:
    """Lock the VMs with these provider ids, in the order of their keys, so that no transactions deadlock.

    Also returns those that another transaction has locked for longer than a moment.
    """
    wanted = set(bound)
    if not wanted:
        return {}, set()
    connection = await driver(conn)
    found = await _lock(connection, _LOCK_FREE, wanted)
    rest = wanted - found.keys()
    locked = {tuple(row) for row in await connection.fetch(_EXISTING, *_arguments(rest))} if rest else set()
    if locked:
        found |= await _lock_patiently(connection, locked)
    return found, locked - found.keys()


async def _lock_patiently(connection: "asyncpg.Connection[Any]", wanted: Iterable[Bound]) -> dict[Bound, Vm]:
    try:
        async with connection.transaction():
            await connection.execute(_PATIENCE)
            found = await _lock(connection, _LOCK, wanted)
            await connection.execute("SET LOCAL lock_timeout TO DEFAULT")
            return found
    except asyncpg.LockNotAvailableError:
        return await _lock(connection, _LOCK_FREE, wanted)


async def _lock(connection: "asyncpg.Connection[Any]", statement: str, wanted: Iterable[Bound]) -> dict[Bound, Vm]:
    found = map(_vm_of, await connection.fetch(statement, *_arguments(wanted)))
    return {(vm.submission_id, vm.provider_id): vm for vm in found if vm.provider_id is not None}


def _arguments(wanted: Iterable[Bound]) -> tuple[list[UUID], list[int]]:
    keys = list(wanted)
    return [one[0] for one in keys], [one[1] for one in keys]


async def save_applied(
    conn: AsyncConnection, latest: Sequence[Vm], changes: Sequence[Change], applied: Sequence[InboxEvent] = ()
) -> None:
    """Write the latest record of each locked VM, every transition and every note.

    Applied events, which this transaction took, leave the inbox. The events themselves stay.
    """
    new = [change.transition for change in changes if change.transition]
    if latest or new or applied:
        changed = _columns(map(_changed_of, latest), len(_COLUMNS))
        moved = _columns(map(_transition_of, new), len(_TRANSITION))
        places = [one.place for one in applied]
        await (await driver(conn)).execute(_SAVE, *changed, *moved, places)
    await insert_many(conn, assignments, [change.note for change in changes if change.note])


def _columns(rows: Iterable[Sequence[Any]], number: int) -> Iterable[Sequence[Any]]:
    return list(zip(*rows, strict=True)) or [()] * number

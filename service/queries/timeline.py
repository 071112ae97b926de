"""The timeline of one VM: everything that is on record about it, in order. Each entry names the row that proves it."""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import (
    ARRAY,
    BigInteger,
    CursorResult,
    Integer,
    Row,
    Uuid,
    and_,
    any_,
    bindparam,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.event import Callback, parse
from service.core.ids import FLEET
from service.core.vm import Vm
from service.provider.answers import history_entry
from service.queries.descriptions import of_action, of_assignment, of_call, of_event, of_history, of_transition
from service.queries.event_keys import event_may_name
from service.queries.typed import typed
from service.storage.arrays import are_any
from service.storage.events import history_of
from service.storage.tables import (
    actions,
    assignments,
    call_ends,
    calls,
    creations,
    events,
    submissions,
    transitions,
)

#: The order of entries with the same time: causes before effects.
_ORDER: Final = (
    "action",
    "record",
    "call",
    "callback",
    "history",
    "transition",
    "unexpected",
    "assignment",
    "outcome",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry:
    """One thing that happened. `evidence` is the kind and the id of the row that proves it."""

    at: datetime
    kind: str
    text: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    serial: int = 0  #: orders entries of the same kind and time

    @property
    def key(self) -> str:
        """Sorts as the timeline does."""
        microseconds = round(self.at.astimezone(UTC).timestamp() * 1_000_000)
        return f"{microseconds:017d}-{_ORDER.index(self.kind)}-{self.serial:09d}-{self.evidence.get('id')}"


async def of_vm(conn: AsyncConnection, vm: Vm) -> list[TimelineEntry]:
    """Everything on record about a VM, oldest first."""
    moves = list(await transitions_of(conn, vm))
    event_rows = (await conn.execute(_EVENTS, _parameters(vm))).all()
    gone = await _gone(conn, vm, moves, {row.event_id for row in event_rows})
    items = [
        *await _of_record(conn, vm),
        *(_of_move(row, gone=row.evidence_id in gone) for row in moves),
        *map(_of_call, await calls_of(conn, vm, [row.evidence_id for row in moves if row.evidence_id])),
        *_of_events(vm, event_rows),
        *map(_of_note, await conn.execute(_ASSIGNMENTS, _parameters(vm))),
        *map(_of_action, await conn.execute(_ACTIONS, _parameters(vm))),
    ]
    return sorted(items, key=lambda item: item.key)


async def _gone(conn: AsyncConnection, vm: Vm, moves: Iterable[Row[Any]], there: AbstractSet[UUID]) -> set[UUID]:
    """The events that moved this VM and that retention has dropped. `there` are known not to be."""
    unseen = {row.evidence_id: row.evidence_at for row in moves if row.evidence == "event"}
    unseen = {event_id: at for event_id, at in unseen.items() if event_id not in there}
    if not unseen:
        return set()
    # An event may have come on the URL of another creation, so `there` need not have all.
    keys = [(vm.submission_id, at, event_id) for event_id, at in unseen.items()]
    key = (events.c.submission_id, events.c.received_at, events.c.event_id)
    found = await conn.execute(select(events.c.event_id).where(are_any(key, keys)))
    return set(unseen) - set(found.scalars())


async def transitions_of(conn: AsyncConnection, vm: Vm) -> CursorResult[Any]:
    """Its transitions, in order."""
    return await conn.execute(_TRANSITIONS, _parameters(vm))


async def calls_of(conn: AsyncConnection, vm: Vm, evidence: Iterable[UUID]) -> CursorResult[Any]:
    """The VM's own calls, its creation's create calls, and calls about the whole fleet that moved it."""
    return await conn.execute(_CALLS, _parameters(vm) | {"evidence": list(evidence)})


def _parameters(vm: Vm) -> dict[str, Any]:
    known = ("submission_id", "vm_no", "creation_no", "provider_id", "created_at", "ended_at")
    names = {"digits": str(vm.provider_id).encode(), "history": history_of(vm.provider_id)}
    return {name: getattr(vm, name) for name in known} | names


# The statements are made once: making one takes longer than Postgres takes to answer it.
_SUBMISSION_ID: Final = bindparam("submission_id", type_=Uuid())
_VM_NO: Final = bindparam("vm_no", type_=Integer())
_CREATION_NO: Final = bindparam("creation_no", type_=Integer())
_PROVIDER_ID: Final = bindparam("provider_id", type_=BigInteger())
_CREATED_AT, _ENDED_AT = (bindparam(name, type_=TIMESTAMP(timezone=True)) for name in ("created_at", "ended_at"))

_TRANSITIONS: Final = (
    select(transitions)
    .where(transitions.c.submission_id == _SUBMISSION_ID, transitions.c.vm_no == _VM_NO)
    .order_by(transitions.c.seq)
)
_ASSIGNMENTS: Final = (
    select(assignments)
    .where(assignments.c.submission_id == _SUBMISSION_ID, assignments.c.vm_no == _VM_NO)
    .order_by(assignments.c.at, assignments.c.attempt)
)
#: Requests to delete the VM, and those to cancel its submission while the VM existed.
_ACTIONS: Final = select(actions).where(
    actions.c.submission_id == _SUBMISSION_ID,
    or_(
        actions.c.vm_no == _VM_NO,
        and_(
            actions.c.kind == "cancel",
            actions.c.at >= _CREATED_AT,
            or_(_ENDED_AT.is_(None), actions.c.at <= _ENDED_AT),
        ),
    ),
)
_CALLS: Final = (
    select(
        calls,
        *(call_ends.c[name] for name in ("outcome", "ms", "status_code", "ended_at", "error")),
        creations.c.vm_count,
        creations.c.answer,
    )
    .outerjoin(
        call_ends, and_(call_ends.c.submission_id == calls.c.submission_id, call_ends.c.call_id == calls.c.call_id)
    )
    .outerjoin(
        creations,
        and_(
            creations.c.submission_id == calls.c.submission_id,
            creations.c.creation_no == calls.c.creation_no,
            calls.c.operation == "create",
        ),
    )
    .where(
        or_(
            and_(
                calls.c.submission_id == _SUBMISSION_ID,
                or_(
                    calls.c.vm_no == _VM_NO,
                    and_(calls.c.creation_no == _CREATION_NO, calls.c.vm_no.is_(None)),
                    and_(calls.c.provider_id == _PROVIDER_ID, calls.c.provider_id.is_not(None)),
                ),
            ),
            and_(calls.c.submission_id == FLEET, calls.c.call_id == any_(bindparam("evidence", type_=ARRAY(Uuid)))),
        )
    )
    .order_by(calls.c.begun_at, calls.c.call_id)
)
_ORIGIN: Final = (
    select(
        *(submissions.c[name] for name in ("requested_by", "count", "name")),
        creations.c.created_at.label("creation_at"),
    )
    .join(creations, creations.c.submission_id == submissions.c.submission_id)
    .where(creations.c.submission_id == _SUBMISSION_ID, creations.c.creation_no == _CREATION_NO)
)
#: No event is older than the VM, so Postgres skips the partitions before it.
_EVENTS: Final = typed(f"""
SELECT e.event_id, e.received_at, e.source, e.peer, e.body, e.digest, d.kind AS dead_letter, d.reason, d.provider_id AS dead_letter_vm
FROM (SELECT CAST(:submission_id AS uuid) AS submission_id, CAST(:creation_no AS integer) AS creation_no,
             CAST(:provider_id AS bigint) AS provider_id, CAST(:digits AS bytea) AS digits, CAST(:history AS text) AS history) AS vm
JOIN events e ON e.submission_id = vm.submission_id AND e.creation_no = vm.creation_no
LEFT JOIN dead_letters d ON d.submission_id = e.submission_id AND d.received_at = e.received_at AND d.event_id = e.event_id
WHERE e.received_at >= :created_at
  AND (vm.provider_id IS NULL OR d.kind = 'unreadable' OR d.provider_id = vm.provider_id OR {event_may_name("e", "vm")})
ORDER BY e.received_at, e.event_id
""")  # noqa: S608  our own names


def _of_events(vm: Vm, rows: Iterable[Row[Any]]) -> Iterator[TimelineEntry]:
    digests: set[bytes] = set()
    for row in rows:
        if row.source == "history":
            yield from _of_history(vm, row)
            continue
        read = parse(row.body)
        names_it = isinstance(read, Callback) and read.provider_id == vm.provider_id
        if not names_it and not (
            row.dead_letter == "unreadable" or (row.dead_letter_vm and row.dead_letter_vm == vm.provider_id)
        ):
            continue
        yield TimelineEntry(
            at=row.received_at,
            kind="callback",
            text=of_event(row, read, repeated=row.digest in digests),
            evidence={"kind": "event", "id": row.event_id},
        )
        digests.add(row.digest)


def _of_history(vm: Vm, row: Row[Any]) -> Iterator[TimelineEntry]:
    """An entry of the provider's events history, at the time that the provider gives."""
    if row.peer != history_of(vm.provider_id):
        return
    entry = history_entry(orjson.loads(row.body))
    yield TimelineEntry(
        at=entry.at or row.received_at,
        kind="history",
        text=of_history(entry, row.received_at),
        evidence={"kind": "event", "id": row.event_id, "at": row.received_at},
    )


def _of_move(row: Row[Any], *, gone: bool) -> TimelineEntry:
    return TimelineEntry(
        at=row.at,
        kind="transition" if row.verdict == "moved" else "unexpected",
        text=of_transition(row, gone=gone),
        evidence={"kind": row.evidence, "id": row.evidence_id, "at": row.evidence_at},
        serial=row.seq,
    )


def _of_call(row: Row[Any]) -> TimelineEntry:
    return TimelineEntry(at=row.begun_at, kind="call", text=of_call(row), evidence={"kind": "call", "id": row.call_id})


def _of_action(row: Row[Any]) -> TimelineEntry:
    return TimelineEntry(
        at=row.at, kind="action", text=of_action(row), evidence={"kind": "action", "id": row.action_id}
    )


def _of_note(row: Row[Any]) -> TimelineEntry:
    return TimelineEntry(
        at=row.at,
        kind="assignment",
        text=of_assignment(row),
        evidence={"kind": "assignment", "id": f"{row.submission_id}.{row.vm_no}/{row.attempt}"},
        serial=row.attempt,
    )


async def _of_record(conn: AsyncConnection, vm: Vm) -> list[TimelineEntry]:
    """What only the VM's own row says: when it was requested, bound, ready and ended, and its desired state."""
    asked = (await conn.execute(_ORIGIN, _parameters(vm))).one()
    entries = [
        (vm.created_at, "record", _origin(vm, asked)),
        (vm.bound_at, "outcome", f"bound to the provider's VM {vm.provider_id}"),
        (vm.ready_at, "outcome", "ready for the first time"),
        (vm.ended_at, "outcome", "ended" + (f", replaced by VM {vm.replaced_by}" if vm.replaced_by else "")),
    ]
    if asked.creation_at > vm.created_at:
        entries.append(
            (
                asked.creation_at,
                "record",
                f"requested again, by creation {vm.creation_no}: the earlier call did not create it",
            )
        )
    if vm.desired_state == "deleted":
        entries.append(
            (vm.deletion_requested_at, "record", f"to be deleted: {vm.deletion_reason or 'no reason given'}")
        )
    evidence = {"kind": "record", "id": f"{vm.submission_id}.{vm.vm_no}"}
    return [
        TimelineEntry(at=at, kind=kind, text=text, evidence=evidence, serial=serial)
        for serial, (at, kind, text) in enumerate(entries)
        if at is not None
    ]


def _origin(vm: Vm, asked: Any) -> str:
    if vm.replaces is not None:
        return f"requested in place of VM {vm.replaces}"
    return f"requested by {asked.requested_by}: VM {vm.vm_no} of {asked.count} of {asked.name}"

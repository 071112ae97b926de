"""Events of VMs, newest first. No column of an event names its VM: of the events of their creations these are the ones that do."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import TextClause
from sqlalchemy.ext.asyncio import AsyncConnection

from service.queries import events
from service.queries.event_keys import Key, event_may_name
from service.queries.events import BESIDE, COLUMNS, EventFilter, EventSummary, summary_of
from service.queries.typed import typed
from service.storage.events import history_of

#: VMs whose ids bodies are searched for.
_FEW: Final = 20
#: Events whose bodies are in memory at once; and those that are read at once to look for many VMs.
_BODIES, _AT_ONCE = 200, 500


class VmIds(NamedTuple):
    """A VM's creation, and its id at the provider; None if that is not known yet."""

    submission_id: UUID
    creation_no: int
    provider_id: int | None


#: What `EventFilter` narrows, and the place in the list, each where it is given.
_CONDITIONS: Final = {
    "creation_no": "e.creation_no = :creation_no",
    "source": "e.source = :source",
    "since": "e.received_at >= :since",
    "until": "e.received_at < :until",
    "text": "position(convert_to(:text, 'UTF8') IN e.body) > 0",
    # The first part selects index range and months; the second breaks ties.
    "at": "e.received_at <= :at AND (e.received_at, e.submission_id, e.event_id) < (:at, :after_submission, :after_id)",
}
#: A VM's values, by its number. Arrays would be unnested: Postgres cannot tell how many rows that makes, and would plan each time.
_VM: Final = """(CAST(:submission_id_{0} AS uuid), CAST(:creation_no_{0} AS integer), CAST(:provider_id_{0} AS bigint),
                 CAST(:digits_{0} AS bytea), CAST(:history_{0} AS text))"""
#: VMS and NARROWED stand for their values and for conditions. An event that may name several VMs is there for each: a page
#: ends behind all of them.
_OF_FEW: Final = f"""
SELECT {COLUMNS.format(event="key")}, key.wanted
FROM (
    SELECT e.*, vm.provider_id AS wanted
    FROM (VALUES VMS) AS vm (submission_id, creation_no, provider_id, digits, history)
    CROSS JOIN LATERAL (
        SELECT e.* FROM events e
        WHERE e.submission_id = vm.submission_id AND e.creation_no = vm.creation_no AND {event_may_name("e", "vm")} NARROWED
        ORDER BY e.received_at DESC, e.event_id DESC LIMIT :limit) AS e
    ORDER BY e.received_at DESC, e.submission_id DESC, e.event_id DESC FETCH FIRST (CAST(:limit AS bigint)) ROWS WITH TIES) AS key
{BESIDE}
"""  # noqa: S608  our own names


async def page(
    conn: AsyncConnection,
    which: EventFilter,
    vms: Collection[VmIds],
    *,
    before: Key | None,
    limit: int,
) -> list[EventSummary]:
    """A page of the events that name one of the VMs; `before` as in `events.page`."""
    wanted = [one for one in vms if one.provider_id is not None and which.submission_id in {None, one.submission_id}]
    if not wanted:
        return []
    few = len(wanted) <= _FEW and which.dead_letter is None  # a dead letter may have no event any more
    at_once = min(limit, _BODIES) if few else _AT_ONCE
    found: list[EventSummary] = []
    while len(found) < limit:
        some = await (_of_few if few else _of_many)(conn, which, wanted, before, at_once)
        found += [one for one, names_it in some if names_it]
        if len(some) < at_once:
            break
        last = some[-1][0]
        before = (last.received_at, last.submission_id, last.event_id)
    return found[:limit]


#: Events, and whether they name one of the VMs.
_Examined = list[tuple[EventSummary, bool]]


async def _of_few(
    conn: AsyncConnection, which: EventFilter, vms: Sequence[VmIds], before: Key | None, limit: int
) -> _Examined:
    """The newest of their creations that may name one of the VMs, examined."""
    given = {name: getattr(which, name) for name in _CONDITIONS if name != "at"}
    if before is not None:
        given |= {"at": before[0], "after_submission": before[1], "after_id": before[2]}
    given = {name: value for name, value in given.items() if value is not None} | {"limit": limit}
    for number, vm in enumerate(vms):
        values = (*vm, str(vm.provider_id).encode(), history_of(vm.provider_id))
        given |= {
            f"{name}_{number}": value for name, value in zip((*VmIds._fields, "digits", "history"), values, strict=True)
        }
    rows = (
        await conn.execute(_of_few_statement(len(vms), tuple(name for name in _CONDITIONS if name in given)), given)
    ).all()
    return [(one := summary_of(row), one.provider_id == row.wanted) for row in rows]


def _of_few_statement(count: int, narrowed: tuple[str, ...]) -> TextClause:
    sql = _OF_FEW.replace("VMS", ", ".join(_VM.format(number) for number in range(count)))
    return typed(sql.replace("NARROWED", "".join(f" AND {_CONDITIONS[name]}" for name in narrowed)))


async def _of_many(
    conn: AsyncConnection, which: EventFilter, vms: Sequence[VmIds], before: Key | None, limit: int
) -> _Examined:
    """The newest of their creations, examined."""
    ids = {one.provider_id for one in vms}
    creations = sorted({(one.submission_id, one.creation_no) for one in vms})
    some = await events.page(conn, replace(which, creations=creations), before=before, limit=limit)
    return [(one, one.provider_id in ids) for one in some]

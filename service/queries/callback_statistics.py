"""Callbacks of a period: how many came, how many again, late or not at all, measured against what the provider itself said.

A refresh that moved a VM saw a state. If no callback had named that state before, it is late or lost. The provider's events histories, which are
read of VMs whose callbacks seem to be missing, tell the same of operations.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.event import Callback, operation_of, parse
from service.core.lifecycle import VmState, state_of
from service.provider.answers import history_entry
from service.queries.statistics import StatisticsPeriod
from service.queries.typed import typed
from service.storage.events import vm_of_history


class CallbackStatistics(Struct, frozen=True):
    """Callbacks of a period. `changes` = `in_time` + `late` + `lost`."""

    received: int
    repeated: int  #: of them, with the body of an earlier one
    changes: int  #: changes of VMs' states at the provider that are on record
    in_time: int  #: of them, a callback said so first
    late: int  #: a refresh said so first, and a callback later
    lost: int  #: a refresh said so, and no callback until now
    history_operations: int  #: in the events histories that were read in the period: the VMs' operations
    history_unreported: int  #: of them, no callback of the VM is about such an operation


_RECEIVED: Final = """
SELECT coalesce(sum(times), 0)::bigint AS received, coalesce(sum(times - 1), 0)::bigint AS repeated
FROM (SELECT count(*) AS times FROM events e
      WHERE e.received_at >= :since AND e.received_at < :until AND e.source = 'callback' {of_e}
      GROUP BY e.submission_id, e.digest) AS bodies
"""

_BY_CALLBACK: Final = """
SELECT count(*) FROM transitions t
WHERE t.at >= :since AND t.at < :until AND t.verdict = 'moved' AND t.evidence = 'event' {of_t}
"""

# A callback belongs to a change if it came after the VM's move before, and before the VM came to that state once more. One that was
# applied and moved nothing, since no callback alone may, is on record as a claim. Imported VMs may send their callbacks to others.
_BY_REFRESH: Final = """
SELECT t.submission_id, t.to_state, t.at, v.creation_no, v.provider_id, coalesce(near.began, v.created_at) AS began, near.again,
       near.claims, near.claimed_at
FROM transitions t
JOIN vms v ON v.submission_id = t.submission_id AND v.vm_no = t.vm_no AND v.provider_id IS NOT NULL
JOIN submissions o ON o.submission_id = t.submission_id AND o.origin = 'created'
LEFT JOIN LATERAL (
    SELECT max(m.evidence_at) FILTER (WHERE m.verdict = 'moved' AND m.seq < t.seq) AS began,
           min(m.evidence_at) FILTER (WHERE m.verdict = 'moved' AND m.seq > t.seq AND m.to_state = t.to_state) AS again,
           array_agg(m.claimed) FILTER (WHERE m.verdict = 'unexpected' AND m.evidence = 'event' AND m.seq < t.seq) AS claims,
           array_agg(m.evidence_at) FILTER (WHERE m.verdict = 'unexpected' AND m.evidence = 'event' AND m.seq < t.seq) AS claimed_at
    FROM transitions m WHERE m.submission_id = t.submission_id AND m.vm_no = t.vm_no) AS near ON true
WHERE t.at >= :since AND t.at < :until AND t.verdict = 'moved' AND t.evidence = 'observation'
  AND t.to_state = ANY(:states) {of_t}
"""

# Each creation is read once, however many of its VMs are asked about. A compressed body cannot be searched for a VM's id, so it is read
# whatever it holds.
_CALLBACKS: Final = """
WITH wanted AS (
    SELECT submission_id, creation_no, array_agg(DISTINCT convert_to(provider_id::text, 'UTF8')) AS ids, min(began) AS began
    FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS integer[]), CAST(:provider_ids AS bigint[]), CAST(:moments AS timestamptz[]))
         AS given (submission_id, creation_no, provider_id, began)
    GROUP BY submission_id, creation_no
)
SELECT w.submission_id, e.received_at, e.body
FROM wanted w JOIN LATERAL (
    SELECT e.received_at, e.body FROM events e
    WHERE e.submission_id = w.submission_id AND e.creation_no = w.creation_no AND e.source = 'callback' AND e.received_at >= w.began
      AND (EXISTS (SELECT FROM unnest(w.ids) AS id WHERE position(id IN e.body) > 0) OR substring(e.body FROM 1 FOR 1) <> '\\x7b')
) AS e ON true
"""

_HISTORIES: Final = """
SELECT h.submission_id, h.peer, h.body AS entry, e.body
FROM events h
LEFT JOIN LATERAL (
    SELECT e.body FROM events e
    WHERE e.submission_id = h.submission_id AND e.creation_no = h.creation_no AND e.source = 'callback'
      AND (position(convert_to(split_part(h.peer, '/', 4), 'UTF8') IN e.body) > 0 OR substring(e.body FROM 1 FOR 1) <> '\\x7b')
) AS e ON true
WHERE h.received_at >= :since AND h.received_at < :until AND h.source = 'history' {of_h}
"""

#: States that the provider gives VMs: it sends a callback for each.
_AT_THE_PROVIDER: Final = sorted(state for state in VmState if state_of(state) is not None)


async def callbacks(conn: AsyncConnection, period: StatisticsPeriod) -> CallbackStatistics:
    """The callbacks of a period, as far as is known now: one that is lost today may turn up tomorrow, and is late then."""
    received = (await conn.execute(typed(_RECEIVED.format(of_e=period.of("e"))), period.params)).one()
    by_callback: int = (await conn.execute(typed(_BY_CALLBACK.format(of_t=period.of("t"))), period.params)).scalar_one()
    confirmed, late, lost = await _by_refresh(conn, period)
    operations, unreported = await _histories(conn, period)
    return CallbackStatistics(
        received=received.received,
        repeated=received.repeated,
        changes=by_callback + confirmed + late + lost,
        in_time=by_callback + confirmed,
        late=late,
        lost=lost,
        history_operations=operations,
        history_unreported=unreported,
    )


@dataclass(slots=True)
class _Change:
    """A change that a refresh recorded: when, which callbacks belong to it, and when the first of these came."""

    at: datetime
    began: datetime
    again: datetime | None
    came: datetime | None = None

    def note(self, received_at: datetime) -> None:
        if received_at >= self.began and (self.again is None or received_at < self.again):
            self.came = received_at if self.came is None else min(self.came, received_at)


async def _by_refresh(conn: AsyncConnection, period: StatisticsPeriod) -> tuple[int, int, int]:
    """Of the changes that a refresh recorded: a callback came before, a callback came later, none came."""
    changes: dict[tuple[UUID, int, str], list[_Change]] = defaultdict(list)
    asked: list[tuple[UUID, int, int, datetime]] = []
    confirmed = 0
    async for row in _rows(
        conn, _BY_REFRESH.format(of_t=period.of("t")), {**period.params, "states": _AT_THE_PROVIDER}
    ):
        claims = zip(row.claims or (), row.claimed_at or (), strict=True)
        if any(state_of(claim) == row.to_state and at >= row.began for claim, at in claims):
            confirmed += 1
            continue
        change = _Change(row.at, row.began, row.again)
        changes[row.submission_id, row.provider_id, row.to_state].append(change)
        asked.append((row.submission_id, row.creation_no, row.provider_id, row.began))
    await _note_callbacks(conn, changes, asked)
    found = [one for some in changes.values() for one in some]
    lost = sum(one.came is None for one in found)
    late = sum(one.came is not None and one.came > one.at for one in found)
    return confirmed + len(found) - late - lost, late, lost


async def _note_callbacks(
    conn: AsyncConnection,
    changes: Mapping[tuple[UUID, int, str], Sequence[_Change]],
    asked: Sequence[tuple[UUID, int, int, datetime]],
) -> None:
    if not asked:
        return
    names = ("ids", "numbers", "provider_ids", "moments")
    async for row in _rows(
        conn, _CALLBACKS, {name: list(one) for name, one in zip(names, zip(*asked, strict=True), strict=True)}
    ):
        callback = parse(row.body)
        if isinstance(callback, Callback) and callback.state is not None:
            for change in changes.get((row.submission_id, callback.provider_id, callback.state), ()):
                change.note(row.received_at)


async def _histories(conn: AsyncConnection, period: StatisticsPeriod) -> tuple[int, int]:
    """The operations in the events histories that were read, and how many of them no callback reports."""
    named: set[tuple[UUID, int, str]] = set()
    reported: set[tuple[UUID, int, str]] = set()
    async for row in _rows(conn, _HISTORIES.format(of_h=period.of("h")), period.params):
        provider_id, about = vm_of_history(row.peer or ""), operation_of(history_entry(orjson.loads(row.entry)).reason)
        if provider_id is None or about is None:
            continue
        key = (row.submission_id, provider_id, about)
        named.add(key)
        callback = None if row.body is None else parse(row.body)
        if isinstance(callback, Callback) and (callback.provider_id, callback.about) == (provider_id, about):
            reported.add(key)
    return len(named), len(named - reported)


async def _rows(conn: AsyncConnection, sql: str, params: dict[str, Any]) -> AsyncIterator[Any]:
    async with conn.stream(typed(sql), params) as rows:  # bodies: a few at a time
        async for some in rows.partitions(500):
            for row in some:
                yield row

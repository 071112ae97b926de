"""Callbacks of a period: how many came, how many again, late or not at all, measured against what the provider itself said.

A refresh that moved a VM saw a state. If no callback had named that state before, it is late or lost. The provider's events histories, which are
read of VMs whose callbacks seem to be missing, tell the same of operations.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.event import Callback, operation_of, parse
from service.core.lifecycle import VmState, state_of
from service.provider.answers import history_entry
from service.queries.event_keys import callback_in_digits, callback_may_name
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
# The changes are read first, by their time: Postgres would rather look at every VM of the fleet.
_BY_REFRESH: Final = """
WITH t AS MATERIALIZED (
    SELECT t.submission_id, t.vm_no, t.seq, t.to_state, t.at FROM transitions t
    WHERE t.at >= :since AND t.at < :until AND t.verdict = 'moved' AND t.evidence = 'observation' AND t.to_state = ANY(:states) {of_t})
SELECT t.submission_id, t.to_state, t.at, v.creation_no, v.provider_id, coalesce(near.began, v.created_at) AS began, near.again,
       near.claims, near.claimed_at
FROM t
JOIN vms v ON v.submission_id = t.submission_id AND v.vm_no = t.vm_no AND v.provider_id IS NOT NULL
JOIN submissions o ON o.submission_id = t.submission_id AND o.origin = 'created'
LEFT JOIN LATERAL (
    SELECT max(m.evidence_at) FILTER (WHERE m.verdict = 'moved' AND m.seq < t.seq) AS began,
           min(m.evidence_at) FILTER (WHERE m.verdict = 'moved' AND m.seq > t.seq AND m.to_state = t.to_state) AS again,
           array_agg(m.claimed) FILTER (WHERE m.verdict = 'unexpected' AND m.evidence = 'event' AND m.seq < t.seq) AS claims,
           array_agg(m.evidence_at) FILTER (WHERE m.verdict = 'unexpected' AND m.evidence = 'event' AND m.seq < t.seq) AS claimed_at
    FROM transitions m WHERE m.submission_id = t.submission_id AND m.vm_no = t.vm_no) AS near ON true
"""

# OFFSET 0 keeps Postgres from joining whole months: each VM's creation is read by its index, within its span.
_CALLBACKS: Final = """
SELECT w.number, e.received_at, e.body
FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS integer[]), CAST(:all_digits AS bytea[]), CAST(:moments AS timestamptz[]),
            CAST(:ends AS timestamptz[])) WITH ORDINALITY AS w (submission_id, creation_no, digits, since, until, number)
JOIN LATERAL (
    SELECT e.received_at, e.body FROM events e
    WHERE e.submission_id = w.submission_id AND e.creation_no = w.creation_no AND e.source = 'callback'
      AND e.received_at >= coalesce(w.since, '-infinity') AND e.received_at < coalesce(w.until, 'infinity') AND {names_it}
    {which}
) AS e ON true
"""
_ALL: Final = _CALLBACKS.format(names_it=callback_may_name("e", "w.digits", "w"), which="OFFSET 0")
#: The last ones of each that have the id in digits: most changes are reported by one of these, and few callbacks are read.
_LAST: Final = _CALLBACKS.format(
    names_it=callback_in_digits("e", "w.digits"), which="ORDER BY e.received_at DESC LIMIT 3"
)

_HISTORIES: Final = """
SELECT h.submission_id, h.creation_no, h.peer, h.body FROM events h
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


class _Wanted(NamedTuple):
    """Callbacks about a VM; None is unbounded."""

    submission_id: UUID
    creation_no: int
    provider_id: int
    since: datetime | None = None
    until: datetime | None = None


async def _by_refresh(conn: AsyncConnection, period: StatisticsPeriod) -> tuple[int, int, int]:
    """Of the changes that a refresh recorded: a callback came before, a callback came later, none came."""
    sql = _BY_REFRESH.format(of_t=period.of("t"))
    in_time, unclaimed = 0, []
    async for row in _rows(conn, sql, {**period.params, "states": _AT_THE_PROVIDER}):
        claims = zip(row.claims or (), row.claimed_at or (), strict=True)
        if any(state_of(claim) == row.to_state and at >= row.began for claim, at in claims):
            in_time += 1
        else:
            unclaimed.append(row)
    soon = await _first_reports(conn, _LAST, unclaimed, [_end_of(row) for row in unclaimed])
    in_time += len(soon)
    others = [row for number, row in enumerate(unclaimed) if number not in soon]
    came = await _first_reports(conn, _ALL, others, [row.again for row in others])
    late = sum(at > others[number].at for number, at in came.items())
    return in_time + len(came) - late, late, len(others) - len(came)


def _end_of(change: Any) -> datetime:
    """Until when a callback is in time. One belongs to a change from `began` until `again`."""
    end: datetime = change.at + timedelta(microseconds=1)
    return end if change.again is None else min(end, change.again)


async def _first_reports(
    conn: AsyncConnection, sql: str, changes: Sequence[Any], ends: Sequence[datetime | None]
) -> dict[int, datetime]:
    """When the first callback came that reports a change, by the place of the change; without those of which none came."""
    wanted = [
        _Wanted(one.submission_id, one.creation_no, one.provider_id, one.began, end)
        for one, end in zip(changes, ends, strict=True)
    ]
    first: dict[int, datetime] = {}
    async for number, received_at, callback in _callbacks(conn, sql, wanted):
        if callback.state == changes[number].to_state:
            first[number] = min(received_at, first.get(number, received_at))
    return first


async def _callbacks(
    conn: AsyncConnection, sql: str, wanted: Sequence[_Wanted]
) -> AsyncIterator[tuple[int, datetime, Callback]]:
    """The callbacks of each of `wanted`: its place, when it came, and what it says."""
    if not wanted:
        return
    submissions, creations, provider_ids, since, until = zip(*wanted, strict=True)
    digits = [str(one).encode() for one in provider_ids]
    spans = {"moments": list(since), "ends": list(until)}
    params = {"ids": list(submissions), "numbers": list(creations), "all_digits": digits, **spans}
    async for row in _rows(conn, sql, params):
        callback = parse(row.body)
        if isinstance(callback, Callback) and callback.provider_id == provider_ids[row.number - 1]:
            yield row.number - 1, row.received_at, callback


async def _histories(conn: AsyncConnection, period: StatisticsPeriod) -> tuple[int, int]:
    """The operations in the events histories that were read, and how many of them no callback reports."""
    named: dict[_Wanted, set[str]] = defaultdict(set)
    async for row in _rows(conn, _HISTORIES.format(of_h=period.of("h")), period.params):
        provider_id, about = vm_of_history(row.peer or ""), operation_of(history_entry(orjson.loads(row.body)).reason)
        if provider_id is not None and about is not None:
            named[_Wanted(row.submission_id, row.creation_no, provider_id)].add(about)
    operations = sum(map(len, named.values()))
    wanted = list(named)
    async for number, _, callback in _callbacks(conn, _ALL, wanted):
        named[wanted[number]].discard(callback.about or "")
    return operations, sum(map(len, named.values()))


async def _rows(conn: AsyncConnection, sql: str, params: dict[str, Any]) -> AsyncIterator[Any]:
    async with conn.stream(typed(sql), params) as rows:  # bodies: a few at a time
        async for some in rows.partitions(500):
            for row in some:
                yield row

"""How well the state of a VM is known: by callbacks, by what the provider said itself, by both, or against each other."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, Literal, Protocol
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.event import Unreadable, parse
from service.core.lifecycle import EvidenceKind, VmState
from service.core.vm import Vm
from service.queries.event_keys import callback_may_name
from service.queries.typed import typed

#: `callback`: only callbacks say so. `confirmed`: callbacks and the provider's own answers do. `observed`: only the
#: provider's answers do. `contradicted`: a later claim says something else and no answer has settled it. `decided`: it
#: follows from what Rollcall did, such as a cancellation.
Corroboration = Literal["callback", "confirmed", "observed", "contradicted", "decided"]
Ref = tuple[UUID, int]
_PROVIDER: Final = {EvidenceKind.OBSERVATION, EvidenceKind.ANSWER}

# `observed_at` is when the latest read began: what it showed would have moved the VM if it had been another state. It has no history, so
# of a past moment only a read before it counts. A callback of the state may also have come before the move, or after it.
_KNOWN: Final = """
SELECT v.submission_id, v.vm_no, v.provider_id, m.to_state, m.evidence,
       v.observed_at >= m.evidence_at AND v.observed_at <= coalesce(:until, 'infinity') AS read_since,
       EXISTS (SELECT FROM transitions u WHERE u.submission_id = v.submission_id AND u.vm_no = v.vm_no AND u.seq > m.seq
               AND u.verdict = 'unexpected' AND u.at <= coalesce(:until, 'infinity')
               AND u.evidence_at <= coalesce(:since, 'infinity')
               AND u.evidence_at > greatest(m.evidence_at, CASE WHEN v.observed_at <= coalesce(:until, 'infinity')
                                                           THEN v.observed_at END)) AS contradicted
FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS integer[])) AS given (submission_id, vm_no)
JOIN vms v ON v.submission_id = given.submission_id AND v.vm_no = given.vm_no
JOIN LATERAL (SELECT t.* FROM transitions t WHERE t.submission_id = v.submission_id AND t.vm_no = v.vm_no
              AND t.verdict = 'moved' AND t.at <= coalesce(:until, 'infinity') AND t.evidence_at <= coalesce(:since, 'infinity')
              ORDER BY CASE WHEN CAST(:since AS timestamptz) IS NOT NULL THEN t.evidence_at END DESC, t.seq DESC LIMIT 1) AS m ON true
"""

_CALLBACKS: Final = """
SELECT v.submission_id, v.vm_no, v.provider_id, e.body
FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS integer[])) AS given (submission_id, vm_no)
JOIN vms v ON v.submission_id = given.submission_id AND v.vm_no = given.vm_no
JOIN LATERAL (
    SELECT e.body FROM events e
    WHERE e.submission_id = v.submission_id AND e.creation_no = v.creation_no AND e.source = 'callback'
      AND e.received_at >= v.created_at AND e.received_at <= coalesce(:until, 'infinity') AND {names_it}
    ORDER BY e.received_at DESC LIMIT 50
) AS e ON true
"""
_NAMES_IT: Final = callback_may_name("e", "convert_to(v.provider_id::text, 'UTF8')", "v")


class HasKey(Protocol):
    """A record with the key of a VM."""

    @property
    def submission_id(self) -> UUID: ...

    @property
    def vm_no(self) -> int: ...


async def of_vm(conn: AsyncConnection, vm: Vm) -> Corroboration:
    """How well the VM's present state is known."""
    return (await of_vms(conn, [vm]))[vm.ref]


async def of_vms(
    conn: AsyncConnection, vms: Iterable[HasKey], *, at: datetime | None = None, known_at: datetime | None = None
) -> dict[Ref, Corroboration]:
    """The same of some VMs; `at` a moment, as it was on record then, or as known at another (see `as_of.py`).

    A read that found nothing new leaves no row, so a past state that a read confirmed may be `callback`.
    """
    refs = [(one.submission_id, one.vm_no) for one in vms]
    happened = {"since": None if known_at is None else at}
    at = known_at or at
    rows = (await conn.execute(typed(_KNOWN), _params(refs, at) | happened)).all()
    unclaimed = {_ref(row): row for row in rows if row.evidence in _PROVIDER and not row.contradicted}
    claimed = await _claimed(conn, unclaimed, at)
    found = {_ref(row): _judged(row, claimed) for row in rows}
    return {ref: found.get(ref, "decided") for ref in refs}


def _judged(row: Row[Any], claimed: set[Ref]) -> Corroboration:
    if row.evidence == EvidenceKind.DECISION:
        return "decided"
    if row.contradicted:
        return "contradicted"
    if row.evidence == EvidenceKind.EVENT:
        return "confirmed" if row.read_since else "callback"
    return "confirmed" if _ref(row) in claimed else "observed"


async def _claimed(conn: AsyncConnection, of: dict[Ref, Row[Any]], at: datetime | None) -> set[Ref]:
    """Those of which a callback named the state, also one that came after the provider's answer."""
    rows = await conn.execute(typed(_CALLBACKS.format(names_it=_NAMES_IT)), _params(list(of), at)) if of else ()
    return {_ref(row) for row in rows if _claim(row.body, row.provider_id) == of[_ref(row)].to_state}


def _claim(body: bytes, provider_id: int | None) -> VmState | None:
    found = parse(body)
    return None if isinstance(found, Unreadable) or found.provider_id != provider_id else found.state


def _params(refs: Sequence[Ref], at: datetime | None) -> dict[str, Any]:
    return {"ids": [ref[0] for ref in refs], "numbers": [ref[1] for ref in refs], "until": at}


def _ref(row: Row[Any]) -> Ref:
    return row.submission_id, row.vm_no

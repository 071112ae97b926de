"""How well the state of a VM is known: by callbacks, by what the provider said itself, by both, or against each other."""

from typing import Final, Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.lifecycle import EvidenceKind, state_of
from service.core.vm import Vm
from service.queries.events import EventFilter, page_about
from service.storage.tables import transitions

#: `callback`: only callbacks say so. `confirmed`: callbacks and the provider's own answers do. `observed`: only the
#: provider's answers do. `contradicted`: a later claim says something else and no answer has settled it. `decided`: it
#: follows from what Rollcall did, such as a cancellation.
Corroboration = Literal["callback", "confirmed", "observed", "contradicted", "decided"]
_PROVIDER: Final = {EvidenceKind.OBSERVATION, EvidenceKind.ANSWER}
#: Events of the VM's creation that are looked through.
_MOST: Final = 500


async def of_vm(conn: AsyncConnection, vm: Vm) -> Corroboration:
    """How well the VM's present state is known."""
    mine = (transitions.c.submission_id == vm.submission_id, transitions.c.vm_no == vm.vm_no)
    rows = (await conn.execute(select(transitions).where(*mine).order_by(transitions.c.seq.desc()).limit(50))).all()
    moved = next((row for row in rows if row.verdict == "moved"), None)
    if moved is None or moved.evidence == EvidenceKind.DECISION:
        return "decided"
    # `observed_at` is when the latest read began: what it showed would have moved the VM if it had been another state.
    observed = moved.evidence in _PROVIDER or (vm.observed_at is not None and vm.observed_at >= moved.evidence_at)
    settled = max(moved.evidence_at, vm.observed_at or moved.evidence_at)
    if any(row.verdict == "unexpected" and row.seq > moved.seq and row.evidence_at > settled for row in rows):
        return "contradicted"
    if not observed:
        return "callback"
    claimed = moved.evidence == EvidenceKind.EVENT or await _claimed(conn, vm)
    return "confirmed" if claimed else "observed"


async def _claimed(conn: AsyncConnection, vm: Vm) -> bool:
    """Whether a callback named the present state, also one that came after the provider's answer."""
    about = (vm.submission_id, vm.creation_no, vm.provider_id)
    which = EventFilter(source="callback", since=vm.created_at)
    found = await page_about(conn, which, [about], before=None, limit=_MOST)
    return any(one.status is not None and state_of(one.status) == vm.state for one in found)

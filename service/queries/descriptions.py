"""Rows of the record as sentences for people."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from service.core.event import Callback, Unreadable
from service.core.lifecycle import CORROBORATED, state_of
from service.core.observation import HistoryEntry
from service.core.token import redact


def of_event(row: Row[Any], read: Callback | Unreadable, *, repeated: bool) -> str:
    """What a callback says."""
    dead_letter = f"; dead letter ({row.dead_letter}): {row.reason}" if row.dead_letter else ""
    again = " (repeated)" if repeated else ""
    if isinstance(read, Unreadable):
        return f"callback could not be read: {read.reason}{again}"
    name = f" {read.operation}" if read.operation else ""
    if not read.concerns_state:
        return f"callback{name}, about a {read.about}{again}{dead_letter}"
    said = f"says {read.status}" if read.status else "names no status"
    return f"callback{name} {said}{again}{dead_letter}"


def of_history(entry: HistoryEntry, read_at: datetime) -> str:
    """An entry of the provider's events history of a VM."""
    said = ": ".join(part for part in (entry.reason, entry.message) if part) or "an entry without a text"
    return f"the provider's events history says {said} (read at {read_at:%H:%M:%S})"


def of_transition(row: Row[Any], *, gone: bool = False) -> str:
    """A change of state, or a claim that changed nothing. `gone`: its event was dropped by retention."""
    because = {
        "event": "a callback that was dropped with its month" if gone else "a callback",
        "observation": "a refresh",
        "answer": "the provider's answer",
        "decision": "Rollcall's decision",
    }.get(row.evidence, row.evidence)
    if row.verdict == "moved":
        return f"moved {row.from_state} -> {row.to_state} on {because}"
    why = "which only a refresh can confirm" if state_of(row.claimed) in CORROBORATED else "which is unexpected"
    return f"stays {row.from_state}: {because} says {row.claimed or 'nothing readable'}, {why}"


def of_action(row: Row[Any]) -> str:
    """What a caller requested."""
    if row.kind == "attach":
        return f"its callback URL was replaced at the request of {row.caller}; it was {row.detail}"
    what = {"delete": "deletion", "cancel": "cancellation of its submission"}.get(row.kind, row.kind)
    return f"{what} requested by {row.caller}"


def of_call(row: Row[Any]) -> str:
    """A call to the provider, and its outcome."""
    attempt = f" (attempt {row.attempt})" if (row.attempt or 0) > 1 else ""
    named = f"{row.operation} call{attempt}"
    if row.outcome is None:
        return f"{named}: no answer on record"
    if row.outcome != "ok":
        why = f": {redact(row.error)}" if row.error else ""
        return f"{named} failed after {row.ms} ms as {row.outcome}{why}"
    return f"{named} answered in {row.ms} ms{_made(row)}"


def _made(row: Row[Any]) -> str:
    made = row.answer.get("instances") if isinstance(row.answer, Mapping) else None
    return f": {len(made)} of {row.vm_count} VMs" if isinstance(made, list) else ""


def of_assignment(row: Row[Any]) -> str:
    """A step towards the contract, or the lack of one."""
    contract = f"contract {row.contract_id}" if row.contract_id is not None else "the contract"
    text = {
        "assigned": f"is on {contract}",
        "on_demand": f"is not on {contract}, and runs on demand",
        "waiting": f"waits for {contract}",
        "sent": f"{row.step} for {contract}",
        "refused": f"{row.step} for {contract} was refused",
        "given_up": f"is not on {contract}, and Rollcall gave up",
    }.get(row.outcome, f"{row.step} for {contract}: {row.outcome}")
    again = f"; next try at {row.next_at:%H:%M:%S}" if row.next_at else ""
    return f"{text}: {row.reason}{again}"

"""A VM's way from the request until it is ready, as the record has it, and the spans of its trace.

The trace is made from the record in one piece when the VM is ready, or has ended without. So it is whole whatever daemons did
the work, and those that died on the way.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from msgspec import Struct

from service.core.lifecycle import EvidenceKind, VerdictKind
from service.core.trace_context import SpanRef, of_submission, of_vm, parse, span_id
from service.core.vm import Transition, Vm


class SpanKind(StrEnum):
    """The kinds of OpenTelemetry that are used."""

    SERVER = "SERVER"
    CLIENT = "CLIENT"
    CONSUMER = "CONSUMER"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSpan:
    """A span that has ended. `error` is None if nothing failed."""

    name: str
    kind: SpanKind
    ref: SpanRef
    parent: SpanRef | None
    start: datetime
    end: datetime
    attributes: Mapping[str, str | int | bool]
    links: Sequence[SpanRef] = ()
    error: str | None = None


class JourneyCall(Struct, frozen=True):
    """A call about a VM, or about its creation, and its end; `outcome` is None if it is not on record."""

    call_id: UUID
    operation: str
    begun_at: datetime
    attempt: int | None
    ended_at: datetime | None
    outcome: str | None
    status_code: int | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """What is on record about a VM until it was ready, or ended without."""

    vm: Vm
    submission_name: str
    requested_by: str
    traceparent: str | None
    calls: Sequence[JourneyCall] = ()
    transitions: Sequence[Transition] = field(default_factory=list)

    @property
    def end(self) -> datetime | None:
        """When it was ready for the first time, or ended without; None before."""
        return self.vm.ready_at or self.vm.ended_at


def spans(journey: Journey) -> list[TraceSpan]:
    """The trace of a VM, its first span first; empty while it is on its way."""
    if journey.end is None:
        return []
    root = of_vm(*journey.vm.ref)
    return [
        _root(journey, root, journey.end),
        *_calls(journey, root, journey.end),
        *_callbacks(journey, root, journey.end),
        *_states(journey, root, journey.end),
    ]


def request_span(
    submission_id: UUID, traceparent: str | None, *, start: datetime, end: datetime, attributes: Mapping[str, str | int]
) -> TraceSpan:
    """The span of the request that made a submission; the traces of its VMs link to it."""
    return TraceSpan(
        name="POST /v1/submissions",
        kind=SpanKind.SERVER,
        ref=of_submission(submission_id, traceparent),
        parent=parse(traceparent) if traceparent else None,
        start=start,
        end=end,
        attributes={"rollcall.submission_id": str(submission_id), **attributes},
    )


def _root(journey: Journey, root: SpanRef, end: datetime) -> TraceSpan:
    vm = journey.vm
    given: dict[str, str | int | None] = {
        "rollcall.submission_id": str(vm.submission_id),
        "rollcall.submission_name": journey.submission_name,
        "rollcall.requested_by": journey.requested_by,
        "rollcall.vm_no": vm.vm_no,
        "rollcall.provider_id": vm.provider_id,
        "rollcall.vm_name": vm.name,
        "rollcall.flavor": vm.flavor,
        "rollcall.environment": vm.environment,
        "rollcall.region": vm.region,
        "rollcall.assignment": vm.assignment,
        "rollcall.replaces": vm.replaces,
    }
    return TraceSpan(
        name="VM until ready",
        kind=SpanKind.INTERNAL,
        ref=root,
        parent=None,
        start=vm.created_at,
        end=end,
        attributes=_known(given),
        links=[of_submission(vm.submission_id, journey.traceparent)],
        error=None if vm.ready_at else f"{vm.state}: {vm.reason or 'ended before it was ready'}",
    )


def _calls(journey: Journey, root: SpanRef, end: datetime) -> Iterator[TraceSpan]:
    for call in journey.calls:
        if call.begun_at > end:
            continue
        given = {
            "rollcall.call_id": str(call.call_id),
            "rollcall.attempt": call.attempt,
            "rollcall.outcome": call.outcome,
            "http.response.status_code": call.status_code,
        }
        is_ok = call.outcome == "ok"
        yield TraceSpan(
            name=f"Infrahub {call.operation}",
            kind=SpanKind.CLIENT,
            ref=_child(root, "call", call.call_id),
            parent=root,
            start=call.begun_at,
            end=call.ended_at or end,
            attributes=_known(given),
            error=None if is_ok else call.error or call.outcome or "the end of the call is not on record",
        )


def _callbacks(journey: Journey, root: SpanRef, end: datetime) -> Iterator[TraceSpan]:
    """From the receipt of each callback that did something until it was applied."""
    for one in journey.transitions:
        if one.evidence is EvidenceKind.EVENT and one.at <= end:
            given = {
                "rollcall.event_id": str(one.evidence_id),
                "rollcall.claimed": one.claimed,
                "rollcall.verdict": one.verdict,
            }
            yield TraceSpan(
                name="callback",
                kind=SpanKind.CONSUMER,
                ref=_child(root, "event", one.evidence_id),
                parent=root,
                start=one.evidence_at,
                end=one.at,
                attributes=_known(given),
            )


def _states(journey: Journey, root: SpanRef, end: datetime) -> Iterator[TraceSpan]:
    """How long the VM was in each state, with a link to what moved it there."""
    moves = [one for one in journey.transitions if one.verdict is VerdictKind.MOVED and one.at <= end]
    states = [(str(moves[0].from_state) if moves else str(journey.vm.state), journey.vm.created_at, None)]
    found = [*states, *((str(one.to_state), one.at, one) for one in moves)]
    for number, (state, since, move) in enumerate(found):
        until = found[number + 1][1] if number + 1 < len(found) else end
        yield TraceSpan(
            name=state,
            kind=SpanKind.INTERNAL,
            ref=_child(root, "state", move.seq if move else 0),
            parent=root,
            start=since,
            end=until,
            attributes={"rollcall.evidence": str(move.evidence)} if move else {},
            links=[_evidence(root, move)] if move and move.evidence_id else [],
        )


def _evidence(root: SpanRef, move: Transition) -> SpanRef:
    return _child(root, "event" if move.evidence is EvidenceKind.EVENT else "call", move.evidence_id)


def _child(root: SpanRef, *parts: object) -> SpanRef:
    return SpanRef(root.trace_id, span_id(root.trace_id, *parts))


def _known(given: Mapping[str, str | int | None]) -> dict[str, str | int]:
    return {name: value for name, value in given.items() if value is not None}

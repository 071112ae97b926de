"""Ids of traces, and the W3C header `traceparent`. Ids are derived from the record, so that every daemon finds the same ones."""

import hashlib
import re
from dataclasses import dataclass
from typing import Final
from uuid import UUID

#: https://www.w3.org/TR/trace-context/#traceparent-header. Later versions may add fields behind these.
_HEADER: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class SpanRef:
    """A span, by its trace and its own id."""

    trace_id: int
    span_id: int
    is_sampled: bool = True


def parse(traceparent: str) -> SpanRef | None:
    """The span that a header names; None if it is no valid one."""
    found = _HEADER.fullmatch(traceparent.strip())
    if found is None or (found.string.startswith("00") and found[4]):
        return None
    ref = SpanRef(int(found[1], 16), int(found[2], 16), is_sampled=bool(int(found[3], 16) & 1))
    return ref if ref.trace_id and ref.span_id else None


def of_submission(submission_id: UUID, traceparent: str | None) -> SpanRef:
    """The span of a submission's request: in the trace of its caller, or in one of its own."""
    caller = parse(traceparent) if traceparent else None
    trace_id = caller.trace_id if caller else submission_id.int
    return SpanRef(trace_id, span_id("submit", submission_id), is_sampled=caller is None or caller.is_sampled)


def of_vm(submission_id: UUID, vm_no: int) -> SpanRef:
    """The first span of a VM's trace."""
    return SpanRef(_digest("vm", submission_id, vm_no, size=16), span_id("vm", submission_id, vm_no))


def span_id(*parts: object) -> int:
    return _digest(*parts, size=8)


def _digest(*parts: object, size: int) -> int:
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size]) or 1

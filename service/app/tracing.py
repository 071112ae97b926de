"""Exports traces by OTLP/HTTP, if the standard variables of OpenTelemetry name a collector. Uses its SDK, which is an extra.

A collector that is away or slow costs traces and nothing else: a thread of its own sends, and queues are bounded.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from service import __version__
from service.config import tracing
from service.core.journey import SpanKind, TraceSpan, spans
from service.core.trace_context import SpanRef
from service.errors import FieldError, StorageError
from service.queries import journeys
from service.runtime.runtime import Runtime
from service.runtime.trace_queue import TraceQueue
from service.storage.engine import begin

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import SpanContext

_ISSUE: Final = "traces"
_EVERY: Final = 1.0
#: VMs whose records one look reads.
_VMS: Final = 50
#: Batches that wait for the thread, and spans in a batch.
_BATCHES: Final = 20
_BATCH: Final = 500
#: How long the last spans may take at stop.
_STOP_SECONDS: Final = 2.0


def errors() -> list[FieldError]:
    """What keeps traces from being exported although a collector is named."""
    wanted = tracing()
    if not wanted.is_on:
        return []
    if wanted.protocol != "http/protobuf":
        return [FieldError("OTEL_EXPORTER_OTLP_PROTOCOL", "must be http/protobuf: no other is supported")]
    if find_spec("opentelemetry.exporter") is None:
        return [FieldError("OTEL_EXPORTER_OTLP_ENDPOINT", "needs the extra: pip install 'rollcall-fleet[otel]'")]
    return []


@asynccontextmanager
async def exported(rt: Runtime) -> AsyncIterator[None]:
    """Export traces for as long as the block lasts, if they are on."""
    if not tracing().is_on:
        yield
        return
    # The SDK's loggers repeat what the health issue says, with tracebacks.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    exporter = await asyncio.to_thread(_exporter)
    async with tracing_to(rt, exporter):
        yield


@asynccontextmanager
async def tracing_to(rt: Runtime, exporter: "SpanExporter") -> AsyncIterator[None]:
    """Export traces to an exporter for as long as the block lasts."""
    rt.traces, sender = TraceQueue(), SpanSender(rt, exporter)
    task = asyncio.create_task(_watch(rt, sender), name="traces")
    task.add_done_callback(lambda done: _ended(rt, done))
    try:
        yield
        await export_once(rt, sender)
    finally:
        rt.traces = None
        task.cancel()
        await asyncio.wait([task])
        await asyncio.to_thread(sender.close, _STOP_SECONDS)


async def _watch(rt: Runtime, sender: "SpanSender") -> None:
    while True:
        done = await export_once(rt, sender)
        await asyncio.sleep(0 if done == _VMS else _EVERY)


def _ended(rt: Runtime, task: asyncio.Task[None]) -> None:
    # No reason to stop the daemon, as the end of another background task is.
    if not task.cancelled():
        rt.traces = None
        rt.health.report(_ISSUE, f"no more traces until the next start: {task.exception()}", advisory=True)


async def export_once(rt: Runtime, sender: "SpanSender") -> int:
    """Hand over what is noted. Returns how many VMs it was."""
    noted = rt.traces
    if noted is None:
        return 0
    refs, found = noted.take(rt.clock.now(), _VMS), list(noted.spans)
    noted.spans.clear()
    try:
        if refs:
            async with begin(rt.engine) as conn:
                found += [span for one in await journeys.read(conn, refs) for span in spans(one)]
    except StorageError:
        noted.dropped += len(refs)
    sender.offer(found)
    sender.report(noted)
    return len(refs)


class SpanSender:
    """Sends spans from a thread of its own. Nothing waits for it."""

    def __init__(self, rt: Runtime, exporter: "SpanExporter") -> None:
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  an extra, and slow to import

        # Resource and sampler are those of the standard variables.
        self._provider = TracerProvider()
        self._rt, self._exporter = rt, exporter
        self._batches: queue.Queue[Sequence[ReadableSpan] | None] = queue.Queue(_BATCHES)
        self._is_failing = self._is_done = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def offer(self, found: Sequence[TraceSpan]) -> None:
        """Send spans some time; those that find no room are dropped."""
        made = [_readable(span, self._provider) for span in found if self._is_sampled(span)]
        for start in range(0, len(made), _BATCH):
            batch = made[start : start + _BATCH]
            try:
                self._batches.put_nowait(batch)
            except queue.Full:
                self._count("dropped", len(batch))

    def report(self, noted: TraceQueue) -> None:
        """Report or resolve the health issue, and count what was dropped before it came here."""
        self._count("dropped", noted.dropped)
        noted.dropped = 0
        if self._is_failing or not (self._thread.is_alive() or self._is_done):
            self._rt.health.report(_ISSUE, "the collector takes no spans; traces are lost", advisory=True)
        else:
            self._rt.health.resolve(_ISSUE)

    def close(self, seconds: float) -> None:
        """Let the thread send what it has for `seconds`, and leave the rest."""
        try:
            self._batches.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            is_ok = self._exporter.export(batch).name == "SUCCESS"
            self._is_failing = not is_ok
            self._count("exported" if is_ok else "failed", len(batch))
        self._exporter.shutdown()
        self._is_done = True

    def _is_sampled(self, span: TraceSpan) -> bool:
        if not span.ref.is_sampled:
            return False
        if span.parent is not None and span.kind is SpanKind.SERVER:
            return span.parent.is_sampled  # the caller has decided
        decided: Any = self._provider.sampler.should_sample(None, span.ref.trace_id, span.name).decision
        return bool(decided.is_sampled())

    def _count(self, outcome: str, number: int) -> None:
        if number:
            self._rt.metrics.trace_spans.labels(outcome).inc(number)


def _exporter() -> "SpanExporter":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415  as above
        OTLPSpanExporter,
    )

    return OTLPSpanExporter()


def _readable(span: TraceSpan, provider: Any) -> "ReadableSpan":
    from opentelemetry import trace  # noqa: PLC0415  as above
    from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415  as above
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415  as above

    status = trace.Status(trace.StatusCode.ERROR, span.error) if span.error else trace.Status(trace.StatusCode.UNSET)
    return ReadableSpan(
        name=span.name,
        context=_context(span.ref),
        parent=_context(span.parent) if span.parent else None,
        resource=provider.resource,
        attributes=dict(span.attributes),
        links=[trace.Link(_context(one)) for one in span.links],
        kind=trace.SpanKind[span.kind],
        status=status,
        start_time=_nanoseconds(span.start),
        end_time=_nanoseconds(max(span.start, span.end)),
        instrumentation_scope=InstrumentationScope("rollcall", __version__),
    )


def _context(ref: SpanRef) -> "SpanContext":
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415  as above

    return SpanContext(ref.trace_id, ref.span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _nanoseconds(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000) * 1000

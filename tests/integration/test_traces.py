"""Traces: what a collector that speaks OTLP over HTTP gets, whoever did the work, and that one that is away harms nobody."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from operator_api import body, serving
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage, refusal

from service.app import tracing
from service.app.tracing import SpanSender, export_once
from service.core.trace_context import of_submission, of_vm
from service.runtime import trace_queue
from service.runtime.runtime import Runtime
from service.runtime.trace_queue import TraceQueue

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Collector:
    """A real receiver of OTLP/HTTP. `status` is what it answers."""

    status: int = 200
    url: str = ""
    spans: list[Any] = field(default_factory=list)
    services: set[str] = field(default_factory=set)

    async def take(self, request: web.Request) -> web.Response:
        if self.status == 200:
            for resource in ExportTraceServiceRequest.FromString(await request.read()).resource_spans:
                self.services |= {
                    one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
                }
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return web.Response(status=self.status)

    def of(self, trace_id: int) -> list[Any]:
        return [span for span in self.spans if int.from_bytes(span.trace_id) == trace_id]


@asynccontextmanager
async def collecting(collector: Collector) -> AsyncIterator[Collector]:
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    async with TestServer(app) as server:
        collector.url = str(server.make_url("/v1/traces"))
        yield collector


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting(Collector()) as made:
        yield made


@contextmanager
def traced(rt: Runtime, url: str, **options: Any) -> Iterator[SpanSender]:
    rt.traces = TraceQueue()
    yield SpanSender(rt, OTLPSpanExporter(endpoint=url, **options))


async def sent(rt: Runtime, sender: SpanSender) -> None:
    await export_once(rt, sender)
    await asyncio.to_thread(sender.close, 20)
    sender.report(rt.traces)


def counted(rt: Runtime, outcome: str) -> float:
    return rt.metrics.registry.get_sample_value("rollcall_trace_spans_total", {"outcome": outcome}) or 0


def attributes(span: Any) -> dict[str, str]:
    return {one.key: one.value.string_value for one in span.attributes}


async def test_a_vm_has_one_trace_with_its_calls_callbacks_and_states(
    engine: AsyncEngine, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "rollcall-of-tests")
    stage = Stage(engine)
    with traced(stage.rt, collector.url) as sender:
        submission_id = await stage.submit(count=2)
        await stage.live(60)
        assert [vm.ready for vm in await stage.vms()] == [True, True]
        await sent(stage.rt, sender)
    assert collector.services == {"rollcall-of-tests"}
    for vm in await stage.vms():
        root = of_vm(*vm.ref)
        spans = collector.of(root.trace_id)
        first = next(one for one in spans if not one.parent_span_id)
        assert (first.name, int.from_bytes(first.span_id)) == ("VM until ready", root.span_id)
        assert attributes(first)["rollcall.submission_id"] == str(submission_id)
        assert [int.from_bytes(one.trace_id) for one in first.links] == [submission_id.int]
        others = [one for one in spans if one is not first]
        assert all(one.parent_span_id == first.span_id for one in others)
        assert all(first.start_time_unix_nano <= one.start_time_unix_nano <= one.end_time_unix_nano for one in others)
        assert {one.name for one in others} >= {
            "Infrahub create",
            "callback",
            "REQUESTED",
            "CREATING",
            "BUILD",
            "ACTIVE",
        }
        ids = {one.span_id for one in spans}
        assert len(ids) == len(spans)
        linked = [one for state in others if state.name in {"CREATING", "BUILD", "ACTIVE"} for one in state.links]
        assert len(linked) == 3
        assert {one.span_id for one in linked} <= ids
    assert counted(stage.rt, "exported") == len(collector.spans)
    assert stage.rt.health.issues == {}


async def test_the_trace_is_the_same_whichever_daemon_sends_it_and_sent_once_by_each(
    engine: AsyncEngine, collector: Collector
) -> None:
    stage = Stage(engine)
    with traced(stage.rt, collector.url) as sender:
        await stage.submit()
        await stage.live(60)
        ready = await stage.vms()
        await sent(stage.rt, sender)
    first = sorted(span.SerializeToString() for span in collector.spans)
    stage.rt.traces.note(ready, stage.rt.clock.now())
    assert stage.rt.traces.take(stage.rt.clock.now() + timedelta(seconds=5), 10) == []
    collector.spans.clear()
    other = stage.daemon()
    with traced(other, collector.url) as sender:
        other.traces.note(ready, ready[0].ready_at)
        await sent(other, sender)
    assert sorted(span.SerializeToString() for span in collector.spans) == first


async def test_a_vm_that_is_refused_has_a_trace_that_failed_and_says_why(
    engine: AsyncEngine, collector: Collector
) -> None:
    stage = Stage(engine)
    with traced(stage.rt, collector.url) as sender:
        await stage.submit()
        stage.between.prepared["POST"] = [refusal(400, "no such flavor here")]
        await stage.live(20)
        assert await stage.states() == ["REFUSED"]
        await sent(stage.rt, sender)
    first, call = (
        next(one for one in collector.spans if one.name == name) for name in ("VM until ready", "Infrahub create")
    )
    assert first.status.code == call.status.code == 2
    assert "REFUSED" in first.status.message
    assert "no such flavor here" in call.status.message


async def test_the_request_is_in_the_callers_trace_and_the_vms_link_to_it(
    runtime: Runtime, collector: Collector
) -> None:
    async with serving(runtime) as api:
        with traced(runtime, collector.url) as sender:
            made = [
                (await api.request("POST", "/v1/submissions", body(), **given)).json
                for given in (
                    {"traceparent": CALLER},
                    {"traceparent": "rubbish"},
                    {"traceparent": CALLER[:-1] + "0"},
                    {},
                )
            ]
            await sent(runtime, sender)
    of_caller, alone, also_alone = collector.spans  # the third caller samples nothing
    assert of_caller.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert of_caller.parent_span_id.hex() == "b7ad6b7169203331"
    assert attributes(of_caller)["rollcall.submission_id"] == made[0]["submission_id"]
    assert not alone.parent_span_id
    assert not also_alone.parent_span_id
    for span, one, caller in ((of_caller, made[0], CALLER), (alone, made[1], None), (also_alone, made[3], None)):
        ref = of_submission(UUID(one["submission_id"]), caller)
        assert (int.from_bytes(span.trace_id), int.from_bytes(span.span_id)) == (ref.trace_id, ref.span_id)


@pytest.mark.parametrize("how", ["refuses", "is away"])
async def test_a_collector_that_takes_nothing_costs_traces_and_says_so_until_it_is_back(
    engine: AsyncEngine, collector: Collector, how: str
) -> None:
    stage = Stage(engine)
    collector.status = 400
    url = collector.url if how == "refuses" else "http://127.0.0.1:9/v1/traces"
    with traced(stage.rt, url, timeout=0.2) as sender:
        await stage.submit()
        await stage.live(60)
        assert (await stage.vm()).ready
        await sent(stage.rt, sender)
    assert counted(stage.rt, "failed") > 0
    assert (counted(stage.rt, "exported"), collector.spans) == (0, [])
    assert list(stage.rt.health.issues) == ["traces"]
    assert stage.rt.health.ready
    collector.status = 200
    with traced(stage.rt, collector.url) as sender:
        stage.rt.traces.note(await stage.vms(), (await stage.vm()).ready_at)
        await sent(stage.rt, sender)
    assert counted(stage.rt, "exported") == len(collector.spans) > 0
    assert stage.rt.health.issues == {}


async def test_what_waits_for_a_collector_is_bounded_and_what_is_dropped_is_counted(
    engine: AsyncEngine, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_queue, "MOST_VMS", 3)
    stage = Stage(engine)
    with traced(stage.rt, collector.url) as sender:
        await stage.submit(count=5)
        await stage.live(60)
        await sent(stage.rt, sender)
    assert sum(one.name == "VM until ready" for one in collector.spans) == 3
    assert counted(stage.rt, "dropped") == 2


async def test_without_a_collector_nothing_is_noted(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    stage = Stage(engine)
    async with tracing.exported(stage.rt):
        assert stage.rt.traces is None


async def test_the_standard_variables_turn_it_on_and_the_last_spans_are_sent_at_stop(
    engine: AsyncEngine, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.removesuffix("/v1/traces"))
    stage = Stage(engine)
    async with tracing.exported(stage.rt):
        await stage.submit()
        await stage.live(60)
    assert "VM until ready" in {one.name for one in collector.spans}
    assert stage.rt.traces is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert [one.field for one in tracing.errors()] == ["OTEL_EXPORTER_OTLP_PROTOCOL"]
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert tracing.errors() == []
    async with tracing.exported(stage.rt):
        assert stage.rt.traces is None


async def test_a_sampler_decides_by_the_trace_so_that_every_daemon_decides_alike(
    engine: AsyncEngine, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    stage = Stage(engine)
    with traced(stage.rt, collector.url) as sender:
        await stage.submit(count=20)
        await stage.live(60)
        await sent(stage.rt, sender)
    whole = [span for span in collector.spans if span.name == "VM until ready"]
    assert 0 < len(whole) < 20
    assert {span.trace_id for span in collector.spans} == {span.trace_id for span in whole}

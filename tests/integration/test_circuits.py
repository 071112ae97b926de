"""A provider that is away costs a handful of calls, is a health issue, and is called again when it answers."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage, refusal

from service.errors import TryLater, Unconfirmed
from service.provider.wire import HttpResponse
from service.storage import circuits
from service.storage.engine import begin
from service.worker import create, health, refresh

HTML = HttpResponse(status=404, headers={}, body=b"<html>Not Found</html>")


class Away:
    """A transport to a provider that is away, or back."""

    def __init__(self, inner, failure=None) -> None:
        self.inner, self.failure, self.calls = inner, failure, []

    async def send(self, method, url, headers, body, within):
        self.calls.append(method)
        if self.failure is None:
            return await self.inner.send(method, url, headers, body, within)
        if isinstance(self.failure, Exception):
            raise self.failure
        return self.failure


FAILURES = [
    TryLater("not sent: Cannot connect to host: certificate verify failed"),
    TryLater("not sent: Name or service not known"),
    TryLater("not sent: Connection refused"),
    Unconfirmed("sent, perhaps, and no whole answer came: TimeoutError"),
    refusal(500, "Internal Server Error", "server_error"),
    HttpResponse(status=503, headers={}, body=b"<html>"),
]


async def idle(engine: AsyncEngine, failure) -> tuple[Stage, Away]:
    stage = Stage(engine, resync_seconds=20)
    await stage.submit(count=11)
    await stage.live(40)
    stage.between.inner = away = Away(stage.between.inner, failure)
    return stage, away


@pytest.mark.parametrize("failure", FAILURES, ids=str)
async def test_an_outage_of_a_minute_with_idle_vms_costs_a_handful_of_calls_and_is_named(engine: AsyncEngine, failure):
    # kubernetes #14197: 98 list calls, each of them recorded for ever.
    stage, away = await idle(engine, failure)
    for _ in range(120):
        await refresh.run_once(stage.rt)
        await stage.wait(0.5)
    assert 0 < len(away.calls) <= 20
    assert "provider" in stage.rt.health.issues
    away.failure = None
    await stage.live(150, step=5)
    assert stage.rt.health.issues == {}
    async with begin(engine) as conn:
        assert await circuits.read(conn, "default") == {}


async def test_all_daemons_wait_for_the_provider_together(engine: AsyncEngine):
    stage, away = await idle(engine, FAILURES[2])
    other = stage.daemon()
    other.transport.inner = away
    for _ in range(120):
        for rt in (stage.rt, other):
            await refresh.run_once(rt)
        await stage.wait(0.5)
    assert 0 < len(away.calls) <= 20
    away.failure = None
    for _ in range(30):
        await refresh.run_once(other)
        await stage.wait(5)
    for rt in (stage.rt, other):
        await health.run_once(rt)
        assert rt.health.issues == {}


async def test_an_answer_that_says_no_is_no_outage(engine: AsyncEngine):
    stage = Stage(engine)
    stage.between.prepared["POST"] = [refusal(400, "You shall not", "bad_request")]
    await stage.submit()
    await create.run_once(stage.rt)
    async with begin(engine) as conn:
        assert await circuits.read(conn, "default") == {}
    assert stage.rt.health.issues == {}


async def test_a_kind_of_call_that_fails_does_not_hold_up_another(engine: AsyncEngine):
    stage, _ = await idle(engine, None)
    stage.between.prepared["GET"] = [refusal(500, "Internal Server Error")] * 50
    for _ in range(20):
        await refresh.run_once(stage.rt)
        await stage.wait(1)
    await stage.submit(name="next")
    await create.run_once(stage.rt)
    assert [one.state for one in await stage.creations()] == ["answered", "answered"]


@pytest.mark.parametrize("status", [302, 404])
async def test_a_gateways_page_does_not_end_a_creation_and_is_a_health_issue(engine: AsyncEngine, status):
    stage = Stage(engine)
    stage.between.prepared["POST"] = [HttpResponse(status=status, headers={}, body=HTML.body)]
    await stage.submit(count=2)
    await create.run_once(stage.rt)
    assert (await stage.creation()).state == "unconfirmed"
    assert f"HTTP {status}" in stage.rt.health.issues["provider gateway"]
    await stage.live(150)
    assert await stage.states() == ["ACTIVE", "ACTIVE"]
    assert stage.rt.health.issues == {}

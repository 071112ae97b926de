"""A real standby is read from: what it answers is said to be behind, and the primary answers when it cannot."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import pytest
from operator_api import TOKEN, Answer, Api, serving
from postgres import executed, fetched
from pydantic import SecretStr
from servers import Server, a_server, wants_a_server
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Stage

from service.runtime import replica
from service.runtime.replica import Replica
from service.runtime.runtime import Runtime
from service.storage import migrate, record_origin
from service.storage.engine import begin, create_engine, create_replica_engine

pytestmark = wants_a_server
LAG = "Rollcall-Replica-Lag-Seconds"


@dataclass
class Replicated:
    primary: Server
    standby: Server
    stage: Stage
    rt: Runtime
    api: Api

    async def fleet(self) -> Answer:
        answer = await self.api.request("GET", "/v1/fleet")
        assert answer.status == 200
        return answer

    async def caught_up(self) -> None:
        written = await fetched(self.primary.socket_url, "SELECT pg_current_wal_lsn()::text")
        await executed(self.standby.socket_url, "SET statement_timeout = '30s'; " + CAUGHT_UP.format(written))


CAUGHT_UP = """
DO $$ BEGIN
    WHILE pg_last_wal_replay_lsn() < '{}' LOOP PERFORM pg_sleep(0.01); END LOOP;
END $$
"""


def engine_of(stack: AsyncExitStack, made: AsyncEngine) -> AsyncEngine:
    stack.push_async_callback(made.dispose)
    return made


@pytest.fixture
async def replicated() -> AsyncIterator[Replicated]:
    async with AsyncExitStack() as stack:
        primary, standby = (stack.enter_context(a_server()) for _ in range(2))
        primary.initialise()
        primary.start()
        engine = engine_of(stack, create_engine(primary.socket_url))
        await migrate.upgrade(engine)
        standby.base_backup(primary)
        standby.start()
        stage = Stage(engine, api_tokens=(SecretStr(f"tests={TOKEN}"),))
        of_standby = engine_of(stack, create_replica_engine(standby.socket_url))
        rt = replace(stage.rt, replica=Replica(of_standby))
        api = await stack.enter_async_context(serving(rt))
        yield Replicated(primary, standby, stage, rt, api)


def count(answer: Answer) -> int:
    return sum(answer.json["fleet"]["submissions"].values())


async def test_pages_about_the_past_come_from_the_standby_and_say_how_old_they_are(replicated: Replicated):
    assert LAG not in (await replicated.fleet()).headers  # not before a probe has found it well
    await replicated.stage.submit()
    await replicated.caught_up()
    await replica.probe(replicated.rt)
    answer = await replicated.fleet()
    assert (count(answer), answer.headers[LAG]) == (1, "0.000")
    for path in ("/v1/events", "/v1/calls", "/v1/cost", "/v1/fleet", "/v1/search", "/v1/statistics"):
        assert LAG in (await replicated.api.request("GET", path)).headers, path

    await executed(replicated.standby.socket_url, "SELECT pg_wal_replay_pause()")
    await replicated.stage.submit()
    await replica.probe(replicated.rt)
    behind = await replicated.fleet()
    assert count(behind) == 1  # it is the standby that answers
    assert float(behind.headers[LAG]) > 0
    assert replicated.rt.metrics.registry.get_sample_value("rollcall_replica_lag_seconds") > 0
    assert len((await replicated.api.get("/v1/submissions"))["items"]) == 2  # what one has just made is read at once
    await executed(replicated.standby.socket_url, "SELECT pg_wal_replay_resume()")

    # A standby that is promoted has a history of its own: nothing is sent before it is known what the old one made.
    async with begin(replicated.stage.engine) as conn:
        await record_origin.note(conn)
    await replicated.caught_up()
    await fetched(replicated.standby.socket_url, "SELECT pg_promote()")
    async with begin(replicated.rt.replica.engine) as conn:
        assert not await record_origin.is_same(conn)
    await replica.probe(replicated.rt)
    assert "it is no standby" in replicated.rt.health.issues["read replica"]
    assert LAG not in (await replicated.fleet()).headers

    # It is gone between two probes: the primary answers.
    replicated.rt.replica.usable = True
    replicated.standby.stop()
    answer = await replicated.fleet()
    assert (count(answer), LAG in answer.headers) == (2, False)
    await replica.probe(replicated.rt)
    assert "it does not answer" in replicated.rt.health.issues["read replica"]
    assert replicated.rt.health.ready  # nothing that it has to do depends on it

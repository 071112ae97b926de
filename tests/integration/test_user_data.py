"""`user_data` may hold secrets: the provider gets it as it was given, and the database only its ciphertext."""

from dataclasses import replace
from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine
from stage import Between, Stage

from service.worker import create

SCRIPT = "#cloud-config\npassword: hunter2-of-a-user"
OLD, NEW = b"an older callback secret, 32 signs", b"a newer callback secret, 32 signs!"


class Bodies(Between):
    """A transport that remembers the bodies it sent."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.sent: list[dict[str, Any]] = []

    async def send(self, method: str, url: str, headers: Any, body: bytes | None, within: float, /) -> Any:
        if method == "POST" and body:
            self.sent.append(orjson.loads(body))
        return await super().send(method, url, headers, body, within)


def listening(stage: Stage) -> Bodies:
    bodies = Bodies(stage.between.inner)
    stage.rt.client._transport = bodies
    return bodies


async def dump(stage: Stage) -> str:
    tables = await stage.sql("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
    rows = [row for (table,) in tables for row in await stage.sql(f'SELECT t::text FROM "{table}" AS t')]
    return "\n".join(str(row) for row in rows)


async def test_the_provider_gets_the_script_and_no_table_has_it(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    bodies = listening(stage)
    await stage.submit(user_data=SCRIPT)
    assert "hunter2" not in await dump(stage)
    await create.run_once(stage.rt)
    assert [body["user_data"] for body in bodies.sent] == [SCRIPT]
    assert "hunter2" not in await dump(stage)


async def test_a_script_stored_before_a_rotation_is_sent_after_it(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    stage.rt = replace(stage.rt, callback_secrets=(OLD,))
    await stage.submit(user_data=SCRIPT)
    stage.rt = replace(stage.rt, callback_secrets=(NEW, OLD))
    bodies = listening(stage)
    await create.run_once(stage.rt)
    assert [body["user_data"] for body in bodies.sent] == [SCRIPT]


async def test_without_its_secret_the_creation_waits_and_says_so_and_others_go_on(engine: AsyncEngine) -> None:
    stage = Stage(engine)
    stage.rt = replace(stage.rt, callback_secrets=(OLD,))
    await stage.submit(user_data=SCRIPT)
    stage.rt = replace(stage.rt, callback_secrets=(NEW,))
    await stage.submit(name="without")
    bodies = listening(stage)
    await create.run_once(stage.rt)
    assert [body.get("user_data") for body in bodies.sent] == [None]
    assert "ROLLCALL_CALLBACK_SECRETS" in stage.rt.health.issues["user_data"]
    assert "hunter2" not in str(stage.rt.health.issues)
    assert await stage.sql("SELECT state FROM creations ORDER BY state") == [("answered",), ("due",)]
    await stage.sql("UPDATE creations SET due_at = :now WHERE state = 'due'", now=stage.world.clock.now())
    stage.rt = replace(stage.rt, callback_secrets=(NEW, OLD))
    bodies = listening(stage)
    await create.run_once(stage.rt)
    assert [body["user_data"] for body in bodies.sent] == [SCRIPT]
    assert "user_data" not in stage.rt.health.issues

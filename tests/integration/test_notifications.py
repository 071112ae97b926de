"""Notices are written with what they tell of, become messages in windows, and reach their targets whatever happens."""

import asyncio
import json
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec.structs import replace
from operator_api import TOKEN, body, serving
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from stage import Stage
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from stored_messages import store_message
from structlog.testing import capture_logs
from webhook_target import KEY, Target, listening

from service.config import Settings
from service.notify import apprise_target, outbox
from service.notify_rules import BUILT_IN, KINDS, wanted_kinds
from service.runtime.runtime import Runtime
from service.storage import messages as storage
from service.storage.engine import begin, transact
from service.storage.messages import Message
from service.storage.tables import messages
from service.worker import deliver, notify

#: Whether a statement of this database waits for the lock of a row.
WAITS = """
    SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')
"""


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    async with listening() as target:
        yield target


async def telling(engine: AsyncEngine, setting: str = "[]", **more: Any) -> Stage:
    settings = {"notify": setting, "notify_private": True, "api_tokens": f"tests={TOKEN}", **more}
    cloud = settings.pop("cloud", None)
    stage = Stage(engine, cloud=cloud, **settings)
    await outbox.prepare(stage.rt)
    return stage


async def told(stage: Stage, seconds: float = 60, *, step: float = 6) -> None:
    """Let windows pass, and deliver."""
    await stage.live(seconds, step=step, job_runs=(notify, deliver))


async def sent(stage: Stage, target: str = "ops") -> list[Message]:
    """The messages to a target, in their order."""
    found = await stage.rows(Message, messages)
    return sorted((one for one in found if one.target == target), key=lambda one: (one.submission_id, one.seq))


async def is_ready(stage: Stage) -> bool:
    return (await stage.submission()).state == "ready"


async def test_a_fleet_that_becomes_ready_is_told_in_groups_with_its_members(
    engine: AsyncEngine, target: Target
) -> None:
    stage = await telling(engine, target.targets())
    submission_id = await stage.submit(count=12, labels=["team-a"])
    await stage.until(lambda: is_ready(stage))
    await told(stage)
    ready = [one for one in target.bodies if one["type"] == "vm.ready"]
    members = [member for one in ready for member in one["data"]["members"]]
    assert {one["ref"] for one in members} == {f"{submission_id}.{n}" for n in range(1, 13)}
    assert sum(one["data"]["count"] for one in ready) == 12
    assert len(ready) < 12
    (done,) = [one for one in target.bodies if one["type"] == "submission.ready"]
    assert done["data"]["submission_id"] == str(submission_id)
    assert done["data"]["labels"] == ["team-a"]
    assert [one["data"]["sequence"] for one in target.bodies] == list(range(1, len(target.bodies) + 1))


async def test_events_of_one_kind_within_a_window_are_one_message(engine: AsyncEngine, target: Target) -> None:
    stage = await telling(engine, target.targets())
    await stage.submit(count=3)
    await stage.sql("UPDATE vms SET stuck = true, reason = 'no stock' WHERE vm_no = 1")
    await notify.run_once(stage.rt)
    await stage.sql("UPDATE vms SET stuck = true, reason = 'no stock' WHERE vm_no > 1")
    stage.world.clock.advance(4)
    await notify.run_once(stage.rt)
    assert await sent(stage) == []
    stage.world.clock.advance(2)
    await notify.run_once(stage.rt)
    (one,) = await sent(stage)
    assert one.text == "3 VMs are stuck in train: no stock"
    assert await stage.sql("SELECT * FROM notices") == []


async def test_a_notice_is_of_the_transaction_that_it_tells_of(engine: AsyncEngine) -> None:
    stage = await telling(engine)
    await stage.submit(count=1)

    async def stuck_and_failed() -> None:
        async with begin(engine) as conn:
            await conn.execute(text("UPDATE vms SET stuck = true"))
            assert (await conn.execute(text("SELECT kind FROM notices"))).scalars().all() == ["vm.stuck"]
            raise KeyError

    with pytest.raises(KeyError):
        await stuck_and_failed()
    assert await stage.sql("SELECT * FROM notices") == []


#: How each kind comes about: a statement, and what has to be so before it.
MAKES = {
    "vm.ready": "UPDATE vms SET ready = true, ready_at = now()",
    "vm.lost": "UPDATE vms SET state = 'LOST', next_refresh_at = now()",
    "vm.error": "UPDATE vms SET state = 'ERROR', next_refresh_at = now()",
    "vm.stuck": "UPDATE vms SET stuck = true",
    "vm.refused": "UPDATE vms SET state = 'REFUSED', ended_at = now()",
    "vm.deleted_unasked": "UPDATE vms SET state = 'DELETED', ended_at = now()",
    "vm.off_contract": "UPDATE vms SET assignment = 'given_up', contract_id = 1, on_demand_since = now()",
    "vm.on_contract": "UPDATE vms SET assignment = 'assigned', contract_id = 1, on_demand_since = NULL",
    "vm.replaced": "UPDATE vms SET replaced_by = 7, member = false",
    "submission.ready": "UPDATE submissions SET state = 'ready', ended_at = created_at",
    "submission.failed": "UPDATE submissions SET state = 'failed', ended_at = created_at",
    "submission.deadline_passed": "UPDATE submissions SET state = 'failed', ended_at = deadline_at + interval '1 s'",
    "submission.cancelled": "UPDATE submissions SET cancelled_at = now()",
    "submission.expired": "UPDATE submissions SET cancelled_at = now(), expires_at = now()",
    "submission.expires_soon": "UPDATE submissions SET expiry_notice_at = NULL",
    "submission.repairs_stopped": "UPDATE submissions SET maintain_stopped_at = now()",
    "money.limit_near": "UPDATE submissions SET limit_near_at = now()",
    "money.limit_reached": "UPDATE submissions SET limit_reached_at = now()",
    "orphan.found": "UPDATE orphans SET state = 'found', due_at = NULL",
    "health.raised": "INSERT INTO health_issues VALUES ('inbox', 'late', now(), now())",
    "health.resolved": "DELETE FROM health_issues",
}
BEFORE = {
    "vm.on_contract": MAKES["vm.off_contract"],
    "submission.expires_soon": "UPDATE submissions SET expires_at = now(), expiry_notice_at = now()",
    "orphan.found": "INSERT INTO orphans (submission_id, provider_id, creation_no, state, reason, found_at, due_at) "
    "SELECT submission_id, 7, 1, 'suspected', 'named by a callback', now(), now() FROM submissions",
    "health.resolved": MAKES["health.raised"],
}


def test_every_kind_has_a_way_to_come_about() -> None:
    assert MAKES.keys() == KINDS.keys()


async def test_each_kind_is_told_of_once_whoever_writes_it(engine: AsyncEngine) -> None:
    stage = await telling(engine, json.dumps([{"name": "log", "to": "log", "events": ["*"]}]))
    await stage.submit(count=1)
    async with engine.connect() as conn:
        for kind in KINDS:
            if kind in BEFORE:
                await conn.execute(text(BEFORE[kind]))
            await conn.execute(text("DELETE FROM notices"))
            await conn.execute(text(MAKES[kind]))
            await conn.execute(text("UPDATE vms SET next_refresh_at = next_refresh_at"))
            await conn.execute(text("UPDATE submissions SET name = name"))
            assert (await conn.execute(text("SELECT kind FROM notices"))).scalars().all() == [kind]
            await conn.rollback()


async def test_nothing_is_written_of_what_nobody_wants(engine: AsyncEngine) -> None:
    stage = await telling(engine, json.dumps([{"name": "log", "to": "log", "events": ["vm.lost"]}]))
    await stage.submit(count=1)
    await stage.sql(MAKES["vm.stuck"])
    assert await stage.sql("SELECT * FROM notices") == []
    await stage.sql(MAKES["vm.lost"])
    assert len(await stage.sql("SELECT * FROM notices")) == 1


async def test_rules_say_which_events_of_which_labels_go_where(engine: AsyncEngine, target: Target) -> None:
    rules = [
        {"name": "a", "to": target.url, "secrets": [KEY], "events": ["vm.*"], "labels": ["team-a"]},
        {"name": "b", "to": target.url, "secrets": [KEY], "events": ["submission.ready"]},
    ]
    stage = await telling(engine, json.dumps(rules))
    await stage.submit(count=1, labels=["team-a"])
    await stage.submit(count=1, labels=["team-b"])
    await stage.sql("UPDATE vms SET ready_at = now()")
    await stage.sql("UPDATE submissions SET state = 'ready', ended_at = now()")
    await told(stage)
    found = [*await sent(stage, "a"), *await sent(stage, "b")]
    assert Counter((one.target, one.kind) for one in found) == {
        ("a", "vm.ready"): 1,
        ("b", "submission.ready"): 2,
    }


async def test_a_signature_verifies_with_the_public_library_and_with_each_key(
    engine: AsyncEngine, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "whsec_" + "b" * 44
    stage = await telling(engine, target.targets(secrets=[other, KEY]))
    await stage.submit(count=1)
    await stage.sql(MAKES["vm.stuck"])
    await told(stage, 12)
    ((headers, raw),) = target.requests
    now = stage.world.clock.now()
    monkeypatch.setattr("standardwebhooks.webhooks.datetime", _At(now))
    for key in (KEY, other):
        assert Webhook(key).verify(raw, headers)["type"] == "vm.stuck"
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "d" * 44).verify(raw, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(KEY).verify(raw.replace("stuck", "ready"), headers)


class _At:
    """`datetime` at another time."""

    def __init__(self, now: Any) -> None:
        self._now = now

    def now(self, tz: Any = None) -> Any:
        return self._now.astimezone(tz)

    def fromtimestamp(self, *given: Any, **named: Any) -> Any:
        return type(self._now).fromtimestamp(*given, **named)


async def test_a_target_that_is_down_for_an_hour_gets_all_of_them_in_the_end(
    engine: AsyncEngine, target: Target
) -> None:
    stage = await telling(engine, target.targets(events=["vm.*", "submission.*"]))
    target.answer = 503
    for _ in range(20):
        await stage.submit(count=1)
    await stage.sql(MAKES["vm.stuck"])
    await stage.sql(MAKES["submission.cancelled"])
    await told(stage, 3600, step=30)
    tries = len(target.requests)
    assert 10 < tries < 200, "it is asked from time to time, and not stormed"
    assert {one.state for one in await sent(stage)} == {"due"}
    assert stage.rt.health.issues["notifications"].startswith("messages wait for target ops: ")
    target.answer = 200
    target.requests.clear()
    await told(stage, 1800, step=60)
    assert {one.state for one in await sent(stage)} == {"delivered"}
    assert len(target.requests) == 40
    assert "notifications" not in stage.rt.health.issues


async def test_what_is_refused_holds_nothing_back_and_becomes_a_dead_letter_after_days(
    engine: AsyncEngine, target: Target
) -> None:
    async def refuse_stuck(request: Any) -> Any:
        return web.Response(status=422 if "vm.stuck" in await request.text() else 200)

    target.answer = refuse_stuck
    stage = await telling(engine, target.targets(), notify_give_up_seconds=86_400)
    await stage.submit(count=1)
    await stage.sql(MAKES["vm.stuck"])
    await stage.sql(MAKES["submission.cancelled"])
    await told(stage, 12)
    assert {one.kind: one.state for one in await sent(stage)} == {
        "vm.stuck": "due",
        "submission.cancelled": "delivered",
    }
    for _ in range(100):
        stage.world.clock.advance(1000)
        await deliver.run_once(stage.rt)
    (dead,) = [one for one in await sent(stage) if one.state == "dead"]
    assert (dead.kind, dead.status, dead.error) == ("vm.stuck", 422, "it answered 422")


async def test_410_ends_it_at_once_and_a_redirect_is_not_followed(engine: AsyncEngine, target: Target) -> None:
    stage = await telling(engine, target.targets())
    target.answer = 410
    await stage.submit(count=1)
    await stage.sql(MAKES["vm.stuck"])
    await told(stage, 12)
    (gone,) = await sent(stage)
    assert (gone.state, gone.attempts) == ("dead", 1)

    async def elsewhere(_request: Any) -> Any:
        raise web.HTTPFound(target.url)

    target.answer = elsewhere
    await stage.sql(MAKES["vm.lost"])
    await told(stage, 6)
    assert (await sent(stage))[1].error == "302: redirects are not followed"


async def test_a_target_that_hangs_holds_one_slot_and_nobody_else(engine: AsyncEngine, target: Target) -> None:
    hung = asyncio.Event()
    async with listening() as other:

        async def hang(_request: Any) -> Any:
            hung.set()
            await asyncio.Event().wait()

        target.answer = hang
        rules = [*json.loads(target.targets()), *json.loads(other.targets(name="other"))]
        stage = await telling(engine, json.dumps(rules), notify_timeout_seconds=60)
        await stage.submit(count=1)
        for kind in ("vm.stuck", "vm.lost", "submission.cancelled"):
            await stage.sql(MAKES[kind])
        await notify.run_once(stage.rt)
        stage.world.clock.advance(6)
        await notify.run_once(stage.rt)
        claimed = await deliver.claim(stage.rt, 16)
        running = [asyncio.ensure_future(call()) for call in claimed.calls]
        await hung.wait()
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)  # the log may be first
        await other.arrived(3)
        assert len(target.requests) == 1
        assert (await deliver.claim(stage.rt, 16)).count == 0
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_a_process_that_dies_anywhere_loses_none_and_keeps_the_order(engine: AsyncEngine, target: Target) -> None:
    stage = await telling(engine, target.targets())
    stage.rt.rng.seed(1)
    await stage.submit(count=3)
    for kind in ("vm.stuck", "vm.lost", "vm.ready", "submission.cancelled"):
        await stage.sql(MAKES[kind])
    deaths = 0
    for steps in range(60):
        stage.world.clock.advance(60)
        with stage.killed_after(steps % 7):
            deaths += await stage.dies_in(notify.run_once(stage.rt))
            deaths += await stage.dies_in(deliver.run_once(stage.rt))
    assert deaths > 5
    assert {one.state for one in await sent(stage)} == {"delivered"}
    numbers = {one["data"]["sequence"]: one["type"] for one in target.bodies}
    assert numbers == {1: "vm.stuck", 2: "vm.lost", 3: "vm.ready", 4: "submission.cancelled"}


async def test_whoever_has_lost_a_lease_records_nothing_and_stops(engine: AsyncEngine, target: Target) -> None:
    stage = await telling(engine, target.targets(events=["vm.stuck", "vm.lost", "vm.ready"]))
    target.answer = 422
    await stage.submit(count=1)
    for kind in ("vm.stuck", "vm.lost", "vm.ready"):
        await stage.sql(MAKES[kind])
    for _ in range(2):
        await notify.run_once(stage.rt)
        stage.world.clock.advance(6)
    slow = await deliver.claim(stage.rt, 16)
    stage.world.clock.advance(60)
    await deliver.run_once(stage.rt)
    assert [one.attempts for one in await sent(stage)] == [1, 1, 1]
    stage.world.clock.advance(1000)
    target.requests.clear()
    await slow.make_calls()
    assert len(target.requests) == 1
    assert [one.attempts for one in await sent(stage)] == [1, 1, 1]


async def test_whoever_has_lost_a_lane_records_nothing_and_stops(engine: AsyncEngine, target: Target) -> None:
    stage = await telling(engine, target.targets(events=["vm.stuck", "vm.lost", "vm.ready"]))
    target.answer = 422
    await stage.submit(count=1)
    for kind in ("vm.stuck", "vm.lost", "vm.ready"):
        await stage.sql(MAKES[kind])
    for _ in range(2):
        await notify.run_once(stage.rt)
        stage.world.clock.advance(6)
    slow = await deliver.claim(stage.rt, 16)
    stage.world.clock.advance(60)
    await deliver.run_once(stage.rt)
    assert [one.attempts for one in await sent(stage)] == [1, 1, 1]
    stage.world.clock.advance(1000)
    target.requests.clear()
    await slow.make_calls()
    assert len(target.requests) == 1
    assert [one.attempts for one in await sent(stage)] == [1, 1, 1]


async def test_a_message_that_is_inserted_while_its_lane_is_given_back_is_not_forgotten(runtime: Runtime) -> None:
    await store_message(runtime)  # has ended, and made the lane
    now = runtime.clock.now()
    async with begin(runtime.engine) as conn:
        await storage.wake(conn, ["target ops"], now=now)
        until = now + timedelta(minutes=1)
        (leased,) = await storage.claim_lanes(conn, now=now, until=until, token=runtime.uuid(), limit=1)
    async with begin(runtime.engine) as inserting:
        waiting = {"seq": 2, "message_id": runtime.uuid(), "state": "due", "due_at": now, "ended_at": None}
        new = replace(await find_message(inserting), **waiting)
        await storage.insert(inserting, [new], now=now)
        releasing = asyncio.create_task(
            transact(runtime.engine, lambda conn: storage.release(conn, leased, not_before=now))
        )
        async with begin(runtime.engine) as watching:
            while not (await watching.execute(text(WAITS))).scalar():
                # A transaction would see the same activity for ever.
                await watching.execute(text("SELECT pg_stat_clear_snapshot()"))
    await releasing
    async with begin(runtime.engine) as conn:
        until = now + timedelta(minutes=2)
        again = await storage.claim_lanes(conn, now=now, until=until, token=runtime.uuid(), limit=1)
    assert [one.lane for one in again] == ["target ops"]


async def find_message(conn: AsyncConnection) -> Message:
    (only,) = await storage.page(conn, {}, before=None, limit=10)
    return only


async def test_a_submission_is_told_of_at_a_url_of_its_own(
    engine: AsyncEngine, target: Target, monkeypatch: Any
) -> None:
    stage = await telling(engine)
    async with serving(stage.rt) as api:
        made = await api.submit(count=2, notify_url=target.url)
        shown = await api.get(f"/v1/submissions/{made['submission_id']}")
        assert "notify_secret" not in shown
        assert shown["notify_url"] == target.url.replace("hook/a-secret-path", "…")
        await stage.sql(MAKES["vm.ready"])
        await told(stage, 12)
        ((headers, raw),) = target.requests
        monkeypatch.setattr("standardwebhooks.webhooks.datetime", _At(stage.world.clock.now()))
        assert Webhook(made["notify_secret"]).verify(raw, headers)["data"]["count"] == 2
        listed = json.dumps(await api.get("/v1/notifications"))
    for table in ("submissions", "messages", "message_lanes", "notices"):
        rows = json.dumps([str(tuple(row)) for row in await stage.sql(f"SELECT * FROM {table}")])
        assert "a-secret-path" not in rows, table
    assert "a-secret-path" not in listed


async def test_a_url_that_cannot_be_used_is_refused_and_not_quoted(runtime: Runtime) -> None:
    async with serving(runtime) as api:
        for url in (
            "ftp://example.com/", "https://u:hunter2@example.com/", "slack://hunter2/b", "https:///x", "https://x/#hunter2",
            "http://hunter2:99999/", "https://example.com/hunter2 ", "https://example.com/" + "hunter2" * 300, "",
        ):  # fmt: skip
            answer = await api.request("POST", "/v1/submissions", body(notify_url=url))
            assert answer.status == 422
            assert [one["field"] for one in answer.json["errors"]] == ["notify_url"]
            assert "hunter2" not in json.dumps(answer.json)


async def test_messages_are_listed_filtered_and_replayed_on_record(engine: AsyncEngine, target: Target) -> None:
    stage = await telling(engine, target.targets())
    target.answer = 410
    await stage.submit(count=1)
    await stage.sql(MAKES["vm.stuck"])
    await told(stage, 12)
    async with serving(stage.rt) as api:
        (dead,) = await api.every("/v1/notifications?state=dead&target=ops")
        assert await api.every("/v1/notifications?state=due") == []
        target.answer = 200
        path = f"/v1/notifications/{dead['message_id']}"
        answer = await api.request("POST", f"{path}/replay")
        assert (answer.status, answer.json["state"]) == (202, "due")
        assert (await api.request("POST", f"{path}/replay")).status == 409
        await deliver.run_once(stage.rt)
        found = await api.get(path)
        assert found["state"] == "delivered"
        assert found["body"] == target.bodies[-1] == target.bodies[0]
        shown = await api.get(f"/v1/submissions/{dead['submission_id']}")
        assert [(one["kind"], one["caller"]) for one in shown["actions"]][-1] == ("replay", "tests")
        for wrong in ("nonsense", "0198c0de-0000-7000-8000-000000000000"):
            assert (await api.request("GET", f"/v1/notifications/{wrong}")).status == 404
            assert (await api.request("POST", f"/v1/notifications/{wrong}/replay")).status == 404


async def test_a_test_message_goes_the_same_way_and_is_numbered_for_its_target(
    engine: AsyncEngine, target: Target
) -> None:
    stage = await telling(engine, target.targets(events=["vm.lost"]))
    async with serving(stage.rt) as api:
        for number in (1, 2):
            answer = await api.request("POST", "/v1/notifications/test", {"target": "ops"})
            assert (answer.status, answer.json["kind"], answer.json["seq"]) == (202, "test", number)
        await deliver.run_once(stage.rt)
        assert [one["data"]["text"] for one in target.bodies] == ["this is a test: asked for by tests"] * 2
        (log, ops) = (await api.get("/v1/notifications/targets"))["items"]
        assert (log["name"], ops["to"]) == ("log", target.url.replace("hook/a-secret-path", "…"))
        assert (await api.request("POST", "/v1/notifications/test", {"target": "nobody"})).status == 422
        assert (await api.request("POST", "/v1/notifications/test", {})).status == 422


async def test_a_message_to_a_target_that_is_no_more_is_a_dead_letter(engine: AsyncEngine, target: Target) -> None:
    stage = await telling(engine, target.targets())
    await stage.submit(count=1)
    await stage.sql(MAKES["vm.stuck"])
    await notify.run_once(stage.rt)
    stage.world.clock.advance(6)
    await notify.run_once(stage.rt)
    stage.rt.settings = stage.rt.settings.model_copy(update={"notify": ()})
    await deliver.run_once(stage.rt)
    (one,) = await sent(stage)
    assert (one.state, one.error) == ("dead", "there is no such target in ROLLCALL_NOTIFY any more")


async def test_old_messages_are_deleted_and_those_that_wait_are_not(engine: AsyncEngine, target: Target) -> None:
    stage = await telling(engine, target.targets(), notify_keep_seconds=3600, notify_give_up_seconds=1_000_000)
    await stage.submit(count=1)
    await stage.sql(MAKES["vm.lost"])
    await told(stage, 12)
    target.answer = 422
    await stage.sql(MAKES["vm.stuck"])
    await told(stage, 12)
    stage.world.clock.advance(7300)
    await notify.run_once(stage.rt)
    assert [(one.kind, one.state) for one in await sent(stage)] == [("vm.stuck", "due")]


async def test_health_issues_are_told_once_and_once_more_when_they_are_over(
    engine: AsyncEngine, target: Target
) -> None:
    stage = await telling(engine, target.targets(events=["health.*"]))
    stage.rt.health.report("inbox", "callbacks wait")
    await told(stage, 300, step=30)
    stage.rt.health.report("inbox", "callbacks wait longer")
    other = stage.daemon()  # which is well
    for _ in range(8):
        await told(stage, 30, step=30)
        stage.world.clock.advance(20)
        await notify.run_once(other)
    assert [(one["type"], one["data"]["text"]) for one in target.bodies] == [
        ("health.raised", "health issue: inbox: callbacks wait")
    ]
    stage.rt.health.resolve("inbox")
    await told(stage, 300, step=30)
    assert [one["type"] for one in target.bodies] == ["health.raised", "health.resolved"]


async def test_a_health_issue_of_a_daemon_that_died_is_over_unless_the_next_one_has_it_too(
    engine: AsyncEngine, target: Target
) -> None:
    stage = await telling(engine, target.targets(events=["health.*"]))
    stage.rt.health.report("inbox", "callbacks wait")
    stage.rt.health.report("archive", "no space")
    await told(stage, 60)
    stage.world.clock.advance(3600)
    stage.rt = stage.daemon()
    await told(stage, 6)
    stage.rt.health.report("archive", "no space")
    await told(stage, 300, step=30)
    assert [(one["type"], one["data"]["members"][0]["subject"]) for one in target.bodies[1:]] == [
        ("health.resolved", "inbox")
    ]


async def test_the_log_has_a_line_for_each_vm_and_orphan(engine: AsyncEngine) -> None:
    stage = await telling(engine)
    await stage.submit(count=3)
    for kind in wanted_kinds([BUILT_IN]):
        of = "vms" if kind.startswith("vm.") else "submissions"
        columns = "submission_id, vm_no" if of == "vms" else "submission_id, NULL"
        await stage.sql(
            f"INSERT INTO notices (submission_id, vm_no, kind, detail, at) SELECT {columns}, '{kind}', 'why', now() FROM {of}"
        )
    with capture_logs() as logs:
        await told(stage, 12)
    lines = [one for one in logs if one.get("action") == "notify"]
    assert {one["log_level"] for one in lines} == {"warning", "error"}
    assert {one["reason"] for one in lines} == {"why"}
    assert Counter(one["kind"] for one in lines) == {
        kind: 3 if kind.startswith("vm.") else 1 for kind in wanted_kinds([BUILT_IN])
    }


async def test_a_flood_is_a_bounded_number_of_lines(engine: AsyncEngine) -> None:
    stage = await telling(engine)
    await stage.submit(count=300)
    await stage.sql(MAKES["vm.lost"])
    with capture_logs() as logs:
        await told(stage, 12)
    lines = [one for one in logs if one.get("kind") == "vm.lost"]
    assert len(lines) == 21
    assert lines[-1]["event"] == "280 more"


class Changed(AbstractResolver):
    """A name server that has changed its mind since anybody looked."""

    def __init__(self, **_: Any) -> None:
        """Needs nothing."""

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        address = "127.0.0.1"
        return [ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing to close."""


async def test_a_name_that_resolves_to_a_private_address_is_refused_when_it_is_connected_to(
    engine: AsyncEngine, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiohttp.connector.DefaultResolver", Changed)
    port = target.url.split(":")[2].partition("/")[0]
    for private, url in ((False, f"http://hooks.example.com:{port}/"), (False, target.url), (False, "http://[::1]:9/")):
        stage = await telling(engine, Target(url).targets(), notify_private=private)
        async with serving(stage.rt) as api:
            await api.request("POST", "/v1/notifications/test", {"target": "ops"})
        await deliver.run_once(stage.rt)
        assert (await sent(stage))[
            -1
        ].error == "not sent: it leads to a private address; ROLLCALL_NOTIFY_PRIVATE=true allows that"
    assert target.requests == []


async def test_what_goes_wrong_at_a_target_is_told_without_its_url(engine: AsyncEngine, target: Target) -> None:
    stage = await telling(engine, Target("http://127.0.0.1:1/hunter2").targets())
    await stage.submit(count=1)
    await stage.sql(MAKES["vm.stuck"])
    with capture_logs() as logs:
        await told(stage, 12)
    (one,) = await sent(stage)
    assert (one.state, one.error) == ("due", "no answer: Connect call failed ('127.0.0.1', 1)")
    assert "hunter2" not in f"{logs}{one}{stage.rt.health.issues}"


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # a module of Apprise's imports it
async def test_everything_else_goes_through_apprise_and_what_it_logs_is_not_seen(
    engine: AsyncEngine, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    url = target.url.replace("http://", "json://")
    stage = await telling(engine, json.dumps([{"name": "chat", "to": url, "events": ["vm.stuck"]}]))
    assert apprise_target.errors(stage.rt.settings) == []
    target.answer = 500
    await stage.submit(count=2)
    await stage.sql(MAKES["vm.stuck"])
    await told(stage, 12)
    assert [(one.state, one.error) for one in await sent(stage, "chat")] == [("due", "Apprise could not deliver it")]
    target.answer = 200
    await told(stage, 600, step=60)
    assert [one.state for one in await sent(stage, "chat")] == ["delivered"]
    assert target.bodies[-1]["message"].startswith("2 VMs are stuck in train\nvm.stuck")
    assert "a-secret-path" not in caplog.text


def test_without_apprise_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    settings = Settings(_env_file=None, notify=json.dumps([{"name": "chat", "to": "slack://a/b/c"}]))
    (error,) = apprise_target.errors(settings)
    assert (error.field, error.message) == (
        "ROLLCALL_NOTIFY",
        "chat: needs Apprise; install it with pip install 'rollcall-fleet[apprise]'",
    )

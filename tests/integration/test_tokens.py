"""API tokens: what is stored of them, how soon a change holds, their limits, and what goes on record about their use."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokens
from operator_api import Answer, Api, body, serving
from sealing import SealedStage
from sqlalchemy import text
from structlog.testing import capture_logs

from service.api.access_record import MOST_REFUSALS
from service.core.api_token import Role
from service.errors import Invalid
from service.operations import tokens as operations
from service.operations.tokens import TokenRequest
from service.runtime.runtime import Runtime
from service.storage.engine import begin, create_engine
from service.worker import health

ZEROS = "00000000-0000-0000-0000-000000000000"


async def rows(rt: Runtime, statement: str) -> list[Any]:
    async with begin(rt.engine) as conn:
        return [tuple(row) for row in await conn.execute(text(statement))]


async def on_record(rt: Runtime, kind: str) -> list[Any]:
    return await rows(rt, f"SELECT caller, detail FROM actions WHERE kind = '{kind}' ORDER BY at, detail")


async def status(api: Api, token: str, path: str = "/v1/vms") -> int:
    return (await api.request("GET", path, token=token)).status


async def create(api: Api, name: str, role: str, **more: Any) -> Answer:
    return await api.request("POST", "/v1/tokens", {"name": name, "role": role, **more})


async def test_a_token_is_shown_once_and_only_its_digest_is_stored(runtime: Runtime) -> None:
    async with serving(runtime) as api:
        made = (await create(api, "nightly", "submit", lifetime="90d", requests_per_minute=60)).json
        (listed,) = [one for one in (await api.get("/v1/tokens"))["items"] if one["name"] == "nightly"]
        assert listed == {name: value for name, value in made.items() if name != "token"}
        assert (listed["role"], listed["source"], listed["state"]) == ("submit", "database", "valid")
        assert (listed["expires_at"], listed["created_by"]) == ("2026-05-31T12:00:00Z", "tests")
        dump = str(
            await rows(runtime, "SELECT api_tokens::text FROM api_tokens UNION ALL SELECT actions::text FROM actions")
        )
        assert made["token"] not in dump
        assert made["token"][9:20] not in dump
        assert await status(api, made["token"]) == 200
    assert await on_record(runtime, "token") == [
        ("tests", "created nightly with the role submit, requests_per_minute 60")
    ]
    assert await rows(runtime, "SELECT submission_id::text FROM actions") == [(ZEROS,)]


async def test_tokens_of_the_settings_are_listed_as_such_and_keep_their_names(runtime: Runtime) -> None:
    async with serving(runtime) as api:
        first = (await api.get("/v1/tokens"))["items"][0]
        assert (first["name"], first["role"], first["source"], first["state"]) == (
            "tests",
            "admin",
            "settings",
            "valid",
        )
        refused = await create(api, "tests", "read")
        assert (refused.status, refused.json["errors"][0]["field"]) == (422, "name")
        assert (await api.request("DELETE", "/v1/tokens/tests")).status == 404


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "-x"), ("name", "a b"), ("name", ""), ("name", "x" * 65), ("role", "owner"), ("role", None),
     ("lifetime", "0"), ("lifetime", "soon"), ("requests_per_minute", 0), ("more", 1)],
)  # fmt: skip
async def test_a_wrong_request_says_which_field(runtime: Runtime, field: str, value: Any) -> None:
    async with serving(runtime) as api:
        refused = await api.request("POST", "/v1/tokens", {"name": "ci", "role": "read", field: value})
        assert refused.status == 422
        assert [one["field"] for one in refused.json["errors"]] == [field]


async def test_two_tokens_of_one_name_only_follow_each_other(runtime: Runtime) -> None:
    async with serving(runtime) as api:
        made = await asyncio.gather(*(create(api, "ci", "read") for _ in range(5)))
        assert sorted(one.status for one in made) == [201, 422, 422, 422, 422]
        assert (await api.request("DELETE", "/v1/tokens/ci")).status == 200
        assert (await create(api, "ci", "read")).status == 201
    assert await rows(runtime, "SELECT serial FROM api_tokens ORDER BY serial") == [(1,), (2,)]


async def test_after_a_rotation_both_are_good_until_the_grace_is_over(runtime: Runtime) -> None:
    async with serving(runtime) as api:
        old = (await create(api, "ci", "submit", lifetime=86_400)).json["token"]
        key = {"Idempotency-Key": "nightly-17"}
        first = await api.request("POST", "/v1/submissions", body(), token=old, **key)
        runtime.clock.advance(3600)
        new = (await api.request("POST", "/v1/tokens/ci/rotate", {"grace": "10m"})).json
        assert (new["role"], new["expires_at"]) == ("submit", "2026-03-03T13:00:00Z")  # as long as the old one had
        again = await api.request("POST", "/v1/submissions", body(), token=new["token"], **key)
        assert (first.status, again.status) == (201, 200)  # the caller is the same
        runtime.clock.advance(599)
        assert [await status(api, one) for one in (old, new["token"])] == [200, 200]
        runtime.clock.advance(1)
        assert [await status(api, one) for one in (old, new["token"])] == [401, 200]
        last = (await api.request("POST", "/v1/tokens/ci/rotate", {"grace": 0, "lifetime": 60})).json["token"]
        assert [await status(api, one) for one in (new["token"], last)] == [401, 200]
        revoked = (await api.request("DELETE", "/v1/tokens/ci")).json["items"]
        assert [(one["state"], one["revoked_by"]) for one in revoked] == [("revoked", "tests")]
        assert (await api.request("POST", "/v1/tokens/ci/rotate", {})).status == 404


async def test_a_rotation_never_makes_the_old_one_live_longer(runtime: Runtime) -> None:
    async with serving(runtime) as api:
        old = (await create(api, "ci", "read", lifetime=60)).json["token"]
        await api.request("POST", "/v1/tokens/ci/rotate", {"grace": "1d"})
        runtime.clock.advance(60)
        assert await status(api, old) == 401


async def test_a_change_in_another_daemon_holds_within_five_seconds_and_a_new_token_at_once(runtime: Runtime) -> None:
    async with serving(runtime) as one, serving(runtime) as other:
        assert await status(other, await tokens.created(runtime, "grafana")) == 200  # it has just read the tokens
        token = (await create(one, "ci", "read")).json["token"]
        assert await status(other, token) == 200
        await one.request("DELETE", "/v1/tokens/ci")
        assert await status(one, token) == 401
        runtime.clock.advance(5)
        assert await status(other, token) == 401


async def test_a_stream_ends_with_its_token(runtime: Runtime) -> None:
    token = await tokens.created(runtime, "grafana")
    async with serving(runtime) as api:
        headers = {"Authorization": f"Bearer {token}"}
        async with api._client.get("/v1/stream", headers=headers) as stream:
            assert await stream.content.readline() == b"retry: 1000\n"
            await operations.revoke(runtime, "grafana", caller="tests")
            runtime.clock.advance(5)
            async with asyncio.timeout(60):
                await stream.content.read()  # it comes to its end


async def test_the_database_is_not_asked_for_each_request(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    current = operations.tokens.current

    async def counting(*arguments: Any, **more: Any) -> Any:
        asked.append(1)
        return await current(*arguments, **more)

    token = await tokens.created(runtime, "grafana")
    monkeypatch.setattr("service.storage.tokens.current", counting)
    async with serving(runtime) as api:
        for _ in range(20):
            assert await status(api, token, "/openapi.json") == 200
            assert await status(api, "no-token-of-ours") == 401
        assert len(asked) == 1
        forged = [token[:9] + f"{number:049}" for number in range(20)]
        assert {await status(api, one) for one in forged} == {401}  # damaged: no question either
        assert len(asked) == 1


async def test_the_last_use_is_written_once_a_minute(runtime: Runtime) -> None:
    last_use = "SELECT last_used_at::text, xmin::text FROM api_tokens"
    token = await tokens.created(runtime, "grafana")
    seen = []
    async with serving(runtime) as api:
        for seconds in (0, 1, 30, 28, 1, 1):
            runtime.clock.advance(seconds)
            assert await status(api, token) == 200
            await api.settled()
            seen.append((await rows(runtime, last_use))[0])
    assert [at[:19] for at, _ in seen] == ["2026-03-02 12:00:00"] * 4 + ["2026-03-02 12:01:00"] * 2
    assert len(set(seen)) == 2


async def test_a_token_has_its_requests_a_minute_and_gets_more_as_time_passes(runtime: Runtime) -> None:
    async with serving(runtime) as api:
        token = (await create(api, "grafana", "read", requests_per_minute=6)).json["token"]
        assert [await status(api, token) for _ in range(7)] == [200] * 6 + [429]
        refused = await api.request("GET", "/v1/vms", token=token)
        assert (refused.json["type"], refused.headers["Retry-After"]) == ("/problems/too-many-requests", "10")
        runtime.clock.advance(10)
        assert [await status(api, token) for _ in range(2)] == [200, 429]
        await api.request("POST", "/v1/tokens/grafana/rotate", {})  # a new token of this name has nothing more
        assert await status(api, token) == 429
        assert (await api.request("GET", "/v1/vms")).status == 200


async def test_reads_with_an_audit_token_are_on_record_once_an_hour_by_route(runtime: Runtime) -> None:
    auditor, reader = await tokens.created(runtime, "kpmg", Role.AUDIT), await tokens.created(runtime, "grafana")
    async with serving(runtime) as api, serving(runtime) as other:
        for one in (api, api, other):
            for path in ("/v1/vms", "/v1/vms?limit=5", "/v1/fleet", "/metrics", "/openapi.json"):
                assert await status(one, auditor, path) == 200
                assert await status(one, reader, path) == 200
        assert await on_record(runtime, "read") == [("kpmg", "GET /v1/fleet"), ("kpmg", "GET /v1/vms")]
        runtime.clock.advance(3600)
        await status(api, auditor)
    assert len(await on_record(runtime, "read")) == 3


async def test_nothing_is_read_with_an_audit_token_that_could_not_be_put_on_record(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await tokens.created(runtime, "kpmg", Role.AUDIT)
    async with serving(runtime) as api:
        await api.request("GET", "/v1/fleet", token=token)
        async with begin(runtime.engine) as conn:
            await conn.execute(text("ALTER TABLE actions RENAME TO actions_away"))
        with capture_logs():
            assert await status(api, token) == 500
        assert await status(api, token, "/v1/fleet") == 200  # on record for this hour


async def test_what_is_on_record_about_access_is_sealed_and_an_edit_of_it_is_found(
    runtime: Runtime, tmp_path: Path
) -> None:
    stage = SealedStage(runtime, tmp_path)
    auditor = await tokens.created(runtime, "kpmg", Role.AUDIT)
    async with serving(runtime) as api:
        for _ in range(2):  # again after it was sealed, in the same hour
            await status(api, auditor)
            await status(api, "a-wrong-token-of-tests")
            await api.settled()
            await stage.seal()
    report = await stage.verify()
    assert (report.sound, report.rows) == (True, 4)  # with the log's key
    await stage.tamper("DELETE FROM actions WHERE kind = 'read'")
    (finding,) = (await stage.verify()).findings
    assert finding.kind == "removed"


async def test_refusals_are_on_record_and_bounded(runtime: Runtime) -> None:
    ended = await tokens.ended(runtime)
    reader = await tokens.created(runtime, "grafana")
    async with serving(runtime) as api:
        for _ in range(3):
            await status(api, "a-wrong-token-of-tests")
            await status(api, ended["revoked"])
            await api.request("POST", "/v1/tokens", {}, token=reader)
        await api.settled()
        assert await on_record(runtime, "refused") == [
            ("grafana", "POST /v1/tokens, which needs the role admin"),
            ("unknown", "the token a-leaked-one was revoked at 2026-03-02 12:00:00Z, from 127.0.0.1"),
            ("unknown", "wrong token, from 127.0.0.1"),
        ]
        searched = [one["text"] for one in await api.every("/v1/search?operation=refused")]
        assert "refused by grafana: POST /v1/tokens, which needs the role admin" in searched
        record = api.access_record
        for number in range(MOST_REFUSALS * 2):
            record.note_refused("unknown", f"wrong token, from 2001:db8::{number:x}")
        await api.settled()
    found = await on_record(runtime, "refused")
    assert len(found) == MOST_REFUSALS + 1
    assert ("unknown", "more than are listed one by one") in found


async def test_without_the_database_a_known_token_reads_the_metrics_and_nothing_else(runtime: Runtime) -> None:
    token = await tokens.created(runtime, "grafana")
    rt = replace(runtime)
    away = create_engine("postgresql://nobody@127.0.0.1:9/nothing")
    async with serving(rt) as api:
        assert await status(api, token) == 200
        rt.engine = away
        rt.clock.advance(60)
        assert await status(api, token, "/metrics") == 200
        assert await status(api, token, "/readyz") == 503
        assert await status(api, token) == 503
        assert await status(api, "a-wrong-token-of-tests") == 401
        rt.engine = runtime.engine
        rt.clock.advance(1)
        assert await status(api, token) == 200
    await away.dispose()


async def test_a_token_in_use_that_expires_soon_is_a_health_issue_until_it_is_rotated(runtime: Runtime) -> None:
    async def issue() -> str | None:
        await health.run_once(runtime)
        found = runtime.health.issues.get("token expires")
        assert runtime.health.ready
        return found

    day = 86_400.0
    used, _unused = [await tokens.created(runtime, name, lifetime=90 * day) for name in ("nightly", "forgotten")]
    await tokens.created(runtime, "hourly", lifetime=3600.0)
    async with serving(runtime) as api:
        runtime.clock.advance(83 * day - 60)
        await status(api, used)
        await api.settled()
        assert await issue() is None
        runtime.clock.advance(60)
        assert await issue() == "nightly at 2026-05-31 12:00:00Z"
        await api.request("POST", "/v1/tokens/nightly/rotate", {"grace": "7d"})
        assert await issue() is None


async def test_there_is_a_bound_to_valid_tokens(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "MOST_TOKENS", 2)
    for name in ("one", "two"):
        await tokens.created(runtime, name, lifetime=60.0)
    with pytest.raises(Invalid, match="at most"):
        await operations.create(runtime, TokenRequest(name="three", role=Role.READ), caller="tests")
    runtime.clock.advance(60)
    await tokens.created(runtime, "three")


async def test_tokens_are_listed_page_by_page(runtime: Runtime) -> None:
    for number in range(5):
        await tokens.created(runtime, f"token-{number}", lifetime=60.0 if number % 2 else None)
        runtime.clock.advance(1)
    async with serving(runtime) as api:
        runtime.clock.advance(60)
        named = [one["name"] for one in await api.every("/v1/tokens?limit=2")]
        every = {one["name"]: one["state"] for one in await api.every("/v1/tokens?limit=2&ended=true")}
    assert named == ["tests", "token-4", "token-2", "token-0"]
    assert list(every) == ["tests", *(f"token-{number}" for number in (4, 3, 2, 1, 0))]
    assert (every["token-3"], every["token-2"]) == ("expired", "valid")

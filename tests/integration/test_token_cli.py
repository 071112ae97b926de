"""`rollcall token`, by the API and in the database, and what other commands say to a token that does not suffice."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import tokens
from command_line import Run, running
from conftest import SECRET
from operator_api import TOKEN, Api, serving
from structlog.testing import capture_logs

from service.core.api_token import Role, is_api_token
from service.runtime.runtime import Runtime
from service.storage import migrate


@pytest.fixture
async def api(runtime: Runtime) -> AsyncIterator[Api]:
    with capture_logs():
        async with serving(runtime) as api:
            yield api


@pytest.fixture
def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    api: Api,
    database_url: str,
) -> Run:
    """Run a command on a machine with the daemon's settings."""
    monkeypatch.chdir(tmp_path)
    known = {
        "DATABASE_URL": database_url,
        "CALLBACK_SECRETS": SECRET,
        "API_URL": api.url,
        "API_TOKENS": f"tests={TOKEN}",
    }
    for name, value in known.items():
        monkeypatch.setenv(f"ROLLCALL_{name}", value)

    return running(capsys)


@pytest.mark.parametrize("where", [(), ("--database",)])
async def test_a_token_is_created_listed_rotated_and_revoked(
    api: Api, run: Run, runtime: Runtime, where: tuple[str, ...]
) -> None:
    if where:  # it has the database's clock
        runtime.clock.advance((datetime.now(UTC) - runtime.clock.now()).total_seconds())
    made = await run("token", "create", "nightly", "--role", "submit", "--lifetime", "90d", *where)
    assert made.code == 0, made
    first = made.out.strip()
    assert is_api_token(first)
    assert "nightly has the role submit, valid until 20" in made.err
    assert (await api.request("GET", "/v1/vms", token=first)).status == 200
    listed = await run("token", "list", *where)
    assert ("nightly" in listed.out, "submit" in listed.out, first in listed.out) == (True, True, False)
    assert ("settings" in listed.out) == (not where)
    rotated = await run("token", "rotate", "nightly", "--grace", "0", "--json", *where)
    second = json.loads(rotated.out)["token"]
    assert "stays valid for 0" in rotated.err
    runtime.clock.advance(60)
    assert [(await api.request("GET", "/v1/vms", token=one)).status for one in (first, second)] == [401, 200]
    assert (await run("token", "revoke", "nightly", *where)).err == "nightly: 1 revoked\n"
    ended = json.loads((await run("token", "list", "--ended", "--json", *where)).out)
    assert {one["state"] for one in ended if one["source"] == "database"} == {"revoked", "expired"}
    again = await run("token", "revoke", "nightly", *where)
    assert (again.code, "no valid token has the name nightly" in again.err) == (4, True)


@pytest.mark.parametrize("where", [(), ("--database",)])
async def test_limits_of_a_token_are_given_shown_with_what_it_has_and_changed(run: Run, where: tuple[str, ...]) -> None:
    limits = ("--max-vms", "40", "--max-gpus", "80", "--max-price-per-hour", "120.5")
    assert (await run("token", "create", "ci", "--role", "submit", *limits, *where)).code == 0
    shown = ("token", "list", "--columns", "name,VMs,GPUs,per hour", *where)
    assert (await run(*shown)).out.split("\n")[-2].split("  ", 1)[1].lstrip() == "0 of 40  0 of 80  0 of 120.5"
    changed = await run("token", "change", "ci", "--max-vms", "60", "--max-gpus", "none", *where)
    assert changed.err == "ci: 1 changed\n"
    found = json.loads((await run("token", "list", "--json", *where)).out)
    (one,) = [one for one in found if one["name"] == "ci"]
    assert (one["max_vms"], one["max_gpus"], one["max_price_per_hour"]) == (60, None, "120.5")
    wrong = await run("token", "change", "ci", "--max-vms", "0", "--max-price-per-hour", "much", *where)
    assert (wrong.code, "max_vms: is 0" in wrong.err, "max_price_per_hour: must be an amount" in wrong.err) == (
        5,
        True,
        True,
    )
    assert [(await run("token", "change", "ci", *more, *where)).code for more in ((), ("--max-vms", "few"))] == [2, 2]


@pytest.mark.parametrize("where", [(), ("--database",)])
async def test_a_wrong_token_command_says_which_field(run: Run, where: tuple[str, ...]) -> None:
    refused = await run("token", "create", "a b", "--role", "admn", *where)
    assert refused.code == 5
    assert "name: does not have the right form" in refused.err
    assert 'role: is "admn"; did you mean admin?' in refused.err
    assert (await run("token", "create", "tests", "--role", "read", *where)).code == 5


async def test_the_first_token_needs_a_database_and_no_daemon(
    api: Api, run: Run, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROLLCALL_API_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("ROLLCALL_API_TOKENS")
    token = (await run("token", "create", "ops", "--role", "admin", "--database")).out.strip()
    assert (await api.request("GET", "/v1/tokens", token=token)).status == 200
    monkeypatch.setattr(migrate, "head", lambda: "r9999")
    behind = await run("token", "list", "--database")
    assert (behind.code, "rollcall migrate" in behind.err) == (3, True)


async def test_commands_say_which_role_is_missing_and_which_token_has_ended(
    api: Api, run: Run, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROLLCALL_API_TOKEN", await tokens.created(runtime, "grafana", Role.READ))
    refused = await run("token", "revoke", "grafana")
    needs = "this needs a token with the role admin; grafana has the role read"
    assert (refused.code, refused.err) == (5, f"{needs} (the API token is from ROLLCALL_API_TOKEN)\n")
    assert (await run("vms")).code == 0
    ended = await tokens.ended(runtime)
    monkeypatch.setenv("ROLLCALL_API_TOKEN", ended["revoked"])
    refused = await run("vms")
    assert refused.code == 5
    assert "the API token from ROLLCALL_API_TOKEN was refused" in refused.err
    assert "the token a-leaked-one was revoked at" in refused.err
    monkeypatch.setenv("ROLLCALL_API_TOKEN", ended["revoked"][:-3])
    assert "not copied whole" in (await run("vms")).err
    monkeypatch.setenv("ROLLCALL_API_TOKEN", await tokens.created(runtime, "slow", requests_per_minute=1))
    await run("vms")
    refused = await run("vms")
    assert (refused.code, refused.err) == (3, "slow may send 1 requests a minute\n")

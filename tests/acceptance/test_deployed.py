"""Rollcall as platform teams run it: by a role that owns nothing, behind pgbouncer, and replaced while it works."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pytest
from ledger import Serial
from numbered import sending, vms_of
from pooler import pgbouncer, wants_pgbouncer
from postgres import executed, in_a_thread
from processes import SECRET, Serve, Stage, rollcall, staged, until
from tcp_proxy import Proxies

from service.cli.exits import Exit
from service.lab.demo.stage import free_ports

_FLEET, _NUMBERED = 21, 4
_ROLES = ("rollcall", "rollcall_owner")
_TOLD: Mapping[str, str] = {
    "NOTIFY": '[{"name": "log", "to": "log", "events": ["submission.*"]}]',
    "SEAL_INTERVAL_SECONDS": "0.5",
}


@pytest.fixture
def owned(bare_database_url: str, tmp_path: Path) -> Iterator[str]:
    """A database that its owner has prepared: migrated, and run the script that `rollcall migrate --roles` prints."""
    url, owner = bare_database_url, _as(bare_database_url, "rollcall_owner")
    for role in _ROLES:
        in_a_thread(executed(url, f"CREATE ROLE {role}"))
    try:
        in_a_thread(executed(url, "GRANT USAGE, CREATE ON SCHEMA public TO rollcall_owner"))
        for arguments in (("migrate",), ("migrate", "--roles")):
            done = rollcall(tmp_path, *arguments, settings={"DATABASE_URL": owner, "CALLBACK_SECRETS": SECRET})
            assert done.returncode == 0, done.stderr
        in_a_thread(executed(owner, done.stdout))
        yield url
    finally:
        for role in _ROLES:
            in_a_thread(executed(url, f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}"))


def _as(url: str, role: str) -> str:
    return f"{url}&options={quote(f'-c role={role}')}"


def everything_works(stage: Stage, folder: Path) -> None:
    """Submitted to ready, cancelled, told, exported, sealed and verified."""
    daemon = stage.daemon
    ready, cancelled = daemon.submit(_FLEET), daemon.submit(5)
    daemon.api.cancel_submission(cancelled)
    daemon.until_state(ready, "ready")
    until(lambda: len(stage.simulator.alive()) == _FLEET, "what was cancelled is deleted")
    stage.until_true()
    until(lambda: "submission.ready" in daemon.log, "the message that the submission is ready")
    exported = rollcall(folder, "export", "exported", "--json", settings=_client(daemon))
    assert exported.returncode == 0, exported.stderr
    assert json.loads(exported.stdout)["tables"]
    until(lambda: _verified(folder, daemon), "everything is sealed")
    assert daemon.readiness() == {"ready": True, "issues": {}}


def _client(daemon: Serve) -> dict[str, str]:
    return {"API_URL": daemon.api.url, "API_TOKEN": daemon.settings["API_TOKENS"].partition("=")[2]}


def _verified(folder: Path, daemon: Serve) -> bool:
    done = rollcall(folder, "audit", "verify", "--json", settings=daemon.settings)
    if done.returncode == Exit.NOT_FOUND:  # nothing is sealed yet
        return False
    assert done.returncode == 0, (done.stdout, done.stderr)
    return json.loads(done.stdout)["unsealed"]["count"] == 0


def test_the_whole_path_works_with_a_role_that_owns_nothing(owned: str, tmp_path: Path) -> None:
    with staged(tmp_path, _as(owned, "rollcall"), **_TOLD) as stage:
        everything_works(stage, tmp_path)


@wants_pgbouncer
def test_the_whole_path_works_behind_pgbouncer_in_transaction_mode(owned: str, tmp_path: Path) -> None:
    with (
        pgbouncer(owned, first="SET ROLE rollcall") as pooled,
        staged(tmp_path, f"{pooled}?statement_cache_size=0", **_TOLD) as stage,
    ):
        stage.database_url = owned  # the test itself looks past the pooler
        everything_works(stage, tmp_path)


def test_daemons_are_replaced_one_after_another_and_no_callback_is_refused(database_url: str, tmp_path: Path) -> None:
    (front,) = free_ports(1)
    with staged(tmp_path, database_url, daemons=2, PUBLIC_URL=f"http://127.0.0.1:{front}") as stage:
        Proxies().add([int(one.callbacks.rpartition(":")[2]) for one in stage.daemons], port=front)
        numbered = stage.daemon.submit(_NUMBERED)
        stage.daemon.until_state(numbered, "ready")
        with sending(front, vms_of(database_url, numbered, SECRET)) as load:
            fleet = stage.daemon.submit(_FLEET)
            for one in stage.daemons:
                load.until_more(40)
                assert one.stop() == 0
                load.until_more(40)
                one.start()
            load.until_more(40)
        assert load.refused == []
        stage.daemon.until_state(fleet, "ready")
        stage.until_true()
        stage.made_once(_NUMBERED + _FLEET)
        found = (json.loads(body) for body in stage.kept())
        kept = {Serial(one["resource"]["id"], one["number"]) for one in found if "number" in one}
        assert load.ledger.acknowledged <= kept

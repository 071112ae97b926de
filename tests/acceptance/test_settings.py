"""Wrong keys and wrong settings: said at once and in full, and mended by a restart."""

import json
from pathlib import Path
from uuid import UUID

from processes import KEY, SECRET, Stage, post, rollcall, staged, until

from service.core.token import CreationRef, mint


def test_with_a_wrong_api_key_nothing_is_created_callbacks_are_heard_and_a_new_key_resumes(
    tmp_path: Path, bare_database_url: str
) -> None:
    with staged(tmp_path, bare_database_url, INFRAHUB_API_KEY="not-the-key") as stage:
        submission = stage.daemon.submit(30)
        readiness = until(lambda: _troubles(stage, "provider key"), "the daemon says so")
        assert not readiness["ready"]
        assert "the provider rejects the API key" in readiness["issues"]["provider key"]

        url = f"{stage.daemon.callbacks}/callbacks/{mint(CreationRef(UUID(submission), 1), SECRET.encode())}"
        callback = {"resource": {"id": 7}, "operation": {"name": "createInstance", "status": "ACTIVE"}}
        assert post(url, json.dumps(callback).encode()) == 200
        assert stage.kept()[json.dumps(callback)] == 1

        # While the key is rejected one call at a time knocks: every one of them is on the provider's log as a 401.
        until(lambda: len(stage.simulator.creates()) >= 2, "it goes on knocking")
        assert {call["status"] for call in stage.simulator.calls()} == {401}
        assert stage.simulator.vms() == []
        assert stage.daemon.submission(submission)["state"] == "open"

        assert stage.daemon.stop() == 0
        stage.daemon.settings["INFRAHUB_API_KEY"] = KEY
        stage.daemon.start()
        stage.daemon.until_state(submission, "ready")
        assert stage.daemon.readiness() == {"ready": True, "issues": {}}
        stage.until_true()
        stage.made_once(30)


def _troubles(stage: Stage, name: str) -> dict[str, dict[str, str]] | None:
    seen = stage.daemon.readiness()
    return seen if seen and name in seen["issues"] else None


def test_wrong_settings_are_all_listed_and_nothing_is_started(tmp_path: Path) -> None:
    wrong = {
        "DATABASE_URL": "postgresql://somebody:a-password-of-theirs@127.0.0.1/there",
        "CALLBACK_SECRETS": "short",
        "API_TOKENS": "brief",
        "CALLBACK_LISTEN": "everywhere",
        "INFRAHUB_URL": "not a url",
        "CALLS_PER_MINUTE": "0",
        "LOG_LEVEL": "loud",
        "INFRAHUB_API_KEY_FILE": str(tmp_path / "is-not-there"),
    }
    done = rollcall(tmp_path, "serve", settings=wrong)
    assert done.returncode == 2
    told = {line.split()[0] for line in done.stderr.splitlines()}
    assert told == {f"ROLLCALL_{name}" for name in wrong} - {"ROLLCALL_DATABASE_URL"}
    assert "a-password-of-theirs" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_all_listed(tmp_path: Path) -> None:
    done = rollcall(tmp_path, "serve", settings={})
    assert done.returncode == 2
    assert {line.split()[0] for line in done.stderr.splitlines()} == {
        "ROLLCALL_INFRAHUB_API_KEY",
        "ROLLCALL_PUBLIC_URL",
    }
    assert list(tmp_path.iterdir()) == []


def test_a_variable_that_nobody_reads_is_warned_of_and_its_value_is_not_told(
    tmp_path: Path, bare_database_url: str
) -> None:
    with staged(tmp_path, bare_database_url, LOOKUP_WINDOW_SECOND="hunter2") as stage:
        assert stage.daemon.stop() == 0
        (warned,) = [line for line in stage.daemon.log.splitlines() if "unknown setting" in line]
        assert json.loads(warned)["variable"] == "ROLLCALL_LOOKUP_WINDOW_SECOND"
        assert json.loads(warned)["why"].endswith("did you mean ROLLCALL_LOOKUP_WINDOW_SECONDS?")
        assert "hunter2" not in stage.daemon.log

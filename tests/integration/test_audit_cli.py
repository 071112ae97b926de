"""`rollcall audit`: what it prints, and the meaning of its exit codes."""

import asyncio
import json
from dataclasses import dataclass

import pytest
from conftest import SECRET
from stage import Stage

from service.audit import keys
from service.cli.main import main
from service.storage.engine import begin
from service.worker import seal


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


async def tamper(stage, *statements):
    async with begin(stage.engine) as conn:
        for one in ("SET LOCAL session_replication_role = replica", *statements):
            await conn.exec_driver_sql(one)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, database_url):
    """Run a command on a machine that has the daemon's settings."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"DATABASE_URL": database_url, "CALLBACK_SECRETS": SECRET, "DATA_DIR": "data"}.items():
        monkeypatch.setenv(f"ROLLCALL_{name}", value)

    def ended(arguments):
        capsys.readouterr()  # what the stage logged
        with pytest.raises(SystemExit) as raised:
            main(arguments)
        printed = capsys.readouterr()
        return Ended(int(raised.value.code or 0), printed.out, printed.err)

    async def run(*arguments):
        return await asyncio.to_thread(ended, arguments)

    return run


@pytest.fixture
async def stage(engine, tmp_path, runtime):
    """A fleet that came up; its record is not sealed yet, and is sealed by the same keys as the commands know."""
    stage = Stage(engine, data_dir=tmp_path / "data")
    await stage.submit(count=2)
    await stage.live(120)
    stage.rt.callback_secrets = runtime.callback_secrets
    return stage


async def test_nothing_is_sealed_then_something_and_then_somebody_edits_it(run, stage):
    for arguments in (("verify",), ("key",), ("prove", "1000")):
        assert (await run("audit", *arguments)).code == 4
    await seal.run_once(stage.rt)
    sound = await run("audit", "verify")
    assert sound.code == 0, sound
    assert "rows are as they were sealed" in sound.out
    assert "this machine's own key" in sound.err
    await tamper(stage, "UPDATE transitions SET to_state = 'ERROR' WHERE vm_no = 2 AND seq = 2")
    changed = await run("audit", "verify")
    assert changed.code == 1
    assert ".2 was changed" in changed.out
    assert "the record is NOT as it was sealed" in changed.out
    found = json.loads((await run("audit", "verify", "--json")).out)
    assert not found["sound"]
    assert [one["kind"] for one in found["findings"]] == ["changed"]


async def test_a_proof_goes_to_an_auditor_who_has_the_key_and_no_database(run, stage, tmp_path, monkeypatch):
    await seal.run_once(stage.rt)
    (tmp_path / "auditor.key").write_text((await run("audit", "key")).out)
    vm = await stage.vm()
    made = await run("audit", "prove", str(vm.provider_id), "--out", "vm.json")
    assert made.code == 0, made
    for name in ("DATABASE_URL", "CALLBACK_SECRETS", "DATA_DIR"):
        monkeypatch.delenv(f"ROLLCALL_{name}")
    checked = await run("audit", "check", "vm.json", "--key", "auditor.key")
    assert checked.code == 0, checked
    assert "to_state=ACTIVE" in checked.out
    assert "valid: " in checked.err
    listed = json.loads((await run("audit", "check", "vm.json", "--key", "auditor.key", "--json")).out)
    assert {"transitions", "events"} <= {one["table"] for one in listed}
    text = (tmp_path / "vm.json").read_text()
    (tmp_path / "vm.json").write_text(text.replace("ACTIVE", "ACTIVF"))
    assert (await run("audit", "check", "vm.json", "--key", "auditor.key")).code == 1
    (tmp_path / "vm.json").write_text(text[:500])
    cut = await run("audit", "check", "vm.json", "--key", "auditor.key")
    assert (cut.code, "is cut off" in cut.err) == (1, True)
    for wrong in ((), ("--key", "missing.key"), ("--key", "a+b+c")):
        assert (await run("audit", "check", "vm.json", *wrong)).code == 2


async def test_another_key_does_not_verify_and_a_published_directory_shows_an_end_that_was_cut_off(
    run, stage, tmp_path
):
    stage.rt.settings = stage.rt.settings.model_copy(update={"seal_publish_dir": tmp_path / "published"})
    await seal.run_once(stage.rt)
    key = (await run("audit", "key")).out.strip()
    other = str(keys.signers_of([bytes(32)], key.split("+")[0])[0].key)
    foreign = await run("audit", "verify", "--key", other)
    assert foreign.code == 1
    assert "is not signed by a key that is trusted" in foreign.out
    ((size,),) = await stage.sql("SELECT size FROM logs")
    await stage.submit(count=1)
    await stage.live(70)
    await stage.sql("UPDATE scheduled_jobs SET due_at = '2020-01-01'")
    assert await seal.run_once(stage.rt) > 0
    await tamper(stage, f"DELETE FROM seals WHERE first_leaf >= {size}")
    await tamper(stage, f"DELETE FROM checkpoints WHERE size > {size}")
    await tamper(stage, f"UPDATE logs SET size = {size}")
    (tmp_path / "data/checkpoints/latest.checkpoint").unlink()
    cut = await run("audit", "verify", "--key", key, "--published", "published")
    assert cut.code == 1
    assert "its end was cut off" in cut.out


async def test_a_new_log_is_begun_on_purpose_and_holds_everything(run, stage):
    await seal.run_once(stage.rt)
    before = (await run("audit", "key")).out
    assert (await run("audit", "new-log")).code == 2
    begun = await run("audit", "new-log", "--reason", "restored from a backup")
    assert begun.code == 0, begun
    assert (await run("audit", "key")).out != before
    assert "restored from a backup" in (await run("audit", "key")).err
    await stage.sql("UPDATE scheduled_jobs SET due_at = '2020-01-01'")
    assert await seal.run_once(stage.rt) > 0
    assert (await run("audit", "verify")).code == 0
    ((old, _), _) = await stage.sql("SELECT log_id::text, begun_at FROM logs ORDER BY begun_at, log_id")
    assert (await run("audit", "verify", "--log", old)).code == 0


async def test_a_new_key_is_one_that_the_settings_take(run, monkeypatch):
    printed = await run("audit", "new-key")
    assert printed.code == 0
    monkeypatch.setenv("ROLLCALL_SEAL_KEYS", printed.out.strip())
    assert (await run("audit", "key")).code == 4  # the settings are fine; nothing is sealed
    monkeypatch.setenv("ROLLCALL_SEAL_KEYS", printed.out.strip()[:-1])
    wrong = await run("audit", "key")
    assert (wrong.code, "64 hexadecimal digits" in wrong.err) == (2, True)

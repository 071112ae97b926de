"""The proof of a VM: our code, a verifier that shares none of it, and software of others believe it; nothing else."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from sealing import SealedStage, kinds
from sqlalchemy import text
from stage import Stage
from stored_events import EVENTS, event
from tlog_scales import signing, tlog

from service.audit import bundle, keys, prove
from service.audit.findings import named
from service.audit.leaf import Raw, key_of, leaf_of
from service.audit.merkle import leaf_hash
from service.audit.note import Proof, VerifierKey
from service.errors import NotFound, ProofInvalid
from service.storage import events, leaf_sql, partitions, seals
from service.storage.engine import begin, driver
from service.storage.leaf_sql import SEALED, TIMES
from service.worker import retention, seal

VERIFIER = Path(__file__).parents[2] / "docs" / "verify_proof.py"


async def proved(engine, tmp_path, **changes):
    """A fleet that came up, sealed; the bundle of its first VM and the key that signed."""
    stage = Stage(engine, data_dir=tmp_path, **changes)
    await stage.submit(count=3)
    await stage.live(120)
    await seal.run_once(stage.rt)
    async with begin(engine) as conn:
        log = await seals.newest(conn)
        made = await prove.prove(conn, await stage.vm())
    return stage, made, keys.signers_of(keys.own_keys(stage.rt.settings, stage.rt.callback_secrets), log.origin)[0].key


def judged(text_, *given_keys):
    """What the verifier in docs/ says: its exit code and its output."""
    file = Path(given_keys[0]).parent / "bundle.json"
    file.write_text(text_)
    done = subprocess.run([sys.executable, VERIFIER, file, *given_keys], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


async def test_a_vm_is_proved_to_us_to_the_independent_verifier_and_to_others(engine, tmp_path):
    stage, made, key = await proved(engine, tmp_path)
    found = bundle.check(str(made), [key])
    transitions = [one.row["to_state"] for one in found.rows if one.table == "transitions"]
    assert (transitions[0], transitions[-1]) == ("CREATING", "ACTIVE")
    assert {"events", "transitions", "calls", "call_ends", "actions"} <= {one.table for one in found.rows}
    assert made.unsealed == 0
    (tmp_path / "key").write_text(f"# the log's key\n{key}\n")
    code, said = judged(str(made), str(tmp_path / "key"))
    assert (code, said.splitlines()[-1]) == (0, f"valid: {len(found.rows)} rows")
    theirs = signing.Vkey.from_string(str(key))
    for entry in made.entries:
        proof = Proof.parse(entry.proof)
        checkpoint = tlog.Checkpoint.from_text(proof.note)
        checkpoint.verify(theirs)
        hash_ = leaf_hash(entry.leaf.encode())
        tlog.InclusionProof(proof.index, checkpoint.size, list(proof.path)).check(hash_, checkpoint.root_hash)
    assert stage


async def test_a_bundle_that_was_changed_anywhere_proves_nothing(engine, tmp_path):
    _, made, key = await proved(engine, tmp_path)
    whole, rng = str(made), random.Random(1)
    (tmp_path / "key").write_text(str(key))
    for number in range(300):
        forged = json.loads(whole)
        entry = rng.choice(forged["entries"])
        part = rng.choice(["leaf", "proof"])
        value = entry[part]
        at = rng.randrange(len(value))
        entry[part] = value[:at] + chr((ord(value[at]) - 31) % 94 + 32) + value[at + 1 :]
        with pytest.raises(ProofInvalid):
            bundle.check(json.dumps(forged), [key])
        if number % 50 == 0:
            assert judged(json.dumps(forged), str(tmp_path / "key"))[0] == 1
    for end in range(0, len(whole) - 2, 997):
        with pytest.raises(ProofInvalid):
            bundle.check(whole[:end], [key])


async def test_a_transition_that_was_left_out_and_a_row_of_others_are_found(engine, tmp_path):
    _, made, key = await proved(engine, tmp_path)
    forged = json.loads(str(made))
    forged["entries"] = [one for one in forged["entries"] if '"seq":2,' not in one["leaf"]]
    with pytest.raises(ProofInvalid, match="transition 2 of the VM is left out"):
        bundle.check(json.dumps(forged), [key])
    forged = json.loads(str(made)) | {"vm": {"submission_id": "01900000-0000-7000-8000-000000000009"}}
    with pytest.raises(ProofInvalid, match="another submission"):
        bundle.check(json.dumps(forged), [key])
    with pytest.raises(ProofInvalid, match="no entries"):
        bundle.check(json.dumps(forged | {"entries": []}), [key])


async def test_a_proof_by_another_key_is_not_believed(engine, tmp_path):
    _, made, key = await proved(engine, tmp_path)
    other = keys.signers_of([bytes(32)], key.name)[0].key
    for trusted in ([other], [VerifierKey("another/log", key.public)], []):
        with pytest.raises(ProofInvalid, match="not signed by a key that is trusted"):
            bundle.check(str(made), trusted)
    (tmp_path / "key").write_text(str(other))
    code, said = judged(str(made), str(tmp_path / "key"))
    assert code == 1
    assert "signed by no key that you trust" in said


async def test_what_is_newer_than_the_last_checkpoint_is_counted_and_without_one_nothing_is_proved(engine, tmp_path):
    stage = Stage(engine, data_dir=tmp_path)
    await stage.submit()
    await stage.live(10)
    async with begin(engine) as conn:
        with pytest.raises(NotFound):
            await prove.prove(conn, await stage.vm())
    await seal.run_once(stage.rt)
    ((before,),) = await stage.sql("SELECT count(*) FROM transitions")
    await stage.live(100)
    async with begin(engine) as conn:
        made = await prove.prove(conn, await stage.vm())
    ((after,),) = await stage.sql("SELECT count(*) FROM transitions")
    assert made.unsealed >= after - before > 0


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stored=EVENTS)
async def test_postgres_and_python_write_the_same_leaf(engine, stored):
    async with begin(engine) as conn:
        await events.insert(conn, [stored])
        sql = leaf_sql.of("events")
        columns = ", ".join(f"{name}::text AS {name}" if name == "headers" else name for name in sql.columns)
        row = await (await driver(conn)).fetchrow(
            f"SELECT {columns}, {sql.leaf} AS leaf, {sql.key_text} AS key, {sql.hash} AS hash FROM events WHERE event_id = $1",
            stored.event_id,
        )
        await conn.execute(text("ROLLBACK"))
    values = {name: row[name] for name in sql.columns}
    written = leaf_of("events", values | {"headers": Raw(values["headers"])})
    # As an export has it: JSON, and the headers as an object.
    assert leaf_of("events", values | {"headers": stored.headers}) == written == row["leaf"].encode()
    assert (leaf_hash(written), key_of(sql, values)) == (row["hash"], row["key"])
    assert json.loads(written.partition(b"\n")[2])["headers"] == stored.headers


def test_every_sealed_table_says_when_its_rows_came_to_be_and_has_words():
    assert TIMES.keys() == set(SEALED)
    for table in SEALED:
        key = json.dumps(["x"] * len(leaf_sql.of(table).key))
        assert f"of {table}" not in named(table, key)


@pytest.fixture
def stage(runtime, tmp_path):
    return SealedStage(runtime, tmp_path)


async def test_a_month_that_retention_dropped_leaves_its_hashes_and_raises_no_alarm(stage):
    rt = stage.rt
    january = rt.clock.now().replace(month=1)
    rt.settings = rt.settings.model_copy(update={"events_keep_months": 1, "events_drop": True})
    async with begin(stage.engine) as conn:
        await partitions.make_partitions(conn, now=january, months=4)
        await events.insert(conn, [event(number, received_at=january.replace(minute=number)) for number in range(9)])
        await conn.execute(text("DELETE FROM inbox"))
    assert await retention.run_once(rt) == 2  # December is empty; without a log nothing is promised
    async with begin(stage.engine) as conn:
        await partitions.make_partitions(conn, now=january, months=4)
        await events.insert(conn, [event(number, received_at=january.replace(minute=number)) for number in range(9)])
        await conn.execute(text("DELETE FROM inbox"))
    await stage.record()
    await stage.seal()
    async with begin(stage.engine) as conn:
        late = event(99, received_at=january.replace(day=9))
        await events.insert(conn, [late])
        await conn.execute(text("DELETE FROM inbox"))
    rt.clock.advance(3700)
    assert await retention.run_once(rt) == 0  # one is not sealed yet
    await stage.seal()
    rt.clock.advance(3700)
    assert await retention.run_once(rt) == 1
    await stage.seal()
    report = await stage.verify()
    assert (report.findings, report.dropped) == ([], {"2026-01": 10})
    assert await stage.sql("SELECT count(*) FROM dropped_months") == [(3,)]
    # Somebody else's deletion is none of it.
    await stage.tamper("DELETE FROM events WHERE event_id = (SELECT min(event_id::text)::uuid FROM events)")
    assert kinds(await stage.verify()) == ["removed"]


async def test_a_month_that_is_taken_out_and_not_dropped_yet_is_verified_too(stage):
    february = stage.rt.clock.now().replace(month=2, day=1)
    async with begin(stage.engine) as conn:
        await partitions.make_partitions(conn, now=february, months=3)
        await events.insert(conn, [event(number, received_at=february) for number in range(5)])
        await conn.execute(text("DELETE FROM inbox"))
    await stage.seal()
    async with begin(stage.engine) as conn:
        assert await partitions.take_out(conn, partitions.Month.of(february))
    assert kinds(await stage.verify()) == []
    await stage.tamper(
        "DELETE FROM events_p2026_02 WHERE event_id = (SELECT min(event_id::text)::uuid FROM events_p2026_02)"
    )
    assert kinds(await stage.verify()) == ["removed"]


async def test_keys_are_rotated_one_beside_the_other_and_either_is_enough_to_verify(stage):
    first, second = "11" * 32, "22" * 32

    async def sealed_with(*given_keys):
        stage.rt.settings = type(stage.rt.settings)(
            _env_file=None, **(stage.rt.settings.model_dump() | {"seal_keys": ",".join(given_keys)})
        )
        await stage.record(2)
        return await stage.seal()

    await stage.record()
    await stage.seal()  # by a key that is derived from the callback secrets
    for given_keys in ((first,), (second, first), (second,)):
        assert await sealed_with(*given_keys) > 0
    async with begin(stage.engine) as conn:
        log = await seals.newest(conn)
        assert len(await seals.keys_of(conn, log.log_id)) == 3
    old, new = (keys.signers_of([bytes.fromhex(one)], log.origin)[0].key for one in (first, second))
    for trusted in (old, new):
        report = await stage.verify(keys_=[trusted])
        assert (kinds(report), report.checkpoints) == ([], 4)
    assert set(kinds(await stage.verify(keys_=[keys.signers_of([bytes(32)], log.origin)[0].key]))) == {"key"}
    # A key that comes alone is nobody's.
    assert await sealed_with("33" * 32) == 0
    assert "is none of the log's" in stage.rt.health.issues["sealing stopped"]
    assert await sealed_with(second) > 0
    assert stage.rt.health.issues == {}

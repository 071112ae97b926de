"""The commands against a served API and a real database: what they print and how they end."""

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
from clock import NOON
from command_line import Run, running
from msgspec.structs import replace
from operator_api import TOKEN, Api, body, serving
from postgres import in_a_thread, migrated
from stored_events import REF, event
from structlog.testing import capture_logs

from service.core.ids import FLEET
from service.core.vm import AssignmentStep
from service.lab.demo.stage import free_ports
from service.runtime.runtime import Runtime
from service.storage import assignments, calls, events, submissions
from service.storage.calls import Call, CallEnd
from service.storage.engine import begin
from service.storage.events import DeadLetter, Event


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    return running(capsys)


@pytest.fixture
async def api(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    # The daemon is in this process here, and its log is not what a command prints.
    with capture_logs():
        async with serving(runtime) as api:
            monkeypatch.setenv("ROLLCALL_API_URL", api.url)
            monkeypatch.setenv("ROLLCALL_API_TOKEN", TOKEN)
            yield api


FLAGS = ("--name", "vm", "--environment", "test1", "--flavor", "n3-A100x1", "--image", "Ubuntu", "--key", "example-key")


async def test_submitting_by_flags_prints_the_submission_id_alone_on_standard_output(api: Api, run: Run) -> None:
    ended = await run("submit", *FLAGS, "--count", "3", "--contract", "41", "--floating-ip", "--on-orphan", "delete")
    (made,) = (await api.get("/v1/submissions"))["items"]
    assert ended.code == 0
    assert ended.out == f"{made['submission_id']}\n"
    assert "3 VMs submitted" in ended.err
    assert made["spec"]["assign_floating_ip"] is True
    assert made["spec"]["contract_id"] == 41
    assert made["policy"]["on_orphan"] == "delete"


async def test_submitting_a_file_prints_json_alone_on_standard_output(api: Api, run: Run, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(body(count=2)))
    ended = await run("submit", "-f", str(spec), "--json")
    assert json.loads(ended.out)["count"] == 2
    assert "idempotency key" in ended.err


async def test_a_dry_run_shows_the_calls_and_submits_nothing(api: Api, run: Run) -> None:
    ended = await run("submit", *FLAGS, "--count", "45", "--contract", "41", "--deadline", "2h", "--dry-run")
    assert ended.code == 0
    assert "3: 2 of 20 VMs, 1 of 5" in ended.out
    assert "41: not known how many fit now" not in ended.out  # it could not be read at all
    assert "warning: contract 41 could not be read" in ended.out
    assert (await api.get("/v1/submissions"))["items"] == []


async def test_a_dry_run_is_json_for_programs(api: Api, run: Run) -> None:
    ended = await run("submit", *FLAGS, "--require-contract", "--contract", "41", "--dry-run", "--json")
    assert (ended.code, "contract_id: contract 41 could not be read" in ended.err) == (5, True)
    ended = await run("submit", *FLAGS, "--deadline", "7200", "--dry-run", "--json")
    assert json.loads(ended.out)["policy"]["deadline_seconds"] == 7200


async def test_the_same_key_submits_once(api: Api, run: Run) -> None:
    for _ in range(2):
        assert (await run("submit", *FLAGS, "--idempotency-key", "nightly-7")).code == 0
    conflict = await run("submit", *FLAGS, "--count", "2", "--idempotency-key", "nightly-7")
    assert conflict.code == 5
    assert "another request" in conflict.err
    assert len((await api.get("/v1/submissions"))["items"]) == 1


async def test_a_repeated_key_says_that_nothing_new_was_created(api: Api, run: Run) -> None:
    first = await run("submit", *FLAGS, "--idempotency-key", "nightly-7")
    again = await run("submit", *FLAGS, "--idempotency-key", "nightly-7")
    assert again.out == first.out
    assert f"already submitted: {first.out.strip()}; nothing new was created\n" in again.err
    assert "already submitted" not in first.err


@pytest.mark.parametrize("key", ["", "a\nb", "a\r", "n\u00e4chtlich", "\u591c", "x" * 256])
async def test_a_key_that_cannot_be_sent_is_wrong_usage(api: Api, run: Run, key: str) -> None:
    ended = await run("submit", *FLAGS, "--idempotency-key", key)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("--idempotency-key must have 1 to 255 printable ASCII characters")


async def test_every_mistake_is_printed_on_a_line_of_its_own(api: Api, run: Run) -> None:
    ended = await run("submit", "--name", "vm", "--count", "0", "--on-stuck", "shoot")
    lines = ended.err.splitlines()
    assert ended.code == 5
    for field in ("environment_name", "flavor_name", "key_name", "count", "policy.on_stuck"):
        assert sum(line.startswith(f"{field}: ") for line in lines) == 1, lines


async def test_waiting_ends_with_the_submission(api: Api, run: Run) -> None:
    asked = ("submit", *FLAGS, "--count", "2", "--idempotency-key", "nightly-7")
    await run(*asked)
    (made,) = (await api.get("/v1/submissions"))["items"]
    await api.request("POST", f"/v1/submissions/{made['submission_id']}/cancel")
    ended = await run(*asked, "--wait", "--json")
    assert ended.code == 1
    assert json.loads(ended.out)["state"] == "cancelled"
    assert "cancelled: 0 of 2 ready (2 CANCELLED)" in ended.err
    assert made["submission_id"] in ended.err
    plain = await run(*asked, "--wait")
    assert (plain.code, plain.out) == (1, f"{made['submission_id']}\n")


async def test_listings_are_tables_and_json(api: Api, run: Run) -> None:
    made = await api.submit(count=3)
    for command in ("submissions", "vms", "orphans"):
        listed = json.loads((await run(command, "--json")).out)
        assert len(listed) == {"submissions": 1, "vms": 3, "orphans": 0}[command]
    table = await run("vms", "--submission", made["submission_id"], "--state", "requested")
    assert f"{made['submission_id']}.3" in table.out
    assert (await run("orphans")).out == "no orphans\n"
    cut = await run("vms", "--limit", "2")
    assert "--all" in cut.err
    cut = await run("vms", "--limit", "2", "--json")
    assert len(json.loads(cut.out)) == 2
    assert cut.err == "the first 2; --all shows all of them\n"
    assert len(json.loads((await run("vms", "--all", "--json")).out)) == 3


async def test_json_has_all_items_unless_a_limit_is_given(api: Api, run: Run) -> None:
    await api.submit(count=101)
    everything = await run("vms", "--json")
    assert (len(json.loads(everything.out)), everything.err) == (101, "")
    assert len(json.loads((await run("vms", "--json", "--limit", "3")).out)) == 3
    cut = await run("vms")
    assert len(cut.out.splitlines()) == 101  # a hundred, and the heading
    assert cut.err == "the first 100; --all shows all of them\n"
    assert len((await run("vms", "--all", "--columns", "state,ref")).out.splitlines()) == 102


async def test_submissions_and_vms_are_named_as_people_name_them(api: Api, run: Run) -> None:
    made = await api.submit(name="train", count=2)
    id_ = made["submission_id"]
    for ref in (id_[:13], "train"):
        assert id_ in (await run("submissions", ref)).out
        assert f"{id_}.2" in (await run("vm", f"{ref}.2")).out
        for command in ("vms", "events", "calls", "orphans", "fleet", "off-contract"):
            assert (await run(command, "--submission", ref)).code == 0
        assert len(json.loads((await run("vms", "--submission", ref, "--json")).out)) == 2
    unknown = await run("vms", "--submission", "trian")
    assert (unknown.code, "there is no such submission" in unknown.err) == (4, True)
    await api.submit(name="train")
    ambiguous = await run("cancel", "train", "--yes")
    assert ambiguous.code == 5
    assert f"{id_} (train)" in ambiguous.err


async def test_a_wrong_filter_is_refused_in_our_words_with_near_misses(api: Api, run: Run) -> None:
    assert (await run("vms", "--state", "aktive")).err == 'state: is "AKTIVE"; did you mean ACTIVE?\n'
    assert (await run("submissions", "--state", "x")).err == (
        'state: is "x"; use one of open, ready, failed, cancelled\n'
    )
    refused = await run("vms", "--assignment", "none-of-it")
    assert "Input should be" not in refused.err


async def test_one_of_each_is_shown_in_full(api: Api, run: Run) -> None:
    made = await api.submit(count=1)
    one = await run("submissions", made["submission_id"])
    assert "0 of 1" in one.out
    story = await run("vm", f"{made['submission_id']}.1")
    assert "requested by tests: VM 1 of 1 of vm" in story.out
    known = json.loads((await run("vm", f"{made['submission_id']}.1", "--json")).out)
    assert known["vm"]["state"] == "REQUESTED"
    assert [item["kind"] for item in known["timeline"]] == ["record"]
    assert "REQUESTED" in (await run("fleet")).out
    assert "moves by" in (await run("fleet", "--submission", made["submission_id"])).out


async def test_the_fleet_and_its_vms_are_shown_as_they_were(api: Api, run: Run, runtime: Runtime) -> None:
    made = await api.submit(count=3)
    runtime.clock.advance(3600)
    await api.request("POST", f"/v1/submissions/{made['submission_id']}/cancel")
    now = await run("fleet", "--at", "2026-03-02T14:00+01:00")
    assert "fleet at 2026-03-02 13:00:00Z" in now.out
    assert "3 CANCELLED" in now.out
    assert "3 REQUESTED" in (await run("fleet", "--at", "2026-03-02T12:59Z")).out
    assert json.loads((await run("fleet", "--at", "2026-03-02", "--json")).out)["fleet"]["alive"] == 0
    then = await run("vms", "--at", "2026-03-02T12:30Z", "--state", "requested")
    assert f"{made['submission_id']}.3" in then.out
    assert "2026-03-02 12:00:00Z" in then.out
    assert len(json.loads((await run("vms", "--at", "2026-03-02T12:30Z", "--limit", "2", "--json")).out)) == 2
    assert (await run("vms", "--at", "2026-03-02")).out == "no such VMs at that time\n"


async def test_what_ran_off_contract_is_shown_with_its_total(api: Api, run: Run, runtime: Runtime) -> None:
    made = await api.submit(count=3, contract_id=41)
    note = AssignmentStep(
        submission_id=UUID(made["submission_id"]),
        vm_no=1,
        attempt=0,
        at=runtime.clock.now(),
        step="create",
        outcome="on_demand",
        contract_id=41,
        reason="of a test",
    )
    async with begin(runtime.engine) as conn:
        await assignments.insert(conn, [replace(note, vm_no=vm_no) for vm_no in (1, 2, 3)])
    runtime.clock.advance(3600)
    shown = await run("off-contract", "--since", "2026-03-01", "--limit", "2")
    assert f"{made['submission_id']}.2" in shown.out
    assert f"{made['submission_id']}.3" not in shown.out
    assert "10800 (3.0h)" in shown.out
    assert "--all" in shown.err
    known = json.loads((await run("off-contract", "--until", "2026-03-02T12:30Z", "--all", "--json")).out)
    assert [one["seconds"] for one in known["items"]] == [1800.0] * 3
    assert (known["total"]["seconds"], known["since"]) == (5400.0, None)
    assert "nothing ran off contract" in (await run("off-contract", "--until", "2026-03-02")).out


async def test_the_reasons_of_a_submission_are_part_of_the_answer(api: Api, runtime: Runtime, run: Run) -> None:
    made = await api.submit()
    async with begin(runtime.engine) as conn:
        await submissions.add_reason(conn, UUID(made["submission_id"]), "the provider has no stock")
    ended = await run("submissions", made["submission_id"])
    assert (ended.code, ended.err) == (0, "")
    assert "the provider has no stock\n" in ended.out


async def evidence(runtime: Runtime) -> list[Event]:
    """Events of every kind, and calls with and without an end."""
    told = {"resource": {"id": 507279}, "operation": {"name": "InstanceDeleteSuccess"}, "data": {"status": "DELETED"}}
    heard = [event(0, body=json.dumps(told).encode()), event(1, body=b"\x1b[31m{\xc3\xa9"), event(2, body=b"\xff")]
    key = {name: getattr(heard[1], name) for name in ("submission_id", "received_at", "event_id")}
    begun = [
        Call(submission_id=submission_id, call_id=runtime.uuid(), begun_at=NOON, operation="list", creation_no=number)
        for submission_id, number in ((FLEET, None), (REF.submission_id, 3))
    ]
    end = CallEnd(
        submission_id=FLEET, call_id=begun[0].call_id, outcome="refused", ms=7, error="x " * 40, ended_at=NOON
    )
    async with begin(runtime.engine) as conn:
        await events.insert(conn, heard)
        await events.insert_dead_letters(conn, [DeadLetter(**key, kind="unreadable", reason="not JSON " * 9, at=NOON)])
        await calls.begin(conn, begun)
        await calls.end(conn, [end])
    return heard


async def test_evidence_is_listed_and_one_event_is_shown_whole(api: Api, run: Run, runtime: Runtime) -> None:
    heard = await evidence(runtime)
    listed = json.loads((await run("events", "--json")).out)
    assert [one["event_id"] for one in listed] == [str(one.event_id) for one in reversed(heard)]
    aside = await run("events", "--dead-letter", "any", "--submission", str(REF.submission_id), "--creation", "3")
    assert [line.split()[2] for line in aside.out.splitlines()[1:]] == [str(heard[1].event_id)]
    one = await run("event", str(heard[0].event_id))
    assert heard[0].body.decode() in one.out
    assert "SHA-256" in one.out
    assert "content-type" in one.out
    assert json.loads((await run("event", str(heard[0].event_id), "--json")).out)["event"]["status"] == "DELETED"
    assert "/w==" in (await run("event", str(heard[2].event_id))).out
    assert (await run("event", "0198c0de")).code == 4
    assert (await run("events", "--creation", "3")).code == 5
    assert (await run("events", "--since", "2026-03-03T00:00:00Z")).out == "no such events\n"


async def test_a_body_gives_the_terminal_no_commands(api: Api, run: Run, runtime: Runtime) -> None:
    heard = await evidence(runtime)
    shown = (await run("event", str(heard[1].event_id))).out
    assert "\\x1b[31m{\u00e9" in shown
    assert "\x1b" not in shown


async def test_calls_are_listed_and_those_without_an_end_found(api: Api, run: Run, runtime: Runtime) -> None:
    await evidence(runtime)
    every = (await run("calls")).out
    assert "refused" in every
    assert "no end on record" in every
    (died,) = json.loads((await run("calls", "--outcome", "none", "--json")).out)
    assert died["submission_id"] == str(REF.submission_id)
    assert (await run("calls", "--operation", "create")).out == "no such calls\n"


async def test_an_event_with_control_characters_gives_the_terminal_no_commands(
    api: Api, run: Run, runtime: Runtime
) -> None:
    hostile = {
        "resource": {"id": 507279},
        "operation": {"name": "\x1b]0;x\x07\x9b31m\u202e"},
        "data": {"status": "DELETED"},
    }
    async with begin(runtime.engine) as conn:
        await events.insert(conn, [event(0, body=json.dumps(hostile).encode())])
    id_ = json.loads((await run("events", "--json")).out)[0]["event_id"]
    for command in (("events",), ("events", "--json"), ("event", id_), ("event", id_, "--json")):
        ended = await run(*command)
        assert ended.code == 0
        assert ended.out.replace("\n", "").isprintable(), ended.out
    assert json.loads((await run("events", "--json")).out)[0]["operation"] == hostile["operation"]["name"]


async def test_deleting_goes_on_after_one_that_is_not_there(api: Api, run: Run) -> None:
    made = await api.submit(count=2)
    refs = [f"{made['submission_id']}.{n}" for n in (1, 2)]
    ended = await run("delete", refs[0], "4711", refs[1], "--json", "--yes")
    assert ended.code == 4
    assert [one["desired_state"] for one in json.loads(ended.out)] == ["deleted", "deleted"]
    assert "4711: " in ended.err


class Terminal(io.StringIO):
    """Somebody at a terminal who types this."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("command", [("delete", "4711"), ("delete", "--submission", "x"), ("cancel", "x")])
async def test_without_a_terminal_nothing_is_deleted_unless_yes_is_given(
    api: Api, run: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    ended = await run(*command)
    assert (ended.code, ended.out) == (2, "")
    assert "repeat it with --yes" in ended.err
    assert (await run(*command, "--yes")).code == 4


async def test_on_a_terminal_a_deletion_names_the_vms_and_asks(
    api: Api, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await api.submit(count=3)
    first, second, third = (f"{made['submission_id']}.{n}" for n in (1, 2, 3))
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    unsure = await run("delete", first, "4711", second)
    assert unsure.code == 1
    assert f"{first}  no name yet  REQUESTED\n" in unsure.err
    assert "Delete these 2 VMs?" in unsure.err
    assert {vm["desired_state"] for vm in await api.every("/v1/vms")} == {"present"}
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    sure = await run("delete", first, "4711", second)
    assert (sure.code, "4711: " in sure.err) == (4, True)
    assert [vm["desired_state"] for vm in await api.every("/v1/vms")] == ["deleted", "deleted", "present"]
    monkeypatch.setattr("sys.stdin", Terminal(""))
    assert (await run("delete", third, "--yes")).code == 0


async def test_on_a_terminal_cancelling_says_how_many_vms_are_left(
    api: Api, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await api.submit(count=3)
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    unsure = await run("cancel", made["submission_id"])
    assert unsure.code == 1
    assert "Cancel vm and delete its 3 VMs that have not ended?" in unsure.err
    assert (await run("cancel", made["submission_id"], "--yes")).code == 0
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    again = await run("cancel", made["submission_id"])
    assert again.code == 0
    assert "All VMs of vm have ended." in again.err


async def test_a_submission_is_cancelled_by_either_name(api: Api, run: Run) -> None:
    first, second = await api.submit(), await api.submit()
    assert (await run("cancel", first["submission_id"], "--yes")).code == 0
    assert (await run("delete", "--submission", second["submission_id"], "--yes")).code == 0
    assert {one["state"] for one in (await api.get("/v1/submissions"))["items"]} == {"cancelled"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("vm", "4711"), 4),
        (("submissions", "nonsense"), 4),
        (("vms", "--state", "nonsense"), 5),
        (("delete",), 2),
        (("fleet", "--at", "2027-01-01"), 5),
        (("fleet", "--at", "2026-03-01T12:00"), 2),
        (("off-contract", "--since", "March"), 2),
        (("vms", "--at", "2026-03-01", "--not-ready"), 2),
        (("nonsense",), 2),
        (("--api-token", "a-wrong-token-of-tests", "vms"), 5),
        (("--api-url", "http://127.0.0.1:9", "vms"), 3),
        (("--api-url", "nonsense", "vms"), 2),
    ],
)
async def test_each_failure_has_its_exit_code(api: Api, run: Run, arguments: tuple[str, ...], code: int) -> None:
    ended = await run(*arguments)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err


async def test_a_refused_token_is_named_by_where_it_came_from(
    api: Api, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    option = await run("--api-token", "a-wrong-token-of-tests", "vms")
    assert option.err == f"the API token from --api-token was refused by {api.url}\n"
    monkeypatch.setenv("ROLLCALL_API_TOKEN", "a-wrong-token-of-tests")
    assert "from ROLLCALL_API_TOKEN was refused" in (await run("vms")).err
    monkeypatch.delenv("ROLLCALL_API_TOKEN")
    missing = await run("vms")
    assert missing.code == 5
    assert (
        "none was found: looked in --api-token, ROLLCALL_API_TOKEN, ROLLCALL_API_TOKENS and .data/api-token"
        in missing.err
    )
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "api-token").write_text("a-wrong-token-of-tests\r\n")
    assert (await run("vms")).err == f"the API token from .data/api-token was refused by {api.url}\n"


@pytest.mark.parametrize("token", ["hunter2-of-a-user\r", "hunter2\n", "hunter2 \u00e9", "\u591chunter2"])
async def test_a_token_that_cannot_be_sent_is_wrong_usage_and_never_printed(
    run: Run, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("ROLLCALL_API_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ROLLCALL_API_TOKEN", token)
    ended = await run("vms")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("the API token from ROLLCALL_API_TOKEN has a character that a header cannot carry (U+")
    assert "hunter2" not in ended.err


async def test_wrong_settings_are_listed_one_a_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLCALL_LOG_LEVEL", "loud")
    monkeypatch.setenv("ROLLCALL_CALLBACK_SECRETS", "short")
    ended = await run("vms")
    assert ended.code == 2
    assert sorted(line.split()[0] for line in ended.err.splitlines()) == [
        "ROLLCALL_CALLBACK_SECRETS",
        "ROLLCALL_LOG_LEVEL",
    ]


async def test_a_daemon_that_lacks_settings_says_all_of_them_and_does_not_start(run: Run) -> None:
    ended = await run("serve")
    assert ended.code == 2
    assert [line.split()[0] for line in ended.err.splitlines()] == ["ROLLCALL_INFRAHUB_API_KEY", "ROLLCALL_PUBLIC_URL"]


@pytest.mark.parametrize(
    "arguments", [("--config", "{"), ("--config", '{"nonsense": 1}'), ("--config", "no-such-file"), ("--listen", "x")]
)
async def test_a_simulator_that_cannot_be_made_is_wrong_usage(run: Run, arguments: tuple[str, str]) -> None:
    assert (await run("simulate", *arguments)).code == 2


@pytest.fixture
def given_database(bare_database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ROLLCALL_DATABASE_URL", bare_database_url)
    monkeypatch.setenv("ROLLCALL_CALLBACK_SECRETS", "a secret of thirty-two characters")
    return bare_database_url


async def test_migrate_says_whether_the_database_is_behind(given_database: str, run: Run) -> None:
    behind = await run("migrate", "--check")
    done = await run("migrate")
    again = await run("migrate", "--check")
    assert (behind.code, done.code, again.code) == (1, 0, 0)
    assert "migrated from nothing" in done.err


async def test_looking_whether_a_database_is_behind_makes_none(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROLLCALL_DATA_DIR", str(tmp_path / "data"))
    ended = await run("migrate", "--check")
    assert (ended.code, "there is no database" in ended.err) == (1, True)
    assert not (tmp_path / "data").exists()


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks, provider = free_ports(2)
    monkeypatch.setenv("ROLLCALL_CALLBACK_LISTEN", f"127.0.0.1:{callbacks}")
    monkeypatch.setenv("ROLLCALL_INFRAHUB_URL", f"http://127.0.0.1:{provider}/v1")


@pytest.mark.usefixtures("listening")
async def test_check_says_what_is_missing_where_nothing_is_configured(
    run: Run, given_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROLLCALL_INFRAHUB_URL")
    ended = await run("check", "--json")
    found = {(one["what"], one["state"]): one["found"] for one in json.loads(ended.out)}
    missing = [line for line in ended.out.splitlines() if "is not set" in line]
    assert ended.code == 1
    assert len(missing) == 2
    assert "Postgres" in found["database", "ok"]
    assert ("migrations", "note") in found
    assert ("provider key", "skipped") in found
    assert ("callback URL", "skipped") in found


def below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.usefixtures("listening")
async def test_check_makes_nothing_and_says_what_serve_would_make(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROLLCALL_INFRAHUB_API_KEY", "an-api-key-of-tests")
    monkeypatch.setenv("ROLLCALL_DATA_DIR", str(tmp_path / "a" / "b"))
    before = below(tmp_path)
    ended = await run("check", "--json")
    assert below(tmp_path) == before
    advice = {one["what"]: one["advice"] for one in json.loads(ended.out) if one["state"] == "note"}
    assert advice == {
        "data directory": "nothing: `rollcall serve` makes it",
        "database": "nothing: `rollcall serve` makes an embedded Postgres there",
    }


@pytest.mark.usefixtures("listening")
async def test_check_says_that_the_provider_does_not_answer(
    run: Run, given_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_a_thread(migrated(given_database))
    monkeypatch.setenv("ROLLCALL_INFRAHUB_API_KEY", "an-api-key-of-tests")
    ended = await run("check")
    assert ended.code == 1
    assert "the provider did not answer" in ended.out
    assert "this check answered" in ended.out
    assert "an-api-key-of-tests" not in ended.out + ended.err


async def test_check_notes_the_variables_that_nobody_reads(
    run: Run, given_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROLLCALL_LOOKUP_WINDOW_SECOND", "hunter2")
    ended = await run("check", "--json")
    (noted,) = [one for one in json.loads(ended.out) if (one["what"], one["state"]) == ("settings", "note")]
    assert noted["found"].startswith("ROLLCALL_LOOKUP_WINDOW_SECOND is no setting")
    assert "did you mean ROLLCALL_LOOKUP_WINDOW_SECONDS?" in noted["found"]
    assert "hunter2" not in ended.out + ended.err


async def test_which_daemon_and_which_token_may_stand_in_dotenv(
    api: Api, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ROLLCALL_API_URL")
    monkeypatch.delenv("ROLLCALL_API_TOKEN")
    (tmp_path / ".env").write_text(f"ROLLCALL_API_URL={api.url}\nROLLCALL_API_TOKEN={TOKEN}\nROLLCALL_LOG_LEVEL=loud\n")
    ended = await run("vms")
    assert (ended.code, ended.out) == (0, "no such VMs\n")
    assert (await run("--api-token", "a-wrong-token-of-tests", "vms")).code == 5


@pytest.mark.usefixtures("listening")
async def test_check_shows_the_health_issues_of_the_daemon_that_runs(
    api: Api, runtime: Runtime, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROLLCALL_API_LISTEN", api.url.removeprefix("http://"))
    monkeypatch.setenv("ROLLCALL_API_TOKENS", f"tests={TOKEN}")

    async def of_the_daemon() -> list[tuple[str, str]]:
        found = json.loads((await run("check", "--json")).out)
        return [(one["state"], one["found"]) for one in found if one["what"] == "daemon"]

    assert await of_the_daemon() == [("ok", f"the one at {api.url.removeprefix('http://')} is ready")]
    runtime.health.report("callback flood", "one URL names too many VMs", advisory=True)
    assert await of_the_daemon() == [("note", "callback flood: one URL names too many VMs")]
    runtime.health.report("job refresh", "failed 3 times in a row")
    assert ("failed", "job refresh: failed 3 times in a row") in await of_the_daemon()
    monkeypatch.setenv("ROLLCALL_API_TOKENS", "a-wrong-token-of-tests")
    assert await of_the_daemon() == [("failed", "not ready: which issues it has, it tells only with a token")]
    monkeypatch.setenv("ROLLCALL_API_LISTEN", "127.0.0.1:9")
    assert await of_the_daemon() == [("skipped", "none runs at 127.0.0.1:9")]


async def test_check_with_wrong_settings_lists_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLCALL_LOG_LEVEL", "loud")
    ended = await run("check", "--json")
    assert ended.code == 1
    assert {one["state"] for one in json.loads(ended.out)} == {"failed", "skipped"}

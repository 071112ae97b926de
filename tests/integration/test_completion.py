"""Shell completion as bash asks for it: ids and values, and silence if the daemon cannot be asked."""

import asyncio
import inspect
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import tokens
from operator_api import TOKEN, Api, serving
from stored_events import store_dead_letter
from structlog.testing import capture_logs
from typer.testing import CliRunner

from service.cli import main as commands
from service.cli.completion import ASSIGNMENTS, COMPLETIONS, SUBMISSION_STATES
from service.cli.main import app
from service.core.contract import Assignment
from service.core.submission import SubmissionState
from service.runtime.runtime import Runtime


@pytest.fixture
async def api(runtime: Runtime) -> AsyncIterator[Api]:
    with capture_logs():
        async with serving(runtime) as api:
            yield api


async def completed(line: str, url: str, token: str = TOKEN) -> list[str]:
    """What bash offers for the last word of a line."""
    words = line.split(" ")
    env = {
        "_ROLLCALL_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "ROLLCALL_API_URL": url,
        "ROLLCALL_API_TOKEN": token,
    }
    done = await asyncio.to_thread(CliRunner().invoke, app, [], env=env, prog_name="rollcall")
    assert not done.stderr
    return done.stdout.split()


async def test_submissions_vms_and_what_else_is_on_record_are_completed(api: Api, runtime: Runtime) -> None:
    made = await api.submit(name="train-a", count=2)
    of = made["submission_id"]
    event_id = str(await store_dead_letter(runtime))
    await tokens.created(runtime, "nightly")
    assert await completed(f"rollcall wait {of[:9]}", api.url) == [of]
    assert await completed("rollcall cancel tr", api.url) == ["train-a"]
    assert await completed("rollcall vms --submission tr", api.url) == ["train-a"]
    assert await completed(f"rollcall vm {of[:6]}", api.url) == [f"{of}.1", f"{of}.2"]
    assert await completed("rollcall vm train-a.", api.url) == ["train-a.1", "train-a.2"]
    assert await completed("rollcall delete train-a.1 train-a.", api.url) == ["train-a.1", "train-a.2"]
    assert await completed(f"rollcall replay {event_id[:8]}", api.url) == [event_id]
    assert await completed("rollcall token revoke ni", api.url) == ["nightly"]
    assert await completed("rollcall token create ni", api.url) == []
    assert await completed("rollcall notify test ", api.url) == ["log"]
    assert await completed("rollcall wait no-such", api.url) == []


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("rollcall vms --state ER", ["ERROR"]),
        ("rollcall submissions --state ", list(SUBMISSION_STATES)),
        ("rollcall vms --assignment g", ["given_up"]),
        ("rollcall events --dead-letter un", ["unreadable", "unknown_vm"]),
        ("rollcall submit --on-orphan a", ["adopt"]),
        ("rollcall token create ci --role s", ["submit"]),
        ("rollcall notify list --state d", ["due", "delivered", "dead"]),
    ],
)
async def test_values_are_completed_without_a_daemon(line: str, offered: list[str]) -> None:
    assert await completed(line, "http://127.0.0.1:9") == offered


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "not a url"])
async def test_a_daemon_that_is_away_completes_nothing_and_prints_nothing(url: str) -> None:
    assert await completed("rollcall wait 01", url) == []


async def test_a_refused_token_completes_nothing_and_prints_nothing(api: Api) -> None:
    await api.submit()
    assert await completed("rollcall wait ", api.url, token="a-wrong-token-of-tests") == []


async def test_a_daemon_that_hangs_is_not_waited_for(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.cli.completion._TIMEOUT", 0.05)
    held = asyncio.Event()

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await completed("rollcall wait ", url) == []
    finally:
        held.set()
        server.close()


def test_the_values_are_those_of_the_core() -> None:
    assert list(SUBMISSION_STATES) == list(SubmissionState)
    assert list(ASSIGNMENTS) == list(Assignment)


def test_every_parameter_that_names_a_submission_or_a_vm_is_completed() -> None:
    for name, (command, _) in commands._COMMANDS.items():
        for parameter in inspect.signature(command).parameters.values():
            if parameter.name in {"submission", "ref", "refs", "vm", "state"}:
                (info,) = parameter.annotation.__metadata__
                assert info.autocompletion in COMPLETIONS.values(), (name, parameter.name)


def test_nothing_slow_is_imported_for_it() -> None:
    code = "import sys, service.cli.main; sys.exit('pydantic' in sys.modules or 'aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

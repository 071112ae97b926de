"""SIGTERM ends explore, demo and simulate as Ctrl-C does: what they started is taken down."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from processes import Process, until

STOPPED = 130


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for everything that a command starts, its temporary files included."""
    made = Path(tempfile.mkdtemp(prefix="rollcall-"))
    made.chmod(0o755)  # the embedded Postgres may run as another user
    monkeypatch.setenv("TMPDIR", str(made))
    yield made
    for one in started_in(made):
        with suppress(psutil.NoSuchProcess):
            one.kill()
    shutil.rmtree(made, ignore_errors=True)


def started_in(folder: Path) -> list[psutil.Process]:
    """The living processes that work in a folder or below: every Postgres does, and every part of a command."""
    return [process for process in psutil.process_iter() if works_in(process, folder)]


def postgres_in(folder: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if works_in(process, folder, "postgres")]


def works_in(process: psutil.Process, folder: Path, name: str = "") -> bool:
    try:
        works_here = Path(process.cwd()).is_relative_to(folder) and process.name().startswith(name)
        return works_here and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:  # it has ended, or is not ours to look at
        return False


@pytest.mark.parametrize(
    ("arguments", "enough"),
    [
        # Two workers, each with a Postgres of its own; and one in the command's own process.
        (("explore", "--seeds", "1..4000", "--jobs", "2"), 14),
        (("explore", "--seeds", "1..4000", "--jobs", "1"), 7),
        (("demo",), 7),
        (("demo", "--keep"), 7),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_running(
    folder: Path, arguments: tuple[str, ...], enough: int, number: signal.Signals
) -> None:
    command = Process(folder, "command", *arguments)
    command.launch()
    command.until_up(lambda: len(postgres_in(folder)) >= enough)
    # As `timeout` does: to the command and to its process group.
    command.tell(number)
    os.killpg(command.pid, number)
    assert command.wait() == STOPPED, command.log
    until(lambda: not started_in(folder), "everything that it started has ended")
    assert "Traceback" not in command.log, command.log


def test_a_second_signal_does_not_stop_the_clean_up(folder: Path) -> None:
    command = Process(folder, "command", "explore", "--seeds", "1..4000")
    command.launch()
    command.until_up(lambda: len(postgres_in(folder)) >= 7)
    for _ in range(3):
        command.tell(signal.SIGTERM)
    assert command.wait() == STOPPED, command.log
    until(lambda: not started_in(folder), "everything that it started has ended")


def test_a_simulator_stops_on_sigterm(folder: Path) -> None:
    command = Process(folder, "simulator", "simulate", "--listen", "127.0.0.1:0", "--port-file", str(folder / "port"))
    command.launch()
    command.until_up((folder / "port").exists)
    assert command.stop() == 0

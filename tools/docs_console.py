"""Run the commands of docs/quickstart.md and write what they print into the page; `--check` compares and changes nothing.

    .venv/bin/python tools/docs_console.py [--check]

Every `sh` block runs, in order, in one shell, against a real simulator and a real daemon. A `text` block right after
it holds its output. Ids, times and durations differ between runs, so the comparison replaces them first.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.storage.embedded import EmbeddedPostgres

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "quickstart.md"

#: The folder and the ports of the page. A run uses its own, so that it disturbs nobody.
FOLDER: Final = "/tmp/rollcall-play"  # noqa: S108  the reader's folder, not ours
ADDRESSES: Final = ("127.0.0.1:9090", "127.0.0.1:8080", "127.0.0.1:8081")

#: A run that takes longer has failed. Seconds.
LIMIT: Final = 120.0

_BLOCK = re.compile(r"^```sh\n(?P<commands>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)

#: What differs between two runs, and what stands for it in the comparison. The order matters.
_DIFFERS: Final = (
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UUID"),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?", "TIME"),
    (r"-[0-9a-f]{10}-", "-HEX-"),
    (r"\b(?=[0-9a-f]*\d)[0-9a-f]{8}\b", "HEX"),
    (r"\b\d+(\.\d+)? ?(ms|s|seconds?)\b", "SPAN"),
    (r"\b(198|10)(\.\d+){3}\b", "ADDRESS"),
    (r"\bid \d+|\b507\d{3}\b", "VM"),
    (r"\s+", " "),
)
#: Lines that one run has and another lacks, since they depend on who was faster.
_VARIES: Final = re.compile(r"( SPAN )?open: \d+ of \d+ ready|TIME (get|list) call answered| time to ready |^  so far ")


@dataclass(frozen=True, slots=True)
class Block:
    """Commands, the output that the page shows for them (None: it shows none), and where that stands in the page."""

    commands: str
    output: str | None
    span: tuple[int, int]


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    found = blocks(page)
    outputs = run(found)
    if "--check" in sys.argv[1:]:
        differences = list(compare(found, outputs))
        if differences:
            sys.exit(
                "\n".join([*differences, f"{PAGE.relative_to(ROOT)} is not what the commands print; run: make console"])
            )
        return
    PAGE.write_text(written(page, found, outputs), encoding="utf-8")
    print(PAGE.relative_to(ROOT))


def blocks(page: str) -> list[Block]:
    """The blocks of commands of a page, in order."""
    return [Block(one["commands"], one["output"], one.span("output")) for one in _BLOCK.finditer(page)]


def run(found: Sequence[Block]) -> list[str]:
    """What each block prints, both streams together. Exits with the script's own output if that fails or hangs."""
    with _folder() as folder:
        names = _names(folder)
        script = folder / "script.sh"
        script.write_text(_script(found, folder, names), encoding="utf-8")
        _execute(script, names)
        outputs = [(folder / f"output.{number}").read_text(encoding="utf-8") for number in range(len(found))]
    for on_page, real in names.items():
        outputs = [output.replace(real, on_page) for output in outputs]
    return [_tidy(output) for output in outputs]


def _script(found: Sequence[Block], folder: Path, names: Mapping[str, str]) -> str:
    """All blocks as one script that writes the output of each to a file of its own."""
    lines = [f"mkdir {names[FOLDER]}"]
    for number, block in enumerate(found):
        output, commands = folder / f"output.{number}", block.commands
        for on_page, real in names.items():
            commands = commands.replace(on_page, real)
        lines += [f"exec >{output} 2>&1", commands]
        if block.output is not None and commands.rstrip().endswith("&"):
            # A reader sees what a background command prints before typing the next one.
            lines.append(f"until [ -s {output} ]; do sleep 0.1; done")
    return "\n".join(lines)


def _execute(script: Path, names: Mapping[str, str]) -> None:
    process = subprocess.Popen(
        ["bash", str(script)],  # noqa: S607  the reader's shell, wherever it is
        cwd=ROOT,
        env=_environment(names),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        shown = "".join(path.read_text("utf-8") for path in sorted(script.parent.glob("output.*")))
        sys.exit(f"{shown}\nthe commands of {PAGE.relative_to(ROOT)} took longer than {LIMIT:.0f} s")
    finally:
        with suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(process.pid, signal.SIGTERM)
        database = EmbeddedPostgres(Path(names[FOLDER]) / ".data" / "postgres")
        if (Path(names[FOLDER]) / ".data" / "postgres" / "postmaster.pid").exists():
            database.stop("immediate")


def _environment(names: Mapping[str, str]) -> dict[str, str]:
    # As in a terminal: a make that was started by another one says where it enters and leaves.
    left_out = ("ROLLCALL_", "MAKE", "MFLAGS")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    listeners = {"ROLLCALL_CALLBACK_LISTEN": names[ADDRESSES[1]], "ROLLCALL_API_LISTEN": names[ADDRESSES[2]]}
    return inherited | listeners | {"COLUMNS": "200"}


@contextmanager
def _folder() -> Iterator[Path]:
    # Not below the working directory: a Unix socket's path has 107 characters at most, and the embedded Postgres may
    # run as a user who has to reach it.
    with tempfile.TemporaryDirectory(prefix="rollcall-docs-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def _names(folder: Path) -> dict[str, str]:
    """What stands for the page's folder and addresses in this run."""
    with ExitStack() as stack:
        # All ports are open at once until all are known, so that no two are the same.
        sockets = [stack.enter_context(socket.socket()) for _ in ADDRESSES]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    return {
        FOLDER: str(folder / "play"),
        **{name: f"127.0.0.1:{port}" for name, port in zip(ADDRESSES, ports, strict=True)},
    }


def compare(found: Sequence[Block], outputs: Sequence[str]) -> Iterator[str]:
    """The lines that the page has and the run has not (-), and the other way round (+)."""
    for block, output in zip(found, outputs, strict=True):
        if block.output is None:
            continue
        on_page, real = forms(block.output), forms(output)
        yield from (f"- {line}" for line in (on_page - real).elements())
        yield from (f"+ {line}" for line in (real - on_page).elements())


def forms(output: str) -> Counter[str]:
    """The lines of an output without what differs between runs."""
    lines = []
    for line in output.splitlines():
        form = line.rstrip()
        for pattern, stands_for in _DIFFERS:
            form = re.sub(pattern, stands_for, form)
        if form.strip() and not _VARIES.match(form):
            lines.append(form)
    return Counter(lines)


def written(page: str, found: Sequence[Block], outputs: Sequence[str]) -> str:
    """The page with the outputs of a run."""
    for block, output in reversed(list(zip(found, outputs, strict=True))):
        if block.output is not None:
            begin, end = block.span
            page = page[:begin] + output + page[end:]
    return page


def _tidy(printed: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in printed.strip("\n").splitlines())


if __name__ == "__main__":
    main()

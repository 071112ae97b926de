"""The tools that guard the house: each rule finds what it is there to find, and the drawn pages leave nothing out."""

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from service.config import Settings
from service.core.lifecycle import EXPECTED

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def tool(name):
    spec = importlib.util.spec_from_file_location(f"tools_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


house_rules = tool("house_rules")
diagram = tool("diagram")
settings_reference = tool("settings_reference")
docs_console = tool("docs_console")
DOCSTRING = '"""What is in here."""\n'


def found(name, text):
    return list(house_rules.check(house_rules.File(name, DOCSTRING + text)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("service/core/new.py", "x = 1\n" * 350),
        ("service/core/new.py", "def f():\n" + "    x = 1\n" * 61),
        ("service/worker/new.py", "try:\n    x = 1\nexcept Exception:\n    pass\n"),
        ("service/worker/new.py", "try:\n    x = 1\nexcept (OSError, Exception):\n    pass\n"),
        ("service/worker/new.py", "try:\n    x = 1\nexcept:\n    pass\n"),
        ("service/worker/new.py", "with contextlib.suppress(Exception):\n    x = 1\n"),
        ("service/worker/runner.py", "try:\n    x = 1\nexcept BaseException:\n    pass\n"),
        ("service/worker/new.py", "import os\nx = os.environ\n"),
        ("service/worker/new.py", "from os import getenv\n"),
        ("service/cli/new.py", "x = typer.Option(envvar='X')\n"),
        ("service/worker/new.py", "from sqlalchemy import select\n"),
        ("service/api/new.py", "import asyncpg\n"),
        ("service/api/new.py", "x = 'SELECT 1'\n"),
        ("service/storage/new.py", "x = column.in_(ids)\n"),
        ("service/storage/new.py", "x = column.not_in([*ids])\n"),
        ("service/queries/new.py", "x = column.in_(list(ids))\n"),
        ("service/api/new.py", "from aiohttp import ClientSession\n"),
        ("service/worker/new.py", "import aiohttp\nx = aiohttp.ClientSession()\n"),
        ("service/worker/new.py", "def f():\n    import urllib.request\n"),
        ("service/core/new.py", "from service.storage import vms\n"),
        ("service/core/new.py", "import aiohttp\n"),
        ("service/core/new.py", "import random\n"),
        ("service/core/new.py", "def hear(x): ...\n"),
        ("service/core/new.py", "class EventKeeper: ...\n"),
        ("service/core/new.py", "x.wished_at = 1\n"),
        ("service/core/new.py", "f(quiet_until=1)\n"),
        ("service/worker/new.py", "from x import y as _duties\n"),
        ("service/simulator/new.py", "Misfortune = 1\n"),
        ("service/queries/new.py", "class FleetThen: ...\n"),
        ("migrations/versions/r0002.py", "event_queue = 1\n"),
        ("service/core/heard.py", ""),
        ("tests/unit/test_new.py", "x = 1  # noqa\n"),
        ("tests/unit/test_new.py", "x = 1  # noqa: E501\n"),
        ("service/core/new.py", "x = 1  # type: ignore[attr-defined]\n"),
        ("service/core/new.py", "x = 1  # type: ignore  # since the stubs are wrong\n"),
        ("Makefile", "pip install --index" + "-url https://packages.example.com/simple\n"),
        ("docs/x.md", "see https://registry" + ".example.com/rollcall\n"),
        ("bench/run.py", "x = '/root" + "/project/x'\n"),
    ],
)
def test_what_is_against_the_rules_is_found_once(name, text):
    assert len(found(name, text)) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("service/core/new.py", "# longer than 350 lines because it is one list\n" + "x = 1\n" * 350),
        ("service/worker/runner.py", "try:\n    x = 1\nexcept Exception:\n    pass\n"),
        ("service/config.py", "import os\nx = os.environ\n"),
        ("service/worker/new.py", "from sqlalchemy.ext.asyncio import AsyncConnection\n"),
        ("service/storage/new.py", "from sqlalchemy import select\n"),
        ("service/storage/new.py", "x = column.in_(('a', 'b'))\n"),
        ("service/storage/new.py", "x = column.in_(select(1)) | column.not_in(sorted(ENDED))\n"),
        ("service/api/new.py", "from aiohttp import ClientError, web\n"),
        ("service/core/new.py", "import orjson\nfrom pydantic import BaseModel\nfrom service.core import ids\n"),
        ("service/core/new.py", "x = 1  # noqa: E501  the table reads best whole\n"),
        ("service/core/new.py", "x = 1  # type: ignore[attr-defined]  # any iterable of text\n"),
        ("docs/x.md", "see https://github.com/a/b, and ~/.config\n"),
        (
            "service/core/new.py",
            "outbox = lookup = budget = refresh = 1  # heard, asked, wished: prose is for people\n",
        ),
        ("tests/unit/test_new.py", "heard = 1\n"),
    ],
)
def test_what_the_rules_allow_is_passed_over(name, text):
    assert found(name, text) == []


def twice(*names):
    files = [house_rules.File(name, DOCSTRING + "class Record: ...\n") for name in names]
    return list(house_rules.no_class_name_occurs_twice(files))


def test_a_class_name_that_occurs_twice_is_found_with_both_places():
    (finding,) = twice("service/core/a.py", "service/storage/b.py")
    assert "service/core/a.py:2" in finding
    assert "service/storage/b.py:2" in finding


def test_the_simulator_and_the_tests_may_use_a_class_name_of_the_service():
    assert twice("service/core/a.py", "service/simulator/b.py", "tests/unit/test_c.py", "docs/d.md") == []


def test_a_module_without_a_docstring_is_found_and_a_file_of_tests_is_not():
    assert len(list(house_rules.check(house_rules.File("service/core/new.py", "x = 1\n")))) == 1
    assert list(house_rules.check(house_rules.File("tests/unit/test_new.py", "x = 1\n"))) == []


def test_the_pictures_of_the_lifecycle_hold_every_expected_move_once():
    drawn = Counter(move for picture in diagram.pictures() for move in picture)
    expected = {(before, after) for before, following in EXPECTED.items() for after in following}
    assert drawn == dict.fromkeys(expected, 1)


def test_every_state_has_a_meaning_on_the_page():
    page = diagram.draw()
    for state, meaning in diagram.meanings().items():
        assert f"| **{state}** | {meaning.removeprefix('an end: ')} |" in page


def test_every_setting_is_in_the_reference_once():
    listed = [name for _, names in settings_reference.groups() for name in names]
    assert listed == list(Settings.model_fields)
    page = settings_reference.write()
    assert all(page.count(f"| `ROLLCALL_{name.upper()}` |") == 1 for name in listed)
    assert "ROLLCALL_API_TOKEN` |" in page


PAGE = """\
```sh
rollcall submit --wait
```

```text
{}
```

```sh
no output shown
```
"""
PRINTED = "key 0966733a-5f79-4cb9-beaa-ab496ba3f1c3\nopen: 0 of 5 ready (5 REQUESTED)\n2026-11-23 14:43:41.532  took 7 ms  507279"


def differences(on_page, printed):
    return list(docs_console.compare(docs_console.blocks(PAGE.format(on_page)), [printed, "something"]))


def test_ids_times_durations_and_progress_may_differ_between_a_page_and_a_run():
    another = "key 1966733a-5f79-4cb9-beaa-ab496ba3f1c3\n2026-11-24 01:02:03.004    took 71 ms  507280"
    assert differences(PRINTED, another) == []


@pytest.mark.parametrize("printed", ["", PRINTED + "\none more", PRINTED.replace("took", "lasted")])
def test_a_page_that_shows_other_lines_than_a_run_is_found(printed):
    assert differences(PRINTED, printed)


def test_a_page_written_from_a_run_equals_that_run():
    found = docs_console.blocks(PAGE.format("old"))
    page = docs_console.written(PAGE.format("old"), found, [f"{PRINTED}\n", "something"])
    assert page == PAGE.format(PRINTED)


def test_what_make_starts_keeps_what_python_compiles_also_where_the_environment_forbids_it(tmp_path):
    shows = tmp_path / "shows.mk"
    shows.write_text("show:\n\t@env\n")
    forbidden = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    makefiles = ["-f", "Makefile", "-f", str(shows)]
    done = subprocess.run(
        ["make", "-s", *makefiles, "show"], cwd=TOOLS.parent, env=forbidden, capture_output=True, text=True, check=True
    )
    assert "PATH=" in done.stdout
    assert "PYTHONDONTWRITEBYTECODE" not in done.stdout


def in_memory(environment: dict[str, str]) -> tuple[int, Path]:
    """The exit code of a command that writes a file, and where it wrote it."""
    script = 'file=$(mktemp) && echo "$file" && exit 3'
    command = ["bash", TOOLS / "in_memory.sh", "bash", "-c", script]
    ran = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    return ran.returncode, Path(ran.stdout.strip())


def test_temporary_files_are_where_there_is_room_and_gone_at_the_end(tmp_path):
    path = {"PATH": os.environ["PATH"]}
    code, file = in_memory(path)
    assert (code, file.is_file()) == (3, not file.is_relative_to("/dev/shm"))
    file.unlink(missing_ok=True)
    code, file = in_memory({**path, "TMPDIR": str(tmp_path)})
    assert (code, file.parent, file.is_file()) == (3, tmp_path, True)

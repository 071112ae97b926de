"""What `core` may know: no clock, no chance, no network, no disk, no other room."""

import ast
import sys
from pathlib import Path

import pytest

import service.core
from service import errors, notify_rules

CORE = Path(service.core.__file__).parent
MODULES = [*sorted(CORE.glob("*.py")), Path(notify_rules.__file__)]

#: Beside the standard library: what reads data, the errors, and the rules of notifications, which are as pure.
ALLOWED = {"pydantic", "pydantic_core", "orjson", "msgspec", "service.core", "service.errors", "service.notify_rules"}
#: Of the standard library: what would bring in time, chance, the outside world or other threads.
IMPURE = {
    "asyncio", "http", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "shutil",
    "signal", "socket", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib.request",
}  # fmt: skip
#: Names that would ask a clock or roll dice, or look outside, without an import that shows it.
ASKING = {"now", "utcnow", "today", "uuid1", "uuid4", "uuid7", "open", "input", "print", "exec", "eval"}


def imported(module: Path) -> set[str]:
    tree = ast.parse(module.read_text())
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    from_ = {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return plain | from_


def calls(module: Path) -> set[str]:
    tree = ast.parse(module.read_text())
    functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in functions}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_core_imports_only_what_it_may(module):
    for name in imported(module):
        top = name.partition(".")[0]
        ours = any(name == allowed or name.startswith(f"{allowed}.") for allowed in ALLOWED)
        assert ours or top in sys.stdlib_module_names, name
        assert name not in IMPURE
        assert top not in IMPURE - {"http", "urllib.request"}, name


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_core_asks_no_clock_rolls_no_dice_and_opens_nothing(module):
    # `uuid7` is a function of core's own, whose time and chance are arguments.
    assert not calls(module) & (ASKING - ({"uuid7"} if module.stem == "ids" else set()))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_nothing_in_core_waits(module):
    tree = ast.parse(module.read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.Global)]


def test_the_errors_import_nothing_of_ours():
    assert not {name for name in imported(Path(errors.__file__)) if name.startswith("service")}

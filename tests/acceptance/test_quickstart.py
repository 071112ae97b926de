import importlib.util
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "docs_console.py"
_SPEC = importlib.util.spec_from_file_location("tools_docs_console", TOOL)
console = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = console  # dataclasses look their module up
_SPEC.loader.exec_module(console)


def test_the_quickstart_shows_what_its_commands_print():
    found = console.blocks(console.PAGE.read_text(encoding="utf-8"))
    assert list(console.compare(found, console.run(found))) == []

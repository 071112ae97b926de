"""Write docs/reference/settings.md from service/config.py; `--check` only says whether it is current."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from service import config
from service.cli.main import app
from service.config import PREFIX, SECRETS, Settings

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "settings.md"

#: Descriptions of the settings that have none in the code.
PLAIN = {
    "create_timeout": "how long a create call may take before it counts as unconfirmed",
    "call_timeout": "how long any other call may take",
    "reassign_method": "the method of the call that `ROLLCALL_REASSIGN_PATH` names",
    "log_level": "the lowest level that is logged",
    "log_format": "JSON lines for machines, or text for a terminal",
}

#: How pydantic's bounds read.
_BOUNDS = {"ge": "at least {}", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}

_HEAD = """\
<!-- Written by `make settings` from service/config.py. Change that file, not this one. -->

# Settings

Each setting is an environment variable, or a line of a file `.env` in the folder where you run the command. The
environment wins. Times are in seconds, sizes in bytes. `rollcall check` lists everything that is wrong, and
`rollcall serve` does not start if anything is. For a variable that begins with `{prefix}` and is not one of
these, `check` has a note and `serve` logs a warning, with the name you probably meant. A `~` at the beginning of a
folder is the home directory.

{secrets}

A daemon needs `{prefix}INFRAHUB_API_KEY` and `{prefix}PUBLIC_URL`. If you set `{prefix}DATABASE_URL`, set
`{prefix}CALLBACK_SECRETS` too, since all daemons on a database must have the same. Otherwise Rollcall creates the database
and the secrets in the data directory.

Traces are set up by the variables of OpenTelemetry, `OTEL_…`: [how to](../howto/traces.md).
"""

_SECRETS = (
    "A secret may be in a file: set the same name with `_FILE` appended to the file's path, instead of the secret. This "
    "works for {}."
)


def main() -> None:
    page = write()
    if "--check" not in sys.argv[1:]:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page, encoding="utf-8")
        print(PAGE.relative_to(ROOT))
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        sys.exit(f"{PAGE.relative_to(ROOT)} is not what service/config.py says; run: make settings")


def write() -> str:
    """The whole page."""
    secrets = _SECRETS.format(", ".join(f"`{_variable(name)}`" for name in SECRETS))
    parts = [_HEAD.format(secrets=textwrap.fill(secrets, 118, break_on_hyphens=False), prefix=PREFIX)]
    for title, names in groups():
        parts += [f"## {title}\n", "| variable | default | what it is |\n| --- | --- | --- |"]
        parts += [_row(name, Settings.model_fields[name]) for name in names]
        parts.append("")
    parts += [
        "## For commands that call a daemon\n",
        "| variable | what it is |\n| --- | --- |",
        *_of_commands(),
        "",
    ]
    return "\n".join(parts)


def groups() -> Iterator[tuple[str, list[str]]]:
    """The settings in their order, under the comments that stand above them in the code."""
    source = inspect.getsource(config).splitlines()
    whole = next(n for n in ast.parse("\n".join(source)).body if isinstance(n, ast.ClassDef) and n.name == "Settings")
    title, names = "", list[str]()
    for node in whole.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        above = source[node.lineno - 2].strip()
        if above.startswith("# "):
            if names:
                yield title, names
            title, names = above.removeprefix("# ").rstrip("."), []
        names.append(node.target.id)
    yield title, names


def _row(name: str, field: FieldInfo) -> str:
    said = field.description or PLAIN[name]
    return f"| `{_variable(name)}` | {_default(field)} | {'; '.join([said, *_limits(field)])} |"


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _default(field: FieldInfo) -> str:
    if field.default is None or field.default == ():
        return "unset"
    if isinstance(field.default, float):
        return f"`{field.default:g}`"
    return f"`{field.default}`"


def _limits(field: FieldInfo) -> Iterator[str]:
    if get_origin(field.annotation) is Literal:
        yield "one of " + ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    for bound in field.metadata:
        for name, words in _BOUNDS.items():
            limit: Any = getattr(bound, name, None)
            # That a time must be more than 0 need not be said.
            if limit not in {None, 0}:
                yield words.format(f"{limit:g}" if isinstance(limit, float) else limit)


def _of_commands() -> Iterator[str]:
    for parameter in typer.main.get_command(app).params:
        if parameter.envvar:
            yield f"| `{parameter.envvar}` | {getattr(parameter, 'help', '')} |"


if __name__ == "__main__":
    main()

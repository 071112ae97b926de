"""Draw docs/lifecycle.md and docs/contract-states.md from the tables in service/core/; `--check` only says whether they are current."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from types import ModuleType

from service.core import assignment, contract, lifecycle
from service.core.assignment import MOVES, AssignmentEvent
from service.core.contract import Assignment
from service.core.lifecycle import ALLOWED, CORROBORATED, ENDED, EXPECTED, NEWBORN, TRANSIENT, Operation, VmState

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "lifecycle.md"
CONTRACT_PAGE = ROOT / "docs" / "contract-states.md"

#: The meaning of states that have no comment in the code.
PLAIN = {
    VmState.STARTING: "on its way from SHUTOFF to ACTIVE",
    VmState.STOPPING: "on its way to SHUTOFF",
    VmState.REBOOTING: "on its way back to ACTIVE",
    VmState.HIBERNATING: "on its way to HIBERNATED",
    VmState.HIBERNATED: "billed for its storage and its reserved address only",
    VmState.RESTORING: "on its way from HIBERNATED to ACTIVE",
    VmState.DELETING: "on its way to DELETED",
}

#: Moves from and to these would cross every other arrow, so they have a picture of their own.
_CROSSING = frozenset({VmState.ERROR, VmState.DELETING})

Moves = list[tuple[VmState, VmState]]

_HEAD = """\
<!-- Drawn by `make diagram` from service/core/lifecycle.py. Change that file, not this one. -->

# The lifecycle of a VM

Every VM in the record is in one of the states below. The tables `EXPECTED` and `ALLOWED` in
`service/core/lifecycle.py` are the whole state machine. This page is drawn from them, and `make check` fails if it
is not current.

## What moves a VM

- **A callback** moves a VM along the arrows only. Anyone who knows the URL could have sent it, and it may be late,
  repeated or out of order. If it claims anything else, Rollcall records that as *unexpected*, shows it in the
  timeline, and asks the provider. If it names {newborn} and the VM is past that state, it is late and
  moves nothing.
- **A refresh** is read from the provider. It moves a VM to any state, unless something newer has arrived meanwhile.
- **No callback alone** moves a VM to {corroborated}: nothing leads back from there, so Rollcall asks the provider first.
- **Rollcall** itself moves a VM to {ours}: after a refused create call, or if it decides not to send one. It
  moves an [imported](howto/importing.md) VM from any state to RELEASED when somebody releases it.
- **Nothing leaves** {ended}. LOST is not an end: a refresh that finds the VM again corrects it.
- A VM that the provider no longer knows becomes DELETED if we or the provider announced its end, and LOST if nobody
  did. No arrow leads to LOST, since no callback can say it.
- If a VM stays in a transient state for longer than `ROLLCALL_OVERDUE_SECONDS`, Rollcall refreshes it. So a lost callback
  only costs time.

## The pictures

Each expected move is in exactly one of the three. A dot is a beginning or an end. No callback can take an arrow that
has words on it.
"""

_NOT_BY_CALLBACK = {
    **dict.fromkeys(CORROBORATED, " : confirmed by a refresh"),
    VmState.REFUSED: " : the provider refused",
    VmState.CANCELLED: " : cancelled",
}


_CONTRACT_HEAD = """\
<!-- Drawn by `make diagram` from service/core/assignment.py. Change that file, not this one. -->

# The state of a VM's contract

Besides its [state in the lifecycle](lifecycle.md), every VM has a state of its contract: `assignment`. The table `MOVES` in
`service/core/assignment.py` is the whole machine. This page is drawn from it, and `make check` fails if it is not current.
An event that a state does not list changes nothing. What is done while a VM is `retrying`:
[contracts and policies](howto/contracts-and-policies.md).
"""


def main() -> None:
    pages = {PAGE: draw(), CONTRACT_PAGE: draw_contract()}
    for path, page in pages.items():
        if "--check" not in sys.argv[1:]:
            path.write_text(page, encoding="utf-8")
            print(path.relative_to(ROOT))
        elif not path.exists() or path.read_text(encoding="utf-8") != page:
            sys.exit(f"{path.relative_to(ROOT)} is not current; run: make diagram")


def draw_contract() -> str:
    """The page of a contract's states."""
    arrows = [
        f"    {before} --> {after} : {event}" for before, moves in MOVES.items() for event, after in moves.items()
    ]
    picture = ["```mermaid\nstateDiagram-v2", f"    [*] --> {Assignment.NONE}", f"    [*] --> {Assignment.WANTED}"]
    states = [(f"**{state}**", text) for state, text in _notes(contract, Assignment)]
    events = [(f"**{event}**", text) for event, text in _notes(assignment, AssignmentEvent)]
    parts = [
        _CONTRACT_HEAD,
        *picture,
        *arrows,
        "```\n\n## The states\n",
        _table(("state", "means"), states),
        "## The events\n",
        _table(("event", "means"), events),
    ]
    return "\n".join(parts)


def _notes(module: ModuleType, kind: type[StrEnum]) -> list[tuple[str, str]]:
    """The members of an enum with their comments. Raises KeyError if one has none."""
    source = Path(module.__file__ or "").read_text(encoding="utf-8")
    enum = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == kind.__name__)
    lines = source.splitlines()[enum.lineno : enum.end_lineno]
    noted = {found[1]: found[2] for line in lines if (found := re.match(r"\s+([A-Z_]+) = .*#: (.+)", line))}
    return [(member.value, noted[member.name]) for member in kind]


def draw() -> str:
    """The whole page."""
    up, running, crossing = pictures()
    parts = [
        _HEAD.format(
            newborn=_listed(NEWBORN),
            corroborated=_listed(CORROBORATED),
            ours=_listed(_NOT_BY_CALLBACK.keys() - CORROBORATED),
            ended=_listed(ENDED),
        ),
        *_picture("From request to running", up, begins=True),
        *_picture("While it exists", running),
        *_picture("Failing and deleting", crossing),
        "## The states\n",
        _states(),
        "## Operations\n",
        _operations(),
    ]
    return "\n".join(parts)


def pictures() -> tuple[Moves, Moves, Moves]:
    """Every expected move once: of creating, of running, and of failing and deleting."""
    up, running, crossing = Moves(), Moves(), Moves()
    for before in VmState:
        for after in _ordered(EXPECTED[before]):
            if _CROSSING & {before, after}:
                crossing.append((before, after))
            elif before in NEWBORN:
                up.append((before, after))
            else:
                running.append((before, after))
    return up, running, crossing


def meanings() -> dict[VmState, str]:
    """One line for each state: its comment in the code, or the line here. Raises KeyError if there is neither."""
    noted = dict(_comments())
    return {state: noted.get(state) or PLAIN[state] for state in VmState}


def _comments() -> Iterator[tuple[VmState, str]]:
    source = Path(lifecycle.__file__).read_text(encoding="utf-8")
    lines = source.splitlines()
    enum = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == VmState.__name__)
    for line in lines[enum.lineno : enum.end_lineno]:
        found = re.match(r"\s+([A-Z]+) = .*#: (.+)", line)
        if found:
            yield VmState[found[1]], found[2]


def _picture(title: str, moves: Moves, *, begins: bool = False) -> Iterator[str]:
    yield f"### {title}\n\n```mermaid\nstateDiagram-v2"
    if begins:
        yield f"    [*] --> {next(iter(VmState))}"
    for before, after in moves:
        yield f"    {before} --> {after}{_NOT_BY_CALLBACK.get(after, '')}"
    for state in _ordered({after for _, after in moves} & ENDED):
        yield f"    {state} --> [*]"
    yield "```\n"


def _states() -> str:
    rows = []
    for state, meaning in meanings().items():
        kind = "end" if state in ENDED else "transient" if state in TRANSIENT else ""
        # The column `kind` says it already.
        rows.append((f"**{state}**", meaning.removeprefix("an end: "), kind, _listed(EXPECTED[state])))
    return _table(("state", "means", "kind", "expected next"), rows)


def _operations() -> str:
    rows = [(f"**{operation}**", _listed(s for s in VmState if operation in ALLOWED[s])) for operation in Operation]
    waiting = _listed(state for state in VmState if not ALLOWED[state] and state not in ENDED)
    note = f"In {waiting} no operation is allowed: a deletion waits until the state allows it.\n"
    return _table(("operation", "allowed in"), rows) + "\n" + note


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cell or ' ' for cell in line)} |\n" for line in lines)


def _ordered(states: Iterable[VmState]) -> list[VmState]:
    known = set(states)
    return [state for state in VmState if state in known]


def _listed(states: Iterable[VmState]) -> str:
    return ", ".join(_ordered(states))


if __name__ == "__main__":
    main()

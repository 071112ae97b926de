"""Draw docs/lifecycle.md from the tables of service/core/lifecycle.py; `--check` only says whether it is current."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from service.core import lifecycle
from service.core.lifecycle import ALLOWED, CORROBORATED, ENDED, EXPECTED, NEWBORN, TRANSIENT, Operation, VmState

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "lifecycle.md"

#: The states that go without a comment in the code, because the word says it all there. A page has more room.
PLAIN = {
    VmState.STARTING: "on its way from SHUTOFF to ACTIVE",
    VmState.STOPPING: "on its way to SHUTOFF",
    VmState.REBOOTING: "on its way back to ACTIVE",
    VmState.HIBERNATING: "on its way to HIBERNATED",
    VmState.HIBERNATED: "put away: billed for its storage and a kept address only",
    VmState.RESTORING: "on its way from HIBERNATED to ACTIVE",
    VmState.DELETING: "on its way to DELETED",
}

#: Moves from and to these would cross every other arrow, so they have a picture of their own.
_CROSSING = frozenset({VmState.ERROR, VmState.DELETING})

Moves = list[tuple[VmState, VmState]]

_HEAD = """\
<!-- Drawn by `make diagram` from service/core/lifecycle.py. Change that file, not this one. -->

# The life of a VM

Every VM in the record is in one of the states below. The tables `EXPECTED` and `ALLOWED` in
`service/core/lifecycle.py` are the whole machine: the pictures and tables here are drawn from them, and
`make check` fails when they are no longer the same.

## What moves the record

- **A callback** moves it along the arrows and nowhere else. Anyone who learned the URL could have sent it, it
  may be late, repeated or out of order, so whatever it says beyond the arrows is a *surprise*: kept, shown in
  the VM's timeline, and answered by asking the provider. One that names {newborn}
  for a VM which is past that is merely late, and moves nothing.
- **A reading** is the provider speaking for itself and moves the record anywhere, arrow or not, unless
  something newer has been heard meanwhile.
- **No callback alone** brings about {corroborated}: the record could not come back from there, so the provider is
  asked first.
- **We** bring about {ours}: the provider's refusal of a create call, and our own
  decision not to send one.
- **Nothing leaves** {ended}. LOST is no end: a reading that finds the VM again mends it.
- A VM that the provider no longer knows becomes DELETED where its end was foretold, by us or by the provider,
  and LOST where it was not. No arrow leads to LOST, since no callback can say it.
- A VM that stays in a passing state for longer than `ROLLCALL_OVERDUE_SECONDS` is read, so that a lost
  callback costs time and nothing else.

## The pictures

Every move of `EXPECTED` is in exactly one of the three. A dot is a beginning or an end. An arrow with words on it is
one that no callback takes the record along.
"""

_NOT_BY_CALLBACK = {
    **dict.fromkeys(CORROBORATED, " : confirmed by a reading"),
    VmState.REFUSED: " : the provider said no",
    VmState.CANCELLED: " : withdrawn by us",
}


def main() -> None:
    page = draw()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page, encoding="utf-8")
        print(PAGE.relative_to(ROOT))
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        sys.exit(f"{PAGE.relative_to(ROOT)} is not what the lifecycle's tables say; run: make diagram")


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
        *_picture("From asked for to running", up, begins=True),
        *_picture("While it is there", running),
        *_picture("Failing and going", crossing),
        "## The states\n",
        _states(),
        "## What may be asked of the provider\n",
        _operations(),
    ]
    return "\n".join(parts)


def pictures() -> tuple[Moves, Moves, Moves]:
    """Every expected move once: of a VM's first minutes, of its middle years, and of failing and going."""
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
    """One line for each state: its comment in the code, or the line here. Raises where there is neither."""
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
        kind = "an end" if state in ENDED else "passing" if state in TRANSIENT else ""
        # What a state is called at the head of its comment need not be said again in a column of its own.
        rows.append((f"**{state}**", meaning.removeprefix("an end: "), kind, _listed(EXPECTED[state])))
    return _table(("state", "means", "kind", "ordinarily followed by"), rows)


def _operations() -> str:
    rows = [(f"**{operation}**", _listed(s for s in VmState if operation in ALLOWED[s])) for operation in Operation]
    waiting = _listed(state for state in VmState if not ALLOWED[state] and state not in ENDED)
    note = f"In {waiting} nothing may be asked: a wish stays on record until the state allows it, or has come true.\n"
    return _table(("operation", "in the states"), rows) + "\n" + note


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

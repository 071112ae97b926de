"""What the demo shows while it runs and when it is over. It asks nothing and decides nothing."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from service.cli.output import counts, facts, say, span

Shown = Mapping[str, Any]

_EVERY: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """The fleet at one moment: how it is recorded, and what the simulator knows of its callbacks and calls."""

    seconds: float
    submission: Shown
    records: Sequence[Shown]
    stats: Shown
    act: str

    def lines(self) -> list[tuple[str, str]]:
        members = [one for one in self.records if one["member"]]
        assignments = Counter(one["assignment"].replace("_", " ") for one in members)
        replacing = sum(one["replaces"] is not None and not one["member"] for one in self.records)
        return [
            ("act", self.act),
            ("seconds", f"{self.seconds:.0f}"),
            ("ready", f"{self.submission['ready']} of {self.submission['count']}"),
            ("states", counts(self.submission["counts"])),
            ("contract", counts(dict(sorted(assignments.items())))),
            ("replacements under way", str(replacing)),
            ("callbacks", counts(_sorted(self.stats["deliveries_by_fate"]))),
            ("done to callbacks", counts(_sorted(self.stats["callbacks_by_fault"]))),
            ("calls to the provider", str(self.stats["calls"])),
        ]


@contextmanager
def progress() -> Iterator[Callable[[Glance], None]]:
    """A function that shows a glance: a live table on a terminal, now and then a line elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines().show
        return
    from rich.console import Console  # noqa: PLC0415  not needed without a terminal
    from rich.live import Live  # noqa: PLC0415  as above
    from rich.table import Table  # noqa: PLC0415  as above

    def table(glance: Glance) -> Table:
        grid = Table.grid(padding=(0, 2))
        for name, text in glance.lines():
            grid.add_row(name, text)
        return grid

    with Live(console=Console(stderr=True, highlight=False), refresh_per_second=8) as live:
        yield lambda glance: live.update(table(glance))


class _Lines:
    """For pipes and logs: a line when something changed, and not too often."""

    def __init__(self) -> None:
        self._told = ""
        self._at = -_EVERY

    def show(self, glance: Glance) -> None:
        known = dict(glance.lines())
        text = f"{known['act']}: {known['ready']} ready; {known['states']}; {known['contract']}"
        if text != self._told and glance.seconds >= self._at + _EVERY:
            say(f"{glance.seconds:5.1f} s  {text}")
            self._told, self._at = text, glance.seconds


def summary(glance: Glance, fleet: Shown, evidence_counts: Shown, deliveries: Sequence[Shown]) -> None:
    """What was asked for, what became of it, and in spite of what."""
    members = [one for one in glance.records if one["member"]]
    ready_in = fleet["seconds_to_ready"]
    readings = evidence_counts["moves"].get("observation", 0)
    facts(
        "summary",
        {
            "asked": f"{glance.submission['count']} VMs, all on the contract",
            "ready": sum(one["ready"] for one in members),
            "on contract": sum(one["contract_id"] is not None for one in members),
            "on demand": sum(one["contract_id"] is None for one in members),
            "replaced": sum(one["replaced_by"] is not None for one in glance.records),
            "callbacks due": _with_fault(deliveries, None),
            "of them lost": _with_fault(deliveries, "lost"),
            "repeated": _with_fault(deliveries, "repeated"),
            "out of order": _with_fault(deliveries, "reordered"),
            "deliveries kept": "{count}, {repeated} of them copies".format_map(evidence_counts["events"]["callback"]),
            "moved by": counts(_named(evidence_counts["moves"])),
            "what made up for it": f"{readings} changes of state that no callback told were found by readings",
            "calls to the provider": glance.stats["calls"],
            "time to ready": ", ".join(f"{name} {span(seconds)}" for name, seconds in ready_in.items() if seconds),
            "took": f"{glance.seconds:.0f} s",
        },
    )


def _with_fault(deliveries: Sequence[Shown], fault: str | None) -> int:
    """How many callbacks suffered a fault, copies of one counted as one."""
    return len({(one["vm_id"], one["body"]) for one in deliveries if fault is None or fault in one["faults"]})


def worth_telling(records: Sequence[Shown]) -> Shown:
    """The VM with the most to tell: one that took another's place, or else one that runs on demand, or any."""
    members = [one for one in records if one["member"]]
    replaced = [one for one in members if one["replaces"] is not None]
    on_demand = [one for one in members if one["contract_id"] is None]
    return (replaced or on_demand or members)[0]


def _named(moves: Mapping[str, int]) -> dict[str, int]:
    words = {"event": "callbacks", "observation": "readings", "answer": "answers", "decision": "decisions"}
    return {words.get(name, name): number for name, number in moves.items()}


def _sorted(numbers: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(numbers.items()))

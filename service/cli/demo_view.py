"""What the demo shows while it runs and at its end. It fits a terminal of 80 columns and 24 lines."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from service.cli.output import counts, facts, say, span
from service.lab.demo.play import Snapshot

Json = Mapping[str, Any]

_EVERY: Final = 2.0


def lines(snapshot: Snapshot) -> list[tuple[str, str]]:
    """How far the fleet is, as names and values."""
    assignments = Counter(one["assignment"].replace("_", " ") for one in snapshot.members)
    replacing = sum(one["replaces"] is not None and not one["member"] for one in snapshot.records)
    return [
        ("waiting for", snapshot.waiting_for),
        ("seconds", f"{snapshot.seconds:.0f}"),
        ("ready", f"{snapshot.submission['ready']} of {snapshot.submission['count']}"),
        ("states", counts(snapshot.submission["counts"])),
        ("contract", f"room for {snapshot.room}; {counts(_sorted(assignments))}"),
        ("replacing", str(replacing)),
        ("callbacks", counts(_sorted(snapshot.stats["deliveries_by_fate"]))),
        ("faults", counts(_sorted(snapshot.stats["callbacks_by_fault"]))),
        ("provider calls", str(snapshot.stats["calls"])),
    ]


@contextmanager
def progress() -> Iterator[Callable[[Snapshot], None]]:
    """A function that shows a snapshot: a live table on a terminal, now and then a line elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines().show
        return
    from rich.console import Console  # noqa: PLC0415  not needed without a terminal
    from rich.live import Live  # noqa: PLC0415  as above
    from rich.table import Table  # noqa: PLC0415  as above
    from rich.text import Text  # noqa: PLC0415  as above

    def table(snapshot: Snapshot) -> Table:
        grid = Table.grid(padding=(0, 2))
        for name, text in lines(snapshot):
            grid.add_row(name, Text(text, no_wrap=True, overflow="ellipsis"))
        return grid

    # Transient: the summary takes its place, so that the whole demo stays on one screen.
    with Live(console=Console(stderr=True, highlight=False), refresh_per_second=8, transient=True) as live:
        yield lambda snapshot: live.update(table(snapshot))


class _Lines:
    """For pipes and logs: a line when something changed, at most every two seconds."""

    def __init__(self) -> None:
        self._last = ""
        self._at = -_EVERY

    def show(self, snapshot: Snapshot) -> None:
        known = dict(lines(snapshot))
        text = f"{known['ready']} ready; {known['states']}; {known['contract']}; waiting for {known['waiting for']}"
        if text != self._last and snapshot.seconds >= self._at + _EVERY:
            say(f"{snapshot.seconds:5.1f} s  {text}")
            self._last, self._at = text, snapshot.seconds


def summary(last: Snapshot, fleet: Json, evidence_counts: Json, deliveries: Sequence[Json]) -> None:
    """What was submitted, what became of it, and despite which faults: at most 14 lines."""
    members = last.members
    by_evidence = evidence_counts["moves"]
    on_contract = sum(one["contract_id"] is not None for one in members)
    callbacks = evidence_counts["events"].get("callback", {"count": 0, "repeated": 0})
    one = most_eventful(last.records)
    facts(
        "summary",
        {
            "submitted": f"{last.submission['count']} VMs, all for the contract",
            "ready": sum(one["ready"] for one in members),
            "contract": f"{on_contract} on it, {len(members) - on_contract} on demand",
            "replaced": sum(one["replaced_by"] is not None for one in last.records),
            "callbacks": ", ".join(
                [
                    f"{_with_fault(deliveries, None)} due",
                    *(f"{_with_fault(deliveries, fault)} {fault}" for fault in ("lost", "repeated", "reordered")),
                ]
            ),
            "recorded": f"{callbacks['count']} deliveries, {callbacks['repeated']} of them repeats",
            "evidence": counts({_EVIDENCE.get(name, name): number for name, number in by_evidence.items()}),
            "provider calls": last.stats["calls"],
            "time to ready": ", ".join(
                f"{name} {span(seconds)}" for name, seconds in fleet["seconds_to_ready"].items() if seconds
            ),
            "took": f"{last.seconds:.0f} s",
            "look at": f"rollcall vm {one['provider_id']}, while rollcall demo --keep runs",
        },
    )


_EVIDENCE: Final = {"event": "by callback", "observation": "by refresh", "answer": "by answer", "decision": "decided"}


def most_eventful(records: Sequence[Json]) -> Json:
    """The VM with the longest timeline: a replacement, or else one that runs on demand, or any."""
    members = [one for one in records if one["member"]]
    replaced = [one for one in members if one["replaces"] is not None]
    on_demand = [one for one in members if one["contract_id"] is None]
    return (replaced or on_demand or members)[0]


def _with_fault(deliveries: Sequence[Json], fault: str | None) -> int:
    """How many callbacks had a fault, repeats counted once."""
    return len({(one["vm_id"], one["body"]) for one in deliveries if fault is None or fault in one["faults"]})


def _sorted(numbers: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(numbers.items()))

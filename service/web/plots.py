"""Geometry of the drawings: VMs by state over time, and the lanes of a timeline. Pure; the templates write the SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from service.queries.state_history import StateCounts

#: What is drawn as one area, from the bottom up. The names are CSS classes.
GROUPS: Final[Mapping[str, frozenset[str]]] = {
    "running": frozenset({"ACTIVE", "REBOOTING"}),
    "coming": frozenset({"CREATING", "BUILD", "STARTING", "RESTORING"}),
    "stopped": frozenset({"STOPPING", "SHUTOFF", "HIBERNATING", "HIBERNATED"}),
    "leaving": frozenset({"DELETING"}),
    "failed": frozenset({"ERROR", "LOST"}),
}
WIDTH: Final = 720
HEIGHT: Final = 180

_LANES: Final[Mapping[str, str]] = {
    "history": "provider",
    "callback": "callbacks",
    "call": "calls",
    "transition": "record",
    "unexpected": "record",
    "outcome": "record",
    "record": "record",
    "assignment": "record",
    "action": "people",
}
LANES: Final = ("people", "calls", "callbacks", "provider", "record")
_LANE_HEIGHT: Final = 26
_LEFT: Final = 90
_APART: Final = 11  #: between two entries of a lane, so that each can be pointed at


@dataclass(frozen=True, slots=True)
class Area:
    """One group of states: its class, how many there are now, and the points of its polygon."""

    name: str
    now: int
    points: str


@dataclass(frozen=True, slots=True)
class Mark:
    """An entry of a timeline: where it stands, its kind, and its number in the list."""

    x: float
    y: float
    kind: str
    number: int
    title: str


def areas(history: Sequence[StateCounts]) -> tuple[list[Area], int]:
    """Stacked areas of a state history, from the bottom up, and the number that the top edge stands for."""
    stacks = [_stack(one.by_state) for one in history]
    top = max(1, *(stack[-1] for stack in stacks))
    drawn = []
    for number, name in enumerate(GROUPS):
        lower = [stack[number] for stack in stacks]
        upper = [stack[number + 1] for stack in stacks]
        edge = [*_line(upper, top), *reversed(_line(lower, top))]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in edge)
        drawn.append(Area(name, upper[-1] - lower[-1], points))
    return drawn, top


def _stack(by_state: Mapping[str, int]) -> list[int]:
    """Running totals of the groups, from 0 on."""
    totals = [0]
    for states in GROUPS.values():
        totals.append(totals[-1] + sum(number for state, number in by_state.items() if state in states))
    return totals


def _line(numbers: Sequence[int], top: int) -> list[tuple[float, float]]:
    step = WIDTH / max(1, len(numbers) - 1)
    return [(i * step, HEIGHT - HEIGHT * number / top) for i, number in enumerate(numbers)]


def timeline_marks(items: Sequence[Mapping[str, Any]]) -> list[Mark]:
    """The entries of a timeline in lanes: by time, and never so close that one hides the next of its lane."""
    times = [datetime.fromisoformat(one["at"]).timestamp() for one in items]
    if not times:
        return []
    first, last = min(times), max(times)
    width = WIDTH - _LEFT - 10
    latest: dict[str, float] = {}
    marks = []
    for number, (one, time) in enumerate(zip(items, times, strict=True), 1):
        lane = _LANES.get(one["kind"], "record")
        x = _LEFT + width * (time - first) / ((last - first) or 1)
        latest[lane] = x = max(x, latest.get(lane, 0) + _APART)
        marks.append(Mark(x, lane_y(lane), one["kind"], number, f"{one['at'][:19]} {one['text']}"))
    return marks


def lane_y(lane: str) -> float:
    """Where the middle of a lane is."""
    return (LANES.index(lane) + 0.5) * _LANE_HEIGHT


def timeline_size(marks: Sequence[Mark]) -> tuple[float, float]:
    """The width and the height of the lanes."""
    return max([WIDTH, *(mark.x + 10 for mark in marks)]), len(LANES) * _LANE_HEIGHT


@dataclass(frozen=True, slots=True)
class Bar:
    """A horizontal bar: what it is of, where it stands, and its parts from the widest to the narrowest: class, width, value."""

    label: str
    y: int
    parts: Sequence[tuple[str, float, float]]


BARS_WIDTH: Final = 480
BAR_HEIGHT: Final = 22
_MOST_BARS: Final = 40


def bars(rows: Sequence[tuple[str, Sequence[tuple[str, float | None]]]], top: float | None = None) -> list[Bar]:
    """Bars below each other, of the first rows; `top` is the value that takes the whole width, the largest if left out."""
    rows = rows[:_MOST_BARS]
    largest = top or max((value for _, parts in rows for _, value in parts if value is not None), default=0) or 1
    return [
        Bar(
            label if len(label) <= 26 else f"{label[:25]}…",
            number * BAR_HEIGHT,
            [(name, BARS_WIDTH * value / largest, value) for name, value in parts if value is not None],
        )
        for number, (label, parts) in enumerate(rows)
    ]

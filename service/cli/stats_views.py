"""What people see of statistics: tables with bars. No calls, no printing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from service.cli.output import Column, span, time_of

Row = Mapping[str, Any]
_BAR: Final = 16
MEASURES: Final = ("p50", "p90", "p99")
#: A callback about a change of state came first, after a refresh had seen it, or not at all.
CHANGES: Final = ("in_time", "late", "lost")
#: Eighths of a character, so that a bar of 16 has 128 lengths.
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"


def bar(value: float | None, largest: float) -> str:
    """A horizontal bar; nothing for what is not known. What is there at all shows at least an eighth of a character."""
    if not value or largest <= 0:
        return ""
    eighths = max(1, round(_BAR * 8 * value / largest))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def times(by: str, rows: Sequence[Row]) -> tuple[Column, ...]:
    """The columns of the times to states, the slowest tenth as a bar."""
    return (
        Column(by, lambda row: row["key"], clips=True),
        Column("VMs", lambda row: row["vms"]),
        *(Column(f"{name} {one}", _time(name, one), wide=True) for name in ("creating", "active") for one in MEASURES),
        Column("ready", lambda row: row["ready"]["count"]),
        *(Column(one, _time("ready", one)) for one in MEASURES),
        Column("p90 to ready", _bars(rows, lambda row: row["ready"]["p90"])),
    )


def failures(rows: Sequence[Row]) -> tuple[Column, ...]:
    """The columns of what failed."""
    return (
        Column("failed", lambda row: f"{row['kind']} {row['what'].replace('_', ' ')}"),
        Column("count", lambda row: row["count"]),
        Column("", _bars(rows, lambda row: row["count"])),
        Column("reason", lambda row: row["reason"], wraps=True),
    )


FLEETS: Final = (
    Column("fleet", lambda row: row["submission_id"], short=lambda row: row["submission_id"][-12:]),
    Column("name", lambda row: row["name"], clips=True),
    Column("VMs", lambda row: row["asked"]),
    Column("available", lambda row: share(row["share"])),
    Column("of", lambda row: span(row["seconds"])),
    Column("starting", lambda row: span(row["starting_seconds"])),
    Column("", lambda row: bar(row["share"], 1.0)),
)


def callbacks(found: Row) -> dict[str, object]:
    """The callbacks of a period."""
    changes = found["changes"]
    return {
        "received": f"{found['received']}, {found['repeated']} of them again",
        "changes of state": changes,
        **{
            name.replace("_", " "): f"{found[name]} {_part(found[name], changes)} {bar(found[name], changes)}".rstrip()
            for name in CHANGES
        },
        "in histories": f"{found['history_operations']} operations, {found['history_unreported']} of them without a callback",
    }


def total(report: Row) -> dict[str, object]:
    """The period, all VMs and all fleets together."""
    everything = next((one for one in report["times"] if one["by"] == "all"), None)
    available = report["availability"]
    return {
        "since": time_of(report["since"]),
        "until": time_of(report["until"]),
        "VMs asked for": everything["vms"] if everything else 0,
        "to ready": None if everything is None else _line(everything["ready"]),
        "available": None
        if available["share"] is None
        else f"{share(available['share'])} of {span(available['seconds'])}",
    }


def share(value: float) -> str:
    """A share as a percentage. Only what is whole is called 100 %."""
    percent = min(99.999, value * 100) if value < 1 else 100.0
    return f"{percent:.3f}".rstrip("0").rstrip(".") + " %"


def _time(name: str, measure: str) -> Callable[[Row], str]:
    return lambda row: "" if row[name][measure] is None else span(row[name][measure])


def _line(found: Row) -> str | None:
    return ", ".join(f"{one} {span(found[one])}" for one in MEASURES) if found["count"] else None


def _bars(rows: Sequence[Row], read: Callable[[Row], float | None]) -> Callable[[Row], str]:
    largest = max((read(row) or 0 for row in rows), default=0)
    return lambda row: bar(read(row), largest)


def _part(value: int, whole: int) -> str:
    return f"({share(value / whole)})" if whole else ""
